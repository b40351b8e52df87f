"""Executes the CUDA kernels on the CPU: the same sources, compiled by g++ against cuda_on_cpu.h.

Beside running a kernel it finds faults in it, wherever a thread

- reads or writes outside the arrays that the kernel was given, its own variables and the shared memory of its block, or
  writes into a read-only array;
- uses an address that is not aligned for its type (float4 needs 16 bytes), goes beyond the end of an array of fixed
  size, overflows a signed integer, divides an integer by zero or shifts too far;
- waits for threads that never come.

Shared memory holds bytes of 0xCD until it is written. Where threads do not wait for each other as they must, results
differ between the ORDERS in which they run.

Dynamic shared memory is declared in a function of the .cu file, as `extern __shared__ unsigned char name[];`.
A kernel that waits for memory to change must do so by an atomic, __threadfence or __nanosleep. __activemask() names the
calling lane alone, as hardware may.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from cuda_on_cpu.build import STACK_BYTES, CompileError, library
from cupyrec.devices.cuda_kernel import CudaKernel

__all__ = ["ORDERS", "CompileError", "KernelFault", "run_kernel"]

# Ascending, descending: block after block, thread after thread, and each thread has its turn. First ahead, last ahead:
# of the threads of a block that may go on always the first one, or the last; the others starve. Shuffled: some blocks
# at once, and another thread may go on wherever memory is accessed; with an even number, threads that became ready last
# tend to go first, so that some run far ahead.
ORDERS = ("ascending", "descending", "shuffled-1", "shuffled-2", "first-ahead", "last-ahead")
KINDS = ("ascending", "descending", "shuffled", "first-ahead", "last-ahead")

SHARED_LIMIT = 96 * 1024  # bytes of a block, on the smallest GPU
STACKS = 2048  # at least the threads of a block
MESSAGE_BYTES = 1000


class KernelFault(RuntimeError):
    """A kernel did what no kernel may do."""


class _Array(ctypes.Structure):
    """As in scheduler.h."""

    _fields_ = (
        ("begin", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("element_bytes", ctypes.c_uint),
        ("is_writable", ctypes.c_int),
    )


class _Launch(ctypes.Structure):
    """As in scheduler.h."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("order", ctypes.c_int),
        ("seed", ctypes.c_ulonglong),
        ("stacks", ctypes.c_void_p),
        ("stack_bytes", ctypes.c_ulonglong),
        ("stack_count", ctypes.c_uint),
        ("array_count", ctypes.c_uint),
        ("arrays", ctypes.POINTER(_Array)),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("message", ctypes.c_char_p),
        ("message_bytes", ctypes.c_ulonglong),
    )


class _Stacks(threading.local):
    """The stacks for kernels that one thread of Python runs. A page of them takes memory once it is used."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, STACKS * STACK_BYTES)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))


_stacks = _Stacks()


def run_kernel(
    kernel: CudaKernel,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    arguments: Sequence[Any],
    *,
    shared_bytes: int = 0,
    order: str = "ascending",
) -> None:
    """Execute a kernel, to its end.

    grid, block: blocks, and threads of each, in up to three directions. arguments: NumPy arrays, which the kernel works
    on in place, and NumPy scalars. order: one of ORDERS, or shuffled-N for any number N; each gives the same results
    every time. Several threads may call it at once.

    Raises KernelFault (see above; what the kernel did until then is done), CompileError, and TypeError and ValueError
    on launches that CUDA would refuse. Skips the test where there is no g++.
    """
    kernel.check(arguments)
    grid, block = _three(grid), _three(block)
    _check_sizes(kernel, grid, block, shared_bytes)

    numbers = [np.array([_address(each) if isinstance(each, np.ndarray) else each]) for each in arguments]
    arrays = [
        _Array(_address(each), _address(each) + each.nbytes, name.encode(), each.itemsize, each.flags.writeable)
        for name, each in zip((parameter.name for parameter in kernel.parameters), arguments, strict=True)
        if isinstance(each, np.ndarray)
    ]
    message = ctypes.create_string_buffer(MESSAGE_BYTES)
    kind, _, seed = order.partition("-") if order.startswith("shuffled-") else (order, "", "0")
    launch = _Launch(
        grid=grid,
        block=block,
        shared_bytes=shared_bytes,
        order=KINDS.index(kind),
        seed=int(seed),
        stacks=_stacks.address,
        stack_bytes=STACK_BYTES,
        stack_count=STACKS,
        array_count=len(arrays),
        arrays=(_Array * len(arrays))(*arrays),
        arguments=(ctypes.c_void_p * len(numbers))(*(_address(number) for number in numbers)),
        message=ctypes.addressof(message),
        message_bytes=MESSAGE_BYTES,
    )
    library(kernel).launch(kernel.name, launch)
    if message.value:
        raise KernelFault(f"{kernel}: {message.value.decode()}")


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _three(size: int | Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*((size,) if isinstance(size, (int, np.integer)) else size), 1, 1)[:3]
    return int(x), int(y), int(z)


def _check_sizes(kernel: CudaKernel, grid: tuple[int, ...], block: tuple[int, ...], shared_bytes: int) -> None:
    """Raise ValueError where CUDA would refuse a launch."""
    if min(grid) < 1 or grid[0] >= 2**31 or max(grid[1:]) > 65535:
        raise ValueError(f"{kernel} on a grid of {grid}")
    if min(block) < 1 or np.prod(block) > 1024 or block[2] > 64:
        raise ValueError(f"{kernel} with blocks of {block} threads")
    if shared_bytes > SHARED_LIMIT:
        raise ValueError(f"{kernel} with {shared_bytes} bytes of dynamic shared memory")
