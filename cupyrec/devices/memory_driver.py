"""The calls of CUDA's driver for managed memory, through ctypes: names, layouts and numbers as in cuda.h."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, ClassVar

from cupyrec.devices.cuda_driver import DRIVER

# Of cuda.h, by the names that they have there.
CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS = 89
CU_DEVICE_CPU = -1
CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_MEM_ADVISE_SET_ACCESSED_BY = 3, 5
CU_MEM_ATTACH_GLOBAL = 1
CU_MEM_LOCATION_TYPE_DEVICE, CU_MEM_LOCATION_TYPE_HOST = 1, 2


class CUmemLocation(ctypes.Structure):
    """A device or the host."""

    _fields_ = (("type", c_int), ("id", c_int))


class HostMemoryError(Exception):
    """Host memory that is not to be had. The device is as it was, which it may not be after a DeviceError."""


class MemoryDriver:
    """The driver's calls for memory; the calling thread has a context, as any call of CuPy makes one."""

    # A device, an enumeration and an error are an int; an address has 64 bits; a stream is a pointer. Calls that CUDA
    # 12.2 has given a new form have a name for each.
    PROTOTYPES: ClassVar[Mapping[str, Sequence[Any]]] = {
        "cuGetErrorName": [c_int, POINTER(c_char_p)],
        "cuCtxGetDevice": [POINTER(c_int)],
        "cuCtxSynchronize": [],
        "cuDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
        "cuMemAllocManaged": [POINTER(c_uint64), c_size_t, c_uint],
        "cuMemFree_v2": [c_uint64],
        "cuMemAdvise": [c_uint64, c_size_t, c_int, c_int],
        "cuMemAdvise_v2": [c_uint64, c_size_t, c_int, CUmemLocation],
        "cuMemPrefetchAsync": [c_uint64, c_size_t, c_int, c_void_p],
        "cuMemPrefetchAsync_v2": [c_uint64, c_size_t, CUmemLocation, c_uint, c_void_p],
    }

    def __init__(self, name: str = DRIVER) -> None:
        """name: of the library. Raises HostMemoryError where it is not found."""
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise HostMemoryError(f"the NVIDIA driver cannot be loaded: {error}") from error
        for function, argument_types in self.PROTOTYPES.items():
            if self.has(function):
                getattr(self._library, function).argtypes = argument_types

    def has(self, function: str) -> bool:
        """Whether this version of the driver has it."""
        return hasattr(self._library, function)

    def call(self, function: str, *arguments: Any) -> None:
        """Raises HostMemoryError where the driver refuses, or has no such call."""
        if not self.has(function):
            raise HostMemoryError(f"the driver has no {function}")
        if status := getattr(self._library, function)(*arguments):
            name = c_char_p()
            self._library.cuGetErrorName(status, byref(name))
            raise HostMemoryError(f"{function}: {(name.value or b'error').decode()} ({status})")

    def device(self) -> int:
        """The device of the calling thread."""
        device = c_int()
        self.call("cuCtxGetDevice", byref(device))
        return device.value

    def attribute(self, number: int) -> int:
        """An attribute of the device."""
        value = c_int()
        self.call("cuDeviceGetAttribute", byref(value), number, self.device())
        return value.value

    def advise(self, address: int, size_bytes: int, advice: int, device: int) -> None:
        """Say where managed memory should be, or who uses it. device: may be CU_DEVICE_CPU."""
        if self.has("cuMemAdvise_v2"):
            self.call("cuMemAdvise_v2", address, size_bytes, advice, _location(device))
        else:
            self.call("cuMemAdvise", address, size_bytes, advice, device)

    def prefetch_to_host(self, address: int, size_bytes: int) -> None:
        """Have all of some managed memory on the host; waits for it, and for all of the device."""
        if self.has("cuMemPrefetchAsync_v2"):
            self.call("cuMemPrefetchAsync_v2", address, size_bytes, _location(CU_DEVICE_CPU), 0, None)
        else:
            self.call("cuMemPrefetchAsync", address, size_bytes, CU_DEVICE_CPU, None)
        self.call("cuCtxSynchronize")


def _location(device: int) -> CUmemLocation:
    """A device, or CU_DEVICE_CPU, as newer calls name it."""
    if device == CU_DEVICE_CPU:
        return CUmemLocation(CU_MEM_LOCATION_TYPE_HOST, 0)
    return CUmemLocation(CU_MEM_LOCATION_TYPE_DEVICE, device)
