"""Kinds of host memory that a GPU reaches: registered as cupyrec does it, or had from CUDA's driver.

registered  ordinary memory whose pages are locked when the host has touched them (cudaHostRegister)
created     physical memory of a node of the host, mapped to one address for host and device (cuMemCreate, cuMemMap)
allocated   page-locked memory that the driver takes (cuMemHostAlloc)
managed     memory that could move, kept on the host and mapped for the device (cuMemAllocManaged, cuMemAdvise)
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from ctypes import byref, c_float, c_uint64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from memory_driver import (
    CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS,
    CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
    CU_DEVICE_CPU,
    CU_MEM_ADVISE_SET_ACCESSED_BY,
    CU_MEM_ADVISE_SET_PREFERRED_LOCATION,
    CU_MEM_ATTACH_GLOBAL,
    CU_MEMHOSTALLOC_DEVICEMAP,
    CU_MEMHOSTALLOC_PORTABLE,
    BenchMemoryDriver,
)

from cupyrec.devices.created_memory import create_block
from cupyrec.devices.created_probe import tried
from cupyrec.devices.cupy_runtime import CupyRuntime
from cupyrec.devices.gpu import GpuDevice
from cupyrec.devices.host_memory import host_array
from cupyrec.devices.memory_driver import (
    CU_MEM_LOCATION_TYPE_DEVICE,
    CU_MEM_LOCATION_TYPE_HOST,
    CUmemLocation,
    HostMemoryError,
    MemoryDriver,
)

FLOAT_BYTES = 4
# Of /proc/self/smaps: the first line of a mapping, and those of its lines that tell of pages.
MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)$")
PAGE_FACTS = ("KernelPageSize", "AnonHugePages")


@dataclass
class Block:
    """Memory at one address for host and device.

    facts: what is worth keeping; settle: to be called when the host has touched all of it.
    """

    address: int
    facts: dict[str, Any] = field(default_factory=dict)
    settle: Callable[[], None] = lambda: None


@contextmanager
def allocated(driver: MemoryDriver, size_bytes: int) -> Iterator[Block]:
    """Page-locked memory that the driver takes."""
    pointer = c_void_p()
    driver.call("cuMemHostAlloc", byref(pointer), size_bytes, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP)
    try:
        yield Block(pointer.value or 0)
    finally:
        driver.call("cuMemFreeHost", pointer)


@contextmanager
def created(driver: MemoryDriver, size_bytes: int) -> Iterator[Block]:
    """As cupyrec has its tables with `--host-memory created`."""
    made = create_block(tried(driver), size_bytes)
    supported = CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    made.facts["host_numa_supported"] = driver.attribute(supported, -1)
    try:
        yield Block(made.address, made.facts)
    finally:
        made.give_back()


@contextmanager
def managed(driver: MemoryDriver, size_bytes: int) -> Iterator[Block]:
    """Memory that stays on the host, where the device reads and writes it without moving it."""
    # The host could not touch it, or would crash, while a kernel runs.
    if driver.attribute(CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 0) != 1:
        raise HostMemoryError("host and device cannot use managed memory at once here")
    address = c_uint64()
    driver.call("cuMemAllocManaged", byref(address), size_bytes, CU_MEM_ATTACH_GLOBAL)
    try:
        _advise(driver, address.value, size_bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_DEVICE_CPU)
        _advise(driver, address.value, size_bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, driver.device())
        block = Block(address.value)

        def settle() -> None:
            try:
                _prefetch_to_host(driver, address.value, size_bytes)
                block.facts["prefetched"] = True
            except HostMemoryError as error:  # it lies there even so, as the host has touched it
                block.facts["not_prefetched"] = str(error)

        block.settle = settle
        yield block
    finally:
        driver.call("cuMemFree_v2", address.value)


def _location(device: int) -> CUmemLocation:
    """A device, or CU_DEVICE_CPU, as newer calls name it."""
    if device == CU_DEVICE_CPU:
        return CUmemLocation(CU_MEM_LOCATION_TYPE_HOST, 0)
    return CUmemLocation(CU_MEM_LOCATION_TYPE_DEVICE, device)


def _advise(driver: MemoryDriver, address: int, size_bytes: int, advice: int, device: int) -> None:
    """Say where managed memory should be, or who uses it."""
    if driver.has("cuMemAdvise_v2"):
        driver.call("cuMemAdvise_v2", address, size_bytes, advice, _location(device))
    else:
        driver.call("cuMemAdvise", address, size_bytes, advice, device)


def _prefetch_to_host(driver: MemoryDriver, address: int, size_bytes: int) -> None:
    """Have all of it on the host; waits for it."""
    if driver.has("cuMemPrefetchAsync_v2"):
        driver.call("cuMemPrefetchAsync_v2", address, size_bytes, _location(CU_DEVICE_CPU), 0, None)
    else:
        driver.call("cuMemPrefetchAsync", address, size_bytes, CU_DEVICE_CPU, None)
    driver.call("cuCtxSynchronize")


@dataclass
class HostMemory:
    """array: (elements,) float32, host.

    settle: to be called once when the host has touched all of it; gives the same memory as a device array.
    """

    array: np.ndarray
    facts: dict[str, Any]
    settle: Callable[[], Any]


@contextmanager
def registered(device: GpuDevice, elements: int) -> Iterator[HostMemory]:
    """As cupyrec has its tables: it goes back when the arrays are gone."""
    array = host_array(elements, np.float32)

    def settle() -> Any:
        device.runtime.lock_pages(array)
        return device.runtime.mapped(array)

    yield HostMemory(array, {}, settle)


def driver_of(device: GpuDevice) -> MemoryDriver:
    """The driver behind a device. Raises HostMemoryError where there is none."""
    if not isinstance(device.runtime, CupyRuntime):
        raise HostMemoryError("this device has no driver of CUDA that would give memory of this kind")
    return BenchMemoryDriver()


def device_array_over(array: np.ndarray) -> Any:
    """A device array over a host array that the device reaches at the same address."""
    import cupy

    pointer, device = array.__array_interface__["data"][0], cupy.cuda.runtime.getDevice()
    memory = cupy.cuda.UnownedMemory(pointer, array.nbytes, array, device)
    return cupy.ndarray(array.shape, array.dtype, cupy.cuda.MemoryPointer(memory, 0))


def _from_driver(
    kind: Callable[[MemoryDriver, int], AbstractContextManager[Block]],
) -> Callable[[GpuDevice, int], AbstractContextManager[HostMemory]]:
    """Memory of the driver as arrays, which must be gone when it goes back, and so must all work on them."""

    @contextmanager
    def made(device: GpuDevice, elements: int) -> Iterator[HostMemory]:
        with kind(driver_of(device), elements * FLOAT_BYTES) as block:
            array = np.ctypeslib.as_array((c_float * elements).from_address(block.address))

            def settle() -> Any:
                block.settle()
                return device_array_over(array)

            yield HostMemory(array, block.facts, settle)

    return made


# By name, the most promising ones first: what makes so many elements of float32.
KINDS: dict[str, Callable[[GpuDevice, int], AbstractContextManager[HostMemory]]] = {
    "registered": registered,
    "created": _from_driver(created),
    "allocated": _from_driver(allocated),
    "managed": _from_driver(managed),
}


def page_facts(address: int, smaps: Path = Path("/proc/self/smaps")) -> dict[str, str]:
    """What the kernel says of the mapping that holds an address: its file and pages; nothing where it is not known."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError), smaps.open(encoding="utf-8", errors="replace") as lines:
        inside = False
        for line in lines:
            if mapping := MAPPING.match(line):
                if inside:
                    break
                if inside := int(mapping[1], 16) <= address < int(mapping[2], 16):
                    facts["mapping"] = mapping[3].strip() or "anonymous"
            elif inside:
                key, _, value = line.partition(":")
                if key in PAGE_FACTS:
                    facts[key] = value.strip()
    return facts
