"""Whether all weights of a model on disk are numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from cupyrec.errors import ModelError
from cupyrec.saving.safetensors_file import TensorSource, size_bytes_of


def check_finite(tensors: Mapping[str, TensorSource], where: Path, watch: Callable[[float], None]) -> None:
    """Read all weights, in blocks. Raises ModelError that names the first that is NaN or infinite."""
    total, done = max(sum(size_bytes_of(tensor) for tensor in tensors.values()), 1), 0
    for name, tensor in tensors.items():
        seen = 0
        for block in tensor.blocks():
            flat = block.reshape(-1)
            finite = np.isfinite(flat)
            if not finite.all():
                first = int(np.argmin(finite))
                place = ", ".join(str(int(index)) for index in np.unravel_index(seen + first, tensor.shape))
                raise ModelError(f"{where}: tensor {name}[{place}] is {flat[first]}: the weights cannot be used")
            seen, done = seen + flat.shape[0], done + flat.nbytes
            watch(done / total)
