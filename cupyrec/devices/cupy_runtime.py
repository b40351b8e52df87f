"""CUDA through CuPy. CuPy is loaded when the first runtime is made, or when it is asked whether there is a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cupyrec.devices.capturing import capturing_on
from cupyrec.devices.cublas import WORKSPACE_BYTES, Cublas, load_cublas
from cupyrec.devices.cuda_driver import NOT_READY, DriverCalls, Launcher, load_driver
from cupyrec.devices.cuda_kernel import CudaKernel
from cupyrec.devices.cuda_runtime import HIGHEST_PRIORITY
from cupyrec.devices.cupy_check import why_no_gpu
from cupyrec.devices.cupy_errors import device_error, in_our_errors
from cupyrec.devices.cupy_kernels import CompiledKernels
from cupyrec.devices.host_memory import host_array
from cupyrec.devices.locked_pages import LockedPages
from cupyrec.devices.managed_memory import ManagedMemory
from cupyrec.devices.memory_driver import MemoryDriver
from cupyrec.errors import DeviceError, first_line


class CupyStream:
    """A stream and, once it has multiplied, its handle of cuBLAS."""

    def __init__(self, name: str, stream: Any) -> None:
        self.name, self.stream, self.pointer = name, stream, stream.ptr
        self.argument = ctypes.c_void_p(stream.ptr)
        self.cublas: Cublas | None = None


class CallingThread(threading.local):
    """What each thread that queues work has of its own; made when it first does."""

    def __init__(self, calls: DriverCalls, enter: Callable[[], Any]) -> None:
        """enter: makes the GPU known to a thread, without which the driver refuses its calls."""
        enter()
        self.calls = calls
        self.launchers: dict[CudaKernel, Launcher] = {}


class CupyRuntime:
    """A CudaRuntime: device 0 of those that CUDA_VISIBLE_DEVICES shows.

    Device memory comes from CuPy's pool and goes back there at once when its arrays are gone, even while work that is
    queued still uses it, and the pool may give it to whoever asks next. So an array is dropped only after the work on
    it is done: that of one stream after its event, that of several after synchronize_all. The same holds for host
    arrays that are page-locked, and for all that a graph uses, as long as it is replayed.
    """

    def __init__(self) -> None:
        """Raises DeviceError where there is no GPU that can be used."""
        if reason := why_no_gpu():
            raise DeviceError(reason)
        import cupy

        self._cupy, self._cuda = cupy, cupy.cuda.runtime
        self._cublas_library = load_cublas(cupy.cuda.cublas.__file__)
        self._device = self._cuda.getDevice()
        self._capturing = capturing_on(self._device)
        self._locked = LockedPages(self._cuda, self._capturing)
        self._managed = ManagedMemory(self._memory_driver, self._capturing)
        self._kernels = CompiledKernels(cupy, self._capturing)
        try:
            calls = load_driver()
        except OSError as error:
            raise DeviceError(f"the NVIDIA driver cannot be loaded: {error}") from error
        # Any call of CUDA's runtime, as this one is, makes the GPU known to the thread.
        self._thread = CallingThread(calls, in_our_errors(self._cuda.memGetInfo))

    @in_our_errors
    def describe(self) -> dict[str, Any]:
        properties = self._cuda.getDeviceProperties(self._device)
        return {
            "name": properties["name"].decode(),
            "compute_capability": f"{properties['major']}.{properties['minor']}",
            "multiprocessors": int(properties["multiProcessorCount"]),
            "memory_bytes": int(properties["totalGlobalMem"]),
            "driver_version": _version(self._cuda.driverGetVersion()),
            "runtime_version": _version(self._cuda.runtimeGetVersion()),
            "cupy_version": self._cupy.__version__,
            "numpy_version": np.__version__,
        }

    @in_our_errors
    def memory_bytes(self) -> tuple[int, int]:
        free, total = self._cuda.memGetInfo()
        return free + self._cupy.get_default_memory_pool().free_bytes(), total

    @in_our_errors
    def empty(self, shape: int | Sequence[int], dtype: Any) -> Any:
        # Where memory is short, CuPy frees what it keeps, and waits for the device.
        with self._capturing.between():
            return self._cupy.empty(shape, dtype)

    @in_our_errors
    def page_locked(self, shape: int | Sequence[int], dtype: Any) -> np.ndarray:
        # Pages of its own, and huge ones where it is large: the host's threads read tables in random order.
        array = host_array(shape, dtype)
        self.lock_pages(array)
        return array

    @in_our_errors
    def lock_pages(self, array: np.ndarray) -> None:
        # The device reaches managed memory as it is.
        if array.nbytes and array not in self._managed:
            self._locked.lock(array)

    @in_our_errors
    def managed(self, shape: int | Sequence[int], dtype: Any) -> np.ndarray:
        return self._managed.array(shape, dtype)

    def is_managed(self, array: np.ndarray) -> bool:
        return array in self._managed

    def _memory_driver(self) -> MemoryDriver:
        self._cuda.memGetInfo()  # makes the GPU known to the thread
        return MemoryDriver()

    @in_our_errors
    def mapped(self, array: np.ndarray) -> Any:
        if not array.nbytes:
            return self._cupy.empty(array.shape, array.dtype)
        memory = self._cupy.cuda.UnownedMemory(self._device_address(array), array.nbytes, array, self._device)
        return self._cupy.ndarray(array.shape, array.dtype, self._cupy.cuda.MemoryPointer(memory, 0))

    def _device_address(self, array: np.ndarray) -> int:
        """Where the device reaches a host array. Raises DeviceError where it does not."""
        begin = _host_pointer(array)
        if array in self._managed:
            self._managed.settle(array)
            return begin
        first, last = (self._cuda.pointerGetAttributes(at) for at in (begin, begin + array.nbytes - 1))
        if {first.type, last.type} != {self._cuda.memoryTypeHost}:
            raise DeviceError(f"a host array {array.shape} whose pages are not locked cannot be mapped")
        return first.devicePointer

    @in_our_errors
    def stream(self, name: str, *, priority: int = HIGHEST_PRIORITY) -> CupyStream:
        # Non-blocking: no order with CUDA's default stream. A GPU that has fewer priorities takes the highest it has.
        return CupyStream(name, self._cupy.cuda.Stream(non_blocking=True, priority=priority))

    @in_our_errors
    def event(self, *, timed: bool = False) -> Any:
        # Blocking: a thread that waits sleeps, because there are as many of them as stages, and the host's cores have
        # rows to gather; to wake up takes some 20 us.
        return self._cupy.cuda.Event(block=True, disable_timing=not timed)

    def record(self, event: Any, stream: CupyStream) -> None:
        if status := self._thread.calls.record(event.ptr, stream.pointer):
            raise device_error(self._error(status))

    def wait(self, stream: CupyStream, event: Any) -> None:
        if status := self._thread.calls.wait(stream.pointer, event.ptr, 0):
            raise device_error(self._error(status))

    def is_done(self, event: Any) -> bool:
        # Not event.done, which takes an error for "not done", for ever.
        status = self._thread.calls.query(event.ptr)
        if status and status != NOT_READY:
            raise device_error(self._error(status))
        return not status

    @in_our_errors
    def synchronize(self, event: Any) -> None:
        self._cuda.eventSynchronize(event.ptr)

    @in_our_errors
    def synchronize_all(self) -> None:
        with self._capturing.between():
            self._cuda.deviceSynchronize()

    @in_our_errors
    def elapsed_ms(self, begun: Any, ended: Any) -> float:
        return self._cuda.eventElapsedTime(begun.ptr, ended.ptr)

    def launch(
        self,
        stream: CupyStream,
        kernel: CudaKernel,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
    ) -> None:
        launcher = self._thread.launchers.get(kernel) or self._launcher(kernel, arguments)
        if status := launcher.launch(stream.argument, grid, block, arguments):
            raise DeviceError(
                f"CUDA failed at the launch of {kernel} on {grid} blocks of {block} threads: "
                f"{first_line(self._error(status))}"
            )

    @in_our_errors
    def matmul(self, stream: CupyStream, A: Any, B: Any, out: Any, precision: str) -> None:
        if A.shape[1]:
            self._cublas(stream).matmul(A, B, out, precision)
        else:  # a sum of nothing, for which cuBLAS would be given no factors
            self.fill(stream, out, 0)

    def copy(self, stream: CupyStream, source: Any, target: Any) -> None:
        # The kind of a copy follows from where the addresses lie.
        given = _pointer(target), _pointer(source), source.nbytes, stream.pointer
        if self._is_pageable(source) or self._is_pageable(target):
            self._copy_and_wait(*given)
        elif status := self._thread.calls.copy(*given):
            raise device_error(self._error(status))

    @in_our_errors
    def _copy_and_wait(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """By CuPy, which lets other threads go on: CUDA may keep the caller waiting."""
        self._cuda.memcpyAsync(target, source, size_bytes, self._cuda.memcpyDefault, stream)

    @in_our_errors
    def fill(self, stream: CupyStream, array: Any, byte: int) -> None:
        self._cuda.memsetAsync(array.data.ptr, byte, array.nbytes, stream.pointer)

    @in_our_errors
    def capture(self, stream: CupyStream, work: Callable[[], None]) -> Any:
        with self._capturing.capture():
            try:
                stream.stream.begin_capture(self._cuda.streamCaptureModeRelaxed)
                work()
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    stream.stream.end_capture()
                raise
            return stream.stream.end_capture()

    def replay(self, stream: CupyStream, graph: Any) -> None:
        if status := self._thread.calls.replay(graph.graphExec, stream.pointer):
            raise device_error(self._error(status))

    def _error(self, status: int) -> Any:
        """An error of the driver by its number, as CuPy names it."""
        return self._cupy.cuda.driver.CUDADriverError(status)

    def _is_pageable(self, array: Any) -> bool:
        return isinstance(array, np.ndarray) and array not in self._locked and array not in self._managed

    def _cublas(self, stream: CupyStream) -> Cublas:
        if stream.cublas is None:
            workspace = self.empty(WORKSPACE_BYTES, np.uint8)
            stream.cublas = Cublas(self._cublas_library, stream.stream, workspace, self._capturing.as_soon_as_can_be)
        return stream.cublas

    @in_our_errors
    def _launcher(self, kernel: CudaKernel, arguments: Sequence[Any]) -> Launcher:
        """The calling thread's launcher of a kernel, made once. Raises DeviceError, TypeError, ValueError."""
        kernel.check(arguments)  # before it is compiled in vain
        function, thread = self._kernels.function(kernel), self._thread
        launcher = thread.launchers[kernel] = Launcher(thread.calls, kernel, function, self._cupy.ndarray)
        return launcher


def _pointer(array: Any) -> int:
    return _host_pointer(array) if isinstance(array, np.ndarray) else array.data.ptr


def _host_pointer(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _version(number: int) -> str:
    """12090 as 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"
