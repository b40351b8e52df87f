"""The GPU device: what is queued on streams, ordered by events, all of it through the narrow seam of CudaRuntime."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from cupyrec.config import PRECISIONS
from cupyrec.counted import counted
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.cuda_kernel import CudaKernel
from cupyrec.devices.cuda_runtime import HIGHEST_PRIORITY, CudaRuntime
from cupyrec.devices.host_memory import host_array
from cupyrec.devices.while_needed import WhileNeeded
from cupyrec.errors import ConfigError, DeviceMemoryError

BLOCK_THREADS = 256
# Launches keep Python's lock: a thread that has waited for the device would wait for its turn, 5 ms where nobody says
# otherwise, for longer than several steps take.
TURN_S = 5e-5
# Kernels stride over their items: more blocks than fill any GPU many times over only cost.
MOST_BLOCKS = 65_536
# An array that is too small for a batch becomes this many times what the batch needs: growing waits for the whole
# device, and batches differ a little.
ARRAY_GROWTH = 1.125


class GpuEvent:
    """A moment on a stream, after all that was queued there before."""

    def __init__(self, runtime: CudaRuntime, *, timed: bool = False) -> None:
        """timed: see CudaRuntime.event."""
        self._runtime, self.handle = runtime, runtime.event(timed=timed)

    @property
    def is_done(self) -> bool:
        """Whether the device has come there; asks and does not wait."""
        return self._runtime.is_done(self.handle)

    def synchronize(self) -> None:
        """Let the calling thread wait until the device has come there."""
        # To wait is to let other threads have Python's lock, and to get it back takes longer than most other things.
        if not self._runtime.is_done(self.handle):
            self._runtime.synchronize(self.handle)


class StreamSettings:
    """What all streams of a device share.

    graphs: whether what is the same each time is captured in CUDA graphs; precision: of matrix products, of PRECISIONS.
    """

    def __init__(self, graphs: bool = True, say: Callable[[str], None] | None = None, precision: str = "fp32") -> None:
        """say: is told what is slower than it might be; None: Python's warnings."""
        self.graphs, self.say, self.precision = graphs, say or _warn, precision
        self._is_told = False

    def do_without_locked_pages(self, error: DeviceMemoryError) -> None:
        """Graphs copy from and to locked pages alone; say so, once."""
        self.graphs = False
        if not self._is_told:
            self._is_told = True
            self.say(f"{error}; going on with ordinary memory and without CUDA graphs, which is slower")


class GpuStream:
    """Runs what is queued on it in order, beside all other streams. One thread at a time may queue."""

    def __init__(
        self,
        runtime: CudaRuntime,
        name: str,
        *,
        settings: StreamSettings | None = None,
        priority: int = HIGHEST_PRIORITY,
    ) -> None:
        """name: for people; priority: see CudaRuntime.stream. Raises DeviceError."""
        self.runtime, self._settings = runtime, settings or StreamSettings()
        self._handle = runtime.stream(name, priority=priority)

    @property
    def graphs(self) -> bool:
        """Whether what is the same each time is to be captured, on all streams of the device."""
        return self._settings.graphs

    @graphs.setter
    def graphs(self, wanted: bool) -> None:
        self._settings.graphs = wanted

    @property
    def precision(self) -> str:
        """Of matrix products, on all streams of the device; one of PRECISIONS."""
        return self._settings.precision

    @precision.setter
    def precision(self, wanted: str) -> None:
        self._settings.precision = wanted

    def empty(self, shape: int | Sequence[int], dtype: Any = np.float32) -> Any:
        """A device array of whatever values. Raises DeviceMemoryError."""
        return self.runtime.empty(shape, dtype)

    def zeros(self, shape: int | Sequence[int], dtype: Any = np.float32) -> Any:
        """A device array of zeros for every stream; waits for it, so not in a step. Raises DeviceMemoryError."""
        array = self.runtime.empty(shape, dtype)
        self.fill(array, 0)
        self.record().synchronize()
        return array

    def page_locked(self, shape: int | Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        """A host array of zeros that copies asynchronously.

        Where its pages cannot be locked it is ordinary memory, whose copies the caller waits for and no graph can hold.
        """
        try:
            return self.runtime.page_locked(shape, dtype)
        except DeviceMemoryError as error:
            self._settings.do_without_locked_pages(error)
            return host_array(shape, dtype)

    def launch(
        self, kernel: CudaKernel, grid: int | Sequence[int], block: int | Sequence[int], *arguments: Any
    ) -> None:
        """Queue a kernel. grid, block: blocks and threads a block, up to three numbers; nothing happens on no block.

        arguments: device arrays and NumPy scalars, of just the dtypes of the kernel's parameters. Raises TypeError,
        ValueError.
        """
        # By far the most have one direction.
        blocks = (grid, 1, 1) if type(grid) is int else _three(grid)
        threads = (block, 1, 1) if type(block) is int else _three(block)
        if blocks[0] > 0 and blocks[1] > 0 and blocks[2] > 0:
            self.runtime.launch(self._handle, kernel, blocks, threads, arguments)
        else:
            kernel.check(arguments)

    def launch_over(self, kernel: CudaKernel, items: int, *arguments: Any) -> None:
        """Queue a kernel that strides over its items: one thread for each, or fewer where there are very many."""
        self.launch(kernel, min(-(-items // BLOCK_THREADS), MOST_BLOCKS), BLOCK_THREADS, *arguments)

    def matmul(self, A: Any, B: Any, out: Any) -> None:
        """Queue out[:] = A @ B. A: (m, k), B: (k, n), out: (m, n), float32; transposed views cost nothing."""
        if A.shape[0] and B.shape[1]:
            self.runtime.matmul(self._handle, A, B, out, self.precision)

    def copy(self, source: Any, target: Any) -> None:
        """Queue target[:] = source; each on the host or the device, C-contiguous, of one shape and dtype.

        A host array must stay as it is until that is done; where it is not page-locked the caller may be kept waiting.
        """
        if source.shape != target.shape or source.dtype != target.dtype:
            raise ValueError(f"a copy from {source.shape} {source.dtype} to {target.shape} {target.dtype}")
        if not (source.flags.c_contiguous and target.flags.c_contiguous):
            raise ValueError(f"a copy of {source.shape} between arrays that are not C-contiguous")
        if source.size:
            self.runtime.copy(self._handle, source, target)

    def fill(self, array: Any, byte: int) -> None:
        """Queue the setting of every byte of a C-contiguous device array."""
        if not array.flags.c_contiguous:
            raise ValueError(f"a fill of {array.shape}, which is not C-contiguous")
        if array.size:
            self.runtime.fill(self._handle, array, byte)

    def record(self, event: GpuEvent | None = None, *, timed: bool = False) -> GpuEvent:
        """The event that all queued so far is done. event: one to be used again; timed: of a new one."""
        event = event or GpuEvent(self.runtime, timed=timed)
        self.runtime.record(event.handle, self._handle)
        return event

    def wait(self, event: GpuEvent) -> None:
        """Let what is queued from now on wait for an event; the calling thread goes on."""
        self.runtime.wait(self._handle, event.handle)

    def capture(self, work: Callable[[], None]) -> Any:
        """A graph of all that work() queues here; nothing of it is done now. It must have been queued before."""
        return self.runtime.capture(self._handle, work)

    def replay(self, graph: Any) -> None:
        """Queue all of a graph."""
        self.runtime.replay(self._handle, graph)


class GpuDevice(GpuStream):
    """One GPU; itself the stream on which training runs. Its host work is done by `host`."""

    name = "gpu"

    def __init__(
        self,
        runtime: CudaRuntime,
        *,
        threads: int | None = None,
        precision: str = "fp32",
        graphs: bool = True,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """threads: of the host's CPU; graphs: whether what is the same in each step is captured in CUDA graphs.

        say: see StreamSettings. Raises ConfigError, DeviceError.
        """
        if precision not in PRECISIONS:
            raise ConfigError(f"unknown precision {precision!r}; choose {', '.join(PRECISIONS)}")
        super().__init__(runtime, "train", settings=StreamSettings(graphs, say, precision))
        self.host = CpuDevice(threads)
        self.threads = self.host.threads

    @property
    def description(self) -> str:
        """For people."""
        threads = counted(self.threads, "CPU thread")
        return f"gpu, {self.runtime.describe()['name']}, with {threads}, {self.precision}"

    @contextmanager
    def running(self) -> Iterator[GpuDevice]:
        """Within it the host's threads run, and Python's threads take turns quickly. May be nested."""
        with quick_turns.needed(), self.host.running():
            yield self

    def stream(self, name: str = "", *, priority: int = HIGHEST_PRIORITY) -> GpuStream:
        """A stream for a stage of the pipeline, or a part of it. priority: see CudaRuntime.stream."""
        return GpuStream(self.runtime, name, settings=self._settings, priority=priority)

    def managed_zeros(self, shape: int | Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        """A host array of zeros in managed memory, see CudaRuntime.managed. Raises DeviceMemoryError."""
        array = self.runtime.managed(shape, dtype)
        self.host.launch(_clear, array.size, array.reshape(-1))
        return array

    def say(self, line: str) -> None:
        """Tell what is slower than it might be."""
        self._settings.say(line)

    def upload(self, array: np.ndarray, target: Any = None) -> Any:
        """A host array copied to the device; waits for it. target: where to; None: a new array."""
        array = np.ascontiguousarray(array)
        target = self.empty(array.shape, array.dtype) if target is None else target
        self.copy(array, target)
        self.record().synchronize()
        return target

    def download(self, array: Any) -> np.ndarray:
        """A C-contiguous device array copied to the host, as of all that training has queued; waits for it."""
        target = np.empty(array.shape, array.dtype)
        self.copy(array, target)
        self.record().synchronize()
        return target

    def synchronize(self) -> None:
        """Wait for everything queued on every stream."""
        self.runtime.synchronize_all()


def _take_quick_turns() -> Callable[[], None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, TURN_S))
    return partial(sys.setswitchinterval, before)


# A setting of the process.
quick_turns = WhileNeeded(_take_quick_turns)


def _clear(start: int, stop: int, items: np.ndarray) -> None:
    items[start:stop] = 0


def _warn(line: str) -> None:
    warnings.warn(line, RuntimeWarning, stacklevel=4)


def _three(size: int | Sequence[int]) -> tuple[int, int, int]:
    """Blocks or threads in three directions."""
    if not isinstance(size, Sequence):
        return int(size), 1, 1
    x, y, z = (*size, 1, 1)[:3]
    return int(x), int(y), int(z)
