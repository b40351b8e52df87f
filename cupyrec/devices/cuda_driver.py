"""What is queued most often, by CUDA's driver itself, called through ctypes.

CuPy lets another thread of Python go on during each of its calls. Where two threads queue, each call then waits for
the other thread to let it go on, which takes longer than the call. The calls here keep Python to themselves; none of
them waits for the device, but where it is full of work, which it gets done by itself.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from ctypes import c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from cupyrec.devices.cuda_kernel import CudaKernel

DRIVER = "libcuda.so.1"
# cuLaunchKernel has none: what ctypes need not convert takes it a third of the time.
PROTOTYPES: dict[str, list[Any]] = {
    "cuEventRecord": [c_void_p, c_void_p],
    "cuStreamWaitEvent": [c_void_p, c_void_p, c_uint],
    "cuMemcpyAsync": [c_void_p, c_void_p, c_size_t, c_void_p],
    "cuGraphLaunch": [c_void_p, c_void_p],
    "cuEventQuery": [c_void_p],
}
# What cuEventQuery answers for an event that is not done.
NOT_READY = 600
# Each argument has a slot of this size, which suits the largest of them.
SLOT_BYTES = 8
# How `struct` packs a number.
CODE_OF = {"float32": "f", "float64": "d", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q", "uint8": "B"}
DTYPE, POINTER = attrgetter("dtype"), attrgetter("data.ptr")


@dataclass(frozen=True)
class DriverCalls:
    """Calls that give the number of an error, and nothing or 0 where there is none.

    launch: as cuLaunchKernel, the pointers as ctypes objects, the numbers as Python's.
    record: (event, stream); wait: (stream, event, 0); copy: (target, source, bytes, stream); replay: (graph, stream);
    query: (event,), whose number is NOT_READY where the event is not done. Pointers as Python numbers.
    """

    launch: Callable[..., int | None]
    record: Callable[[int, int], int | None]
    wait: Callable[[int, int, int], int | None]
    copy: Callable[[int, int, int, int], int | None]
    replay: Callable[[int, int], int | None]
    query: Callable[[int], int | None]


def load_driver(name: str = DRIVER) -> DriverCalls:
    """The calls of the driver. Raises OSError where it is not found."""
    # Not CDLL, which lets other threads go on.
    library = ctypes.PyDLL(name)
    for function, argument_types in PROTOTYPES.items():
        getattr(library, function).argtypes = argument_types
    return DriverCalls(library.cuLaunchKernel, *(getattr(library, function) for function in PROTOTYPES))


class Launcher:
    """Checks the arguments of one kernel, packs them and launches it.

    They are packed into memory of its own, which CUDA has read when the launch returns: for one thread at a time.
    """

    def __init__(self, calls: DriverCalls, kernel: CudaKernel, function: int, array_type: type) -> None:
        """function: the kernel, compiled; array_type: of device arrays, CuPy's."""
        parameters = kernel.parameters
        self._launch, self._function = calls.launch, c_void_p(function)
        self._kernel, self._array_type = kernel, array_type
        arrays = [place for place, parameter in enumerate(parameters) if parameter.is_array]
        numbers = [place for place, parameter in enumerate(parameters) if not parameter.is_array]
        self._arrays_of, self._numbers_of = _picker(arrays), _picker(numbers)
        self._types = tuple(array_type if parameter.is_array else parameter.dtype.type for parameter in parameters)
        self._dtypes = tuple(parameters[place].dtype for place in arrays)
        # `flags` makes an object each time it is asked for, which takes longer than all else that is asked of an array.
        contiguous = "_c_contiguous" if hasattr(array_type, "_c_contiguous") else "flags.c_contiguous"
        self._is_contiguous = attrgetter(contiguous)
        # Arrays first, then numbers; each parameter is told where its own slot is.
        codes = [_number_code(parameters[place].dtype) for place in numbers]
        self._pack_into = struct.Struct("Q" * len(arrays) + "".join(codes)).pack_into
        self._packed = ctypes.create_string_buffer(SLOT_BYTES * len(parameters))
        self._slots = (c_void_p * len(parameters))()
        for slot, place in enumerate(arrays + numbers):
            self._slots[place] = ctypes.addressof(self._packed) + SLOT_BYTES * slot

    def launch(
        self, stream: c_void_p, grid: Sequence[int], block: Sequence[int], shared_bytes: int, arguments: Sequence[Any]
    ) -> int | None:
        """Queue the kernel; the number of an error, if any. Raises TypeError, ValueError as CudaKernel.check does."""
        # Where all is as usual nothing is looked at by Python code, argument by argument.
        if tuple(map(type, arguments)) != self._types:
            self._check(arguments)
        arrays = self._arrays_of(arguments)
        if tuple(map(DTYPE, arrays)) != self._dtypes or not all(map(self._is_contiguous, arrays)):
            self._check(arguments)
        self._pack_into(self._packed, 0, *map(POINTER, arrays), *self._numbers_of(arguments))
        (x, y, z), (threads_x, threads_y, threads_z) = grid, block
        return self._launch(
            self._function, x, y, z, threads_x, threads_y, threads_z, shared_bytes, stream, self._slots, None
        )

    def _check(self, arguments: Sequence[Any]) -> None:
        """Raise what is wrong; nothing is where the arguments are right, if of other classes than is usual."""
        self._kernel.check(arguments)
        for array in self._arrays_of(arguments):
            if not isinstance(array, self._array_type):
                raise TypeError(f"{self._kernel} is given a host array {array.shape}, which is not on the device")


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """What gives those places of a sequence, which ascend, as a sequence."""
    if not places:
        return itemgetter(slice(0))
    first, last = places[0], places[-1]
    return itemgetter(slice(first, last + 1)) if last - first == len(places) - 1 else itemgetter(*places)


def _number_code(dtype: np.dtype[Any]) -> str:
    """How `struct` packs a number and fills its slot."""
    return f"{CODE_OF[dtype.name]}{SLOT_BYTES - dtype.itemsize}x"
