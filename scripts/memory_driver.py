"""Memory calls of CUDA's driver that only the benchmark makes: names and numbers as in cuda.h.

Calls that CUDA 12.2 has given a new form have a name for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, ClassVar

from cupyrec.devices.memory_driver import CUmemLocation, MemoryDriver

# Of cuda.h, by the names that they have there.
CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS = 89
CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 141
CU_DEVICE_CPU = -1
CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_MEM_ADVISE_SET_ACCESSED_BY = 3, 5
CU_MEM_ATTACH_GLOBAL = 1
CU_MEMHOSTALLOC_PORTABLE, CU_MEMHOSTALLOC_DEVICEMAP = 1, 2


class BenchMemoryDriver(MemoryDriver):
    """The driver with these calls too. A stream is a pointer."""

    PROTOTYPES: ClassVar[Mapping[str, Sequence[Any]]] = {
        **MemoryDriver.PROTOTYPES,
        "cuCtxSynchronize": [],
        "cuMemHostAlloc": [POINTER(c_void_p), c_size_t, c_uint],
        "cuMemFreeHost": [c_void_p],
        "cuMemAllocManaged": [POINTER(c_uint64), c_size_t, c_uint],
        "cuMemFree_v2": [c_uint64],
        "cuMemAdvise": [c_uint64, c_size_t, c_int, c_int],
        "cuMemAdvise_v2": [c_uint64, c_size_t, c_int, CUmemLocation],
        "cuMemPrefetchAsync": [c_uint64, c_size_t, c_int, c_void_p],
        "cuMemPrefetchAsync_v2": [c_uint64, c_size_t, CUmemLocation, c_uint, c_void_p],
    }
