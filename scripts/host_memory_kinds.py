"""Kinds of host memory that a GPU reaches: registered as cupyrec does it, or had from CUDA's driver.

registered  ordinary memory whose pages are locked when the host has touched them (cudaHostRegister)
allocated   page-locked memory that the driver takes (cuMemHostAlloc)
managed     as cupyrec has it with `--host-memory managed`, kept on the host and mapped for the device
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from ctypes import POINTER, byref, c_float, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cupyrec.devices.cupy_runtime import CupyRuntime
from cupyrec.devices.gpu import GpuDevice
from cupyrec.devices.host_memory import host_array
from cupyrec.devices.memory_driver import HostMemoryError, MemoryDriver

FLOAT_BYTES = 4
# Of cuda.h, by the names that they have there.
CU_MEMHOSTALLOC_PORTABLE, CU_MEMHOSTALLOC_DEVICEMAP = 1, 2
# Of /proc/self/smaps: the first line of a mapping, and those of its lines that tell of pages.
MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)$")
PAGE_FACTS = ("KernelPageSize", "AnonHugePages")


class BenchMemoryDriver(MemoryDriver):
    """The driver with the calls that only the benchmark makes too."""

    PROTOTYPES: ClassVar[Mapping[str, Sequence[Any]]] = {
        **MemoryDriver.PROTOTYPES,
        "cuMemHostAlloc": [POINTER(c_void_p), c_size_t, c_uint],
        "cuMemFreeHost": [c_void_p],
    }


@dataclass
class HostMemory:
    """array: (elements,) float32, host.

    settle: to be called once when the host has touched all of it; gives the same memory as a device array.
    """

    array: np.ndarray
    settle: Callable[[], Any]


@contextmanager
def registered(device: GpuDevice, elements: int) -> Iterator[HostMemory]:
    """As cupyrec has its tables: it goes back when the arrays are gone."""
    array = host_array(elements, np.float32)

    def settle() -> Any:
        device.runtime.lock_pages(array)
        return device.runtime.mapped(array)

    yield HostMemory(array, settle)


@contextmanager
def managed(device: GpuDevice, elements: int) -> Iterator[HostMemory]:
    """As cupyrec has its tables with `--host-memory managed`: it goes back when the arrays are gone."""
    array = device.runtime.managed(elements, np.float32)
    yield HostMemory(array, lambda: device.runtime.mapped(array))


@contextmanager
def allocated(device: GpuDevice, elements: int) -> Iterator[HostMemory]:
    """Page-locked memory that the driver takes; the arrays must be gone when it goes back, and all work on them."""
    driver, pointer = driver_of(device), c_void_p()
    flags = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP
    driver.call("cuMemHostAlloc", byref(pointer), elements * FLOAT_BYTES, flags)
    try:
        array = np.ctypeslib.as_array((c_float * elements).from_address(pointer.value or 0))
        yield HostMemory(array, lambda: device_array_over(array))
    finally:
        driver.call("cuMemFreeHost", pointer)


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


# By name, the most promising ones first: what makes so many elements of float32.
KINDS: dict[str, Callable[[GpuDevice, int], AbstractContextManager[HostMemory]]] = {
    "registered": registered,
    "managed": managed,
    "allocated": allocated,
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
