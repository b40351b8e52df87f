"""Small device arrays that a kernel writes to page-locked host memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.devices.gpu import BLOCK_THREADS, GpuStream
from cupyrec.errors import DeviceError
from cupyrec.kernels import kernel
from cupyrec.pipeline.growing_array import GrowingArray, Largest

# Enough to keep the link busy; others have work for the rest of the GPU.
MOST_TELL_BLOCKS = 8


class ToldArray:
    """Page-locked host memory into which a kernel writes values from the device.

    A copy would wait for the copy engine, which may have many megabytes of rows to move first, and all that is queued
    on its stream with it. Where pages cannot be locked it is a copy all the same.
    """

    def __init__(self, stream: GpuStream, dtype: Any, largest: Largest | None = None) -> None:
        """stream: any of the device; dtype: int32 or int64; largest: see GrowingArray."""
        self._dtype = np.dtype(dtype)
        self._memory = GrowingArray(stream, dtype, on_host=True, on_device=False, largest=largest)
        self._tell = kernel("tell", f"tell_{self._dtype.name}")
        self._whole: Any = None
        self._mapped: Any = None

    def tell(self, stream: GpuStream, source: Any) -> np.ndarray:
        """Queue the transfer of source, (n,), device; returns where the numbers will be on the host, (n,)."""
        items = source.shape[0]
        self._memory.reserve(items)
        told, whole = self._memory.host(items), self._memory.whole_host
        if told.shape != source.shape:
            raise ValueError(f"room for {told.shape[0]} numbers, where {items} are told")
        if whole is not self._whole:
            self._whole, self._mapped = whole, _mapped(stream, whole)
        if self._mapped is None:
            stream.copy(source, told)
        else:
            blocks = min(-(-items // BLOCK_THREADS), MOST_TELL_BLOCKS)
            stream.launch(self._tell, blocks, BLOCK_THREADS, source, self._mapped, np.int64(items))
        return told


def _mapped(stream: GpuStream, array: np.ndarray) -> Any:
    """As the device reaches it; None where it does not."""
    try:
        return stream.runtime.mapped(array)
    except DeviceError:
        return None
