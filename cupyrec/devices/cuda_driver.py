"""What is queued most often, by CUDA's driver itself, called through ctypes.

CuPy lets another thread of Python go on during each of its calls. Where two threads queue, each call then waits for
the other thread to let it go on, which takes longer than the call. The calls here keep Python to themselves. None of
them waits for the device, unless its queue is full, and the device empties that without help.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from ctypes import c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupyrec.devices.cuda_kernel import CudaKernel, Parameter

DRIVER = "libcuda.so.1"
# cuLaunchKernel has no prototype: arguments that ctypes need not convert are passed in a third of the time.
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

    launch(stream, grid, block, arguments): queue the kernel; the number of an error, if any. Raises
    TypeError, ValueError as CudaKernel.check does. stream: a c_void_p; grid, block: three of Python's numbers each.
    """

    def __init__(self, calls: DriverCalls, kernel: CudaKernel, function: int, array_type: type) -> None:
        """function: the kernel, compiled; array_type: of device arrays, CuPy's."""
        parameters = kernel.parameters
        self._kernel, self._array_type = kernel, array_type
        self._packed = ctypes.create_string_buffer(SLOT_BYTES * len(parameters))
        self._slots = (c_void_p * len(parameters))()
        for place in range(len(parameters)):
            self._slots[place] = ctypes.addressof(self._packed) + SLOT_BYTES * place
        codes = ["Q" if each.is_array else _number_code(each.dtype) for each in parameters]
        # `flags` makes an object each time it is asked for, which takes longer than all else that is asked of an array.
        contiguous = "_c_contiguous" if hasattr(array_type, "_c_contiguous") else "flags.c_contiguous"
        self.launch: Callable[..., int | None] = _compiled(
            _launch_code(parameters, contiguous),
            check=self._check,
            array_type=array_type,
            pack_into=struct.Struct("".join(codes)).pack_into,
            packed=self._packed,
            queue=calls.launch,
            function=c_void_p(function),
            slots=self._slots,
            **{f"dtype_{place}": each.dtype for place, each in enumerate(parameters)},
            **{f"number_{place}": each.dtype.type for place, each in enumerate(parameters)},
        )

    def _check(self, arguments: Sequence[Any]) -> None:
        """Raise what is wrong; nothing is where the arguments are right, if of other classes than is usual."""
        self._kernel.check(arguments)
        for parameter, argument in zip(self._kernel.parameters, arguments, strict=True):
            if parameter.is_array and not isinstance(argument, self._array_type):
                raise TypeError(f"{self._kernel} is given a host array {argument.shape}, which is not on the device")


def _launch_code(parameters: Sequence[Parameter], contiguous: str) -> str:
    """The code of Launcher.launch for a kernel with these parameters.

    A step is dozens of launches. What is written out for each argument takes half the time of what goes through them.
    """
    usual, values = [f"len(arguments) == {len(parameters)}"], []
    for place, parameter in enumerate(parameters):
        argument = f"arguments[{place}]"
        if parameter.is_array:
            usual += [f"type({argument}) is array_type", f"{argument}.dtype is dtype_{place}"]
            usual += [f"{argument}.{contiguous}"]
            values += [f"{argument}.data.ptr"]
        else:
            usual += [f"type({argument}) is number_{place}"]
            values += [argument]
    return (
        "def launch(stream, grid, block, arguments):\n"
        f"    if not ({' and '.join(usual)}):\n"
        "        check(arguments)\n"
        f"    pack_into({', '.join(['packed', '0', *values])})\n"
        "    x, y, z = grid\n"
        "    threads_x, threads_y, threads_z = block\n"
        "    return queue(function, x, y, z, threads_x, threads_y, threads_z, 0, stream, slots, None)\n"
    )


def _compiled(code: str, **names: Any) -> Callable[..., int | None]:
    """The function `launch` of some code, which knows these names."""
    exec(code, names)
    launch: Callable[..., int | None] = names["launch"]
    return launch


def _number_code(dtype: np.dtype[Any]) -> str:
    """How `struct` packs a number and fills its slot."""
    return f"{CODE_OF[dtype.name]}{SLOT_BYTES - dtype.itemsize}x"
