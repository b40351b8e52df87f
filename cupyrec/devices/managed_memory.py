"""Managed memory of CUDA's driver that stays on the host, where a GPU reads and writes it without moving it.

To a GPU, locked pages of an ordinary array are 4 kB each, even where the host uses huge pages, and random reads over
many gigabytes need an address translation each. The driver maps managed memory otherwise: an H100 read random rows of
512 bytes out of 8 GB of it at 44 GB/s, and at 16 out of locked pages.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Sequence
from ctypes import byref, c_ubyte, c_uint64
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupyrec.byte_sizes import format_bytes
from cupyrec.devices.capturing import Capturing
from cupyrec.devices.host_memory import array_of_all_views
from cupyrec.devices.memory_driver import (
    CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS,
    CU_DEVICE_CPU,
    CU_MEM_ADVISE_SET_ACCESSED_BY,
    CU_MEM_ADVISE_SET_PREFERRED_LOCATION,
    CU_MEM_ATTACH_GLOBAL,
    HostMemoryError,
    MemoryDriver,
)
from cupyrec.errors import DeviceMemoryError


@dataclass
class ManagedBlock:
    """Memory at one address for host and device."""

    address: int
    size_bytes: int
    is_settled: bool = False


class ManagedMemory:
    """Arrays in managed memory, which goes back when they and their views are gone. Any thread may ask.

    The driver may wait for the device to take it, to settle it and to free it: all is done between captures.
    """

    def __init__(self, driver: Callable[[], MemoryDriver], capturing: Capturing) -> None:
        """driver: gives the driver, and the calling thread a context, before each use. Raises HostMemoryError."""
        self._driver, self._capturing = driver, capturing
        self._blocks: dict[int, ManagedBlock] = {}

    def __contains__(self, array: np.ndarray) -> bool:
        """Whether an array, or the one that it is a view of, was made here."""
        return id(array_of_all_views(array)) in self._blocks

    def array(self, shape: int | Sequence[int], dtype: Any) -> np.ndarray:
        """Of whatever values, C-contiguous. Raises DeviceMemoryError."""
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size_bytes = dtype.itemsize * math.prod(shape)
        if not size_bytes:
            return np.empty(shape, dtype)
        try:
            with self._capturing.between():
                block = _allocate(self._driver(), size_bytes)
        except HostMemoryError as error:
            raise DeviceMemoryError(
                f"{format_bytes(size_bytes)} of managed memory cannot be had from CUDA's driver: {error}"
            ) from error
        array: np.ndarray = np.ndarray(shape, dtype, buffer=(c_ubyte * size_bytes).from_address(block.address))
        owner = array_of_all_views(array)
        self._blocks[id(owner)] = block
        weakref.finalize(owner, self._note_freed, id(owner)).atexit = False
        return array

    def settle(self, array: np.ndarray) -> None:
        """Have on the host, once, all of the memory that an array made here is in: for kernels that are to read it."""
        block = self._blocks[id(array_of_all_views(array))]
        with self._capturing.between():
            if not block.is_settled:
                # It lies there even without, as the host has written it.
                with contextlib.suppress(HostMemoryError):
                    self._driver().prefetch_to_host(block.address, block.size_bytes)
                block.is_settled = True

    def _note_freed(self, owner: int) -> None:
        block = self._blocks.pop(owner)
        self._capturing.as_soon_as_can_be(lambda: self._free(block))

    def _free(self, block: ManagedBlock) -> None:
        # Nobody is left whom an error would help. CuPy's are RuntimeErrors.
        with contextlib.suppress(HostMemoryError, RuntimeError):
            self._driver().call("cuMemFree_v2", block.address)


def _allocate(driver: MemoryDriver, size_bytes: int) -> ManagedBlock:
    """Memory that is to stay on the host and be mapped for the device. Raises HostMemoryError, with nothing taken."""
    # Elsewhere the host would crash if it touched it while a kernel runs.
    if driver.attribute(CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS) != 1:
        raise HostMemoryError("host and GPU cannot use such memory at the same time here")
    address = c_uint64()
    driver.call("cuMemAllocManaged", byref(address), size_bytes, CU_MEM_ATTACH_GLOBAL)
    try:
        driver.advise(address.value, size_bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_DEVICE_CPU)
        driver.advise(address.value, size_bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, driver.device())
    except HostMemoryError:
        with contextlib.suppress(HostMemoryError):
            driver.call("cuMemFree_v2", address.value)
        raise
    return ManagedBlock(address.value, size_bytes)
