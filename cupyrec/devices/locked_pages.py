"""Host memory whose pages are locked for a GPU."""

from __future__ import annotations

import contextlib
import weakref
from functools import partial
from typing import Any

import numpy as np

from cupyrec.byte_sizes import format_bytes
from cupyrec.devices.capturing import Capturing
from cupyrec.devices.host_memory import array_of_all_views
from cupyrec.errors import DeviceMemoryError, first_line


class LockedPages:
    """Locks pages for as long as their array lives. Any thread may ask.

    CUDA may wait for the whole device to lock or unlock, which spoils a graph that is being captured, and it refuses
    to unlock then. So both are done between captures: what is freed meanwhile keeps its memory until then, or the
    next array at the same address could not be locked.
    """

    def __init__(self, cuda: Any, capturing: Capturing) -> None:
        """cuda: CuPy's runtime calls."""
        self._cuda, self._capturing = cuda, capturing
        self._owners: set[int] = set()

    def __contains__(self, array: np.ndarray) -> bool:
        """Whether the pages of an array, or of the one that it is a view of, were locked here."""
        return id(array_of_all_views(array)) in self._owners

    def lock(self, array: np.ndarray) -> None:
        """Lock the pages of an array and all its views. Raises DeviceMemoryError."""
        pointer, owner = array.__array_interface__["data"][0], array_of_all_views(array)
        # Portable: for all contexts; mapped: kernels reach it. The bits are cudaHostRegister's too.
        flags = self._cuda.hostAllocPortable | self._cuda.hostAllocMapped
        with self._capturing.between():
            try:
                self._cuda.hostRegister(pointer, array.nbytes, flags)
            except RuntimeError as error:
                raise DeviceMemoryError(
                    f"the pages of {format_bytes(array.nbytes)} of host memory cannot be locked: {first_line(error)}; "
                    "locked memory must fit in memory, in the control group (container) and in `ulimit -l`"
                ) from error
        self._owners.add(id(owner))
        weakref.finalize(owner, self._note_freed, pointer, owner.base, id(owner)).atexit = False

    def _note_freed(self, pointer: int, memory: Any, owner: int) -> None:
        self._owners.discard(owner)
        self._capturing.as_soon_as_can_be(partial(self._unlock, pointer, memory))

    def _unlock(self, pointer: int, memory: Any) -> None:
        """memory: only kept until then."""
        # Nobody is left whom an error would help.
        with contextlib.suppress(RuntimeError):
            self._cuda.hostUnregister(pointer)
