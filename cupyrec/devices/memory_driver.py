"""The memory calls of CUDA's driver, through ctypes: names, layouts and numbers as in cuda.h."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_ushort, c_void_p
from typing import Any, ClassVar

from cupyrec.devices.cuda_driver import DRIVER

# Of cuda.h, by the names that they have there.
CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID = 134
CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3
CU_MEM_ALLOCATION_TYPE_PINNED = 1
CU_MEM_ALLOC_GRANULARITY_RECOMMENDED = 1
CU_MEM_LOCATION_TYPE_DEVICE, CU_MEM_LOCATION_TYPE_HOST, CU_MEM_LOCATION_TYPE_HOST_NUMA = 1, 2, 3


class CUmemLocation(ctypes.Structure):
    """A device or a node of the host."""

    _fields_ = (("type", c_int), ("id", c_int))


class AllocationFlags(ctypes.Structure):
    """`allocFlags` of CUmemAllocationProp."""

    _fields_ = (
        ("compressionType", c_ubyte),
        ("gpuDirectRDMACapable", c_ubyte),
        ("usage", c_ushort),
        ("reserved", c_ubyte * 4),
    )


class CUmemAllocationProp(ctypes.Structure):
    """What physical memory is to be like."""

    _fields_ = (
        ("type", c_int),
        ("requestedHandleTypes", c_int),
        ("location", CUmemLocation),
        ("win32HandleMetaData", c_void_p),
        ("allocFlags", AllocationFlags),
    )


class CUmemAccessDesc(ctypes.Structure):
    """Who may do what with an address range."""

    _fields_ = (("location", CUmemLocation), ("flags", c_int))


class HostMemoryError(Exception):
    """Host memory that is not to be had. The device is as it was, which it may not be after a DeviceError."""


class MemoryDriver:
    """The driver's calls for memory; the calling thread has a context, as any call of CuPy makes one."""

    # A device, an enumeration and an error are an int; an address and a handle have 64 bits.
    PROTOTYPES: ClassVar[Mapping[str, Sequence[Any]]] = {
        "cuGetErrorName": [c_int, POINTER(c_char_p)],
        "cuInit": [c_uint],
        "cuDeviceGet": [POINTER(c_int), c_int],
        "cuDevicePrimaryCtxRetain": [POINTER(c_void_p), c_int],
        "cuCtxSetCurrent": [c_void_p],
        "cuCtxGetDevice": [POINTER(c_int)],
        "cuDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
        "cuMemGetAllocationGranularity": [POINTER(c_size_t), POINTER(CUmemAllocationProp), c_int],
        "cuMemCreate": [POINTER(c_uint64), c_size_t, POINTER(CUmemAllocationProp), c_uint64],
        "cuMemRelease": [c_uint64],
        "cuMemAddressReserve": [POINTER(c_uint64), c_size_t, c_size_t, c_uint64, c_uint64],
        "cuMemAddressFree": [c_uint64, c_size_t],
        "cuMemMap": [c_uint64, c_size_t, c_size_t, c_uint64, c_uint64],
        "cuMemUnmap": [c_uint64, c_size_t],
        "cuMemSetAccess": [c_uint64, c_size_t, POINTER(CUmemAccessDesc), c_size_t],
    }

    def __init__(self, name: str = DRIVER) -> None:
        """name: of the library. Raises HostMemoryError where it is not found."""
        self.name = name
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

    def attribute(self, number: int, otherwise: int) -> int:
        """An attribute of the device; `otherwise` where the driver does not know it."""
        value = c_int()
        try:
            self.call("cuDeviceGetAttribute", byref(value), number, self.device())
        except HostMemoryError:
            return otherwise
        return value.value
