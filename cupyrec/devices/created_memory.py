"""Host memory that CUDA's driver creates: physical memory of a node of the host, mapped for host and device.

To a GPU, locked pages of an ordinary array are 4 kB each, even where the host uses huge pages; random reads over many
gigabytes then need an address translation each. What the driver creates may have larger ones.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from ctypes import byref, c_size_t, c_ubyte, c_uint64
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from cupyrec.byte_sizes import format_bytes
from cupyrec.devices.capturing import Capturing
from cupyrec.devices.host_memory import HUGE_PAGE_BYTES, array_of_all_views
from cupyrec.devices.memory_driver import (
    CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID,
    CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    CU_MEM_ALLOC_GRANULARITY_RECOMMENDED,
    CU_MEM_ALLOCATION_TYPE_PINNED,
    CU_MEM_LOCATION_TYPE_DEVICE,
    CU_MEM_LOCATION_TYPE_HOST,
    CU_MEM_LOCATION_TYPE_HOST_NUMA,
    CUmemAccessDesc,
    CUmemAllocationProp,
    CUmemLocation,
    HostMemoryError,
    MemoryDriver,
)
from cupyrec.errors import DeviceMemoryError


@dataclass
class CreatedBlock:
    """Memory at one address for host and device, until give_back is called. facts: what is worth keeping."""

    address: int
    give_back: Callable[[], None]
    facts: dict[str, Any] = field(default_factory=dict)


def create_block(driver: MemoryDriver, size_bytes: int) -> CreatedBlock:
    """Memory of the host's node next to the device, or, of drivers that give it, of the host without a node.

    Where a control group keeps a process from choosing nodes the driver may refuse the first; the second is refused by
    those before CUDA 13. Raises HostMemoryError.
    """
    # A system without NUMA says -1, which is no node.
    node = max(driver.attribute(CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, -1), 0)
    refusals = []
    for location in (
        CUmemLocation(CU_MEM_LOCATION_TYPE_HOST_NUMA, node),
        CUmemLocation(CU_MEM_LOCATION_TYPE_HOST, 0),
    ):
        try:
            block = _create_at(driver, size_bytes, location)
        except HostMemoryError as error:
            refusals.append(f"location {location.type}: {error}")
            continue
        if refusals:
            block.facts["refused"] = "; ".join(refusals)
        return block
    raise HostMemoryError("; ".join(refusals))


def _create_at(driver: MemoryDriver, size_bytes: int, location: CUmemLocation) -> CreatedBlock:
    """Physical memory mapped for the device and for where it lies. What was done is undone, the last first."""
    wanted = CUmemAllocationProp(type=CU_MEM_ALLOCATION_TYPE_PINNED, location=location)
    granularity, handle, address = c_size_t(), c_uint64(), c_uint64()
    recommended = CU_MEM_ALLOC_GRANULARITY_RECOMMENDED
    driver.call("cuMemGetAllocationGranularity", byref(granularity), byref(wanted), recommended)
    size = -(-size_bytes // granularity.value) * granularity.value
    with ExitStack() as undo:
        # Aligned for large pages, whatever the granularity of the physical memory.
        alignment = max(granularity.value, HUGE_PAGE_BYTES)
        driver.call("cuMemAddressReserve", byref(address), size, alignment, 0, 0)
        undo.callback(driver.call, "cuMemAddressFree", address.value, size)
        driver.call("cuMemCreate", byref(handle), size, byref(wanted), 0)
        undo.callback(driver.call, "cuMemRelease", handle.value)
        driver.call("cuMemMap", address.value, size, 0, handle.value, 0)
        undo.callback(driver.call, "cuMemUnmap", address.value, size)
        places = CUmemLocation(CU_MEM_LOCATION_TYPE_DEVICE, driver.device()), location
        for place in places:
            access = CUmemAccessDesc(place, CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
            driver.call("cuMemSetAccess", address.value, size, byref(access), 1)
        facts = {"location_type": location.type, "location_id": location.id, "granularity_bytes": granularity.value}
        return CreatedBlock(address.value, undo.pop_all().close, facts)


class CreatedMemory:
    """Arrays in created memory, which goes back when they and their views are gone. Any thread may ask.

    The driver may wait for the device to map and to unmap: both are done between captures.
    """

    def __init__(self, load: Callable[[], MemoryDriver], capturing: Capturing) -> None:
        """load: the driver, called when the first array is asked for."""
        self._load, self._capturing = load, capturing
        self._driver: MemoryDriver | None = None
        self._owners: set[int] = set()

    def __contains__(self, array: np.ndarray) -> bool:
        """Whether an array, or the one that it is a view of, was made here."""
        return id(array_of_all_views(array)) in self._owners

    def array(self, shape: int | Sequence[int], dtype: Any) -> np.ndarray:
        """Of whatever values, C-contiguous. The calling thread has a context. Raises DeviceMemoryError."""
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size_bytes = dtype.itemsize * math.prod(shape)
        if not size_bytes:
            return np.empty(shape, dtype)
        try:
            with self._capturing.between():
                self._driver = self._driver or self._load()
                block = create_block(self._driver, size_bytes)
        except HostMemoryError as error:
            raise DeviceMemoryError(
                f"{format_bytes(size_bytes)} of host memory cannot be had from CUDA's driver: {error}; it takes a "
                "driver of CUDA 12.2 or newer, a GPU that two processes may use, and a container that lets them choose "
                "nodes of memory"
            ) from error
        array: np.ndarray = np.ndarray(shape, dtype, buffer=(c_ubyte * size_bytes).from_address(block.address))
        owner = array_of_all_views(array)
        self._owners.add(id(owner))
        weakref.finalize(owner, self._note_freed, block, id(owner)).atexit = False
        return array

    def _note_freed(self, block: CreatedBlock, owner: int) -> None:
        self._owners.discard(owner)
        self._capturing.as_soon_as_can_be(partial(_give_back, block))


def _give_back(block: CreatedBlock) -> None:
    # Nobody is left whom an error would help.
    with contextlib.suppress(HostMemoryError):
        block.give_back()
