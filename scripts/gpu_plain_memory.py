"""A plugin of pytest, for compute-sanitizer: every device array is an allocation of its own.

CuPy's pool cuts arrays from larger pieces, within which an access beyond an array goes unseen.
"""

import cupy

cupy.cuda.set_allocator(None)
