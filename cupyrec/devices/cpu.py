"""The CPU device: NumPy arrays, Numba kernels, a fixed set of worker threads."""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from cupyrec.counted import counted
from cupyrec.devices.host_memory import host_array
from cupyrec.devices.while_needed import WhileNeeded, blas_on_one_thread
from cupyrec.errors import ConfigError

# Matrix products smaller than this run on one thread: handing a part over costs about 20 us.
SMALL_PRODUCT_FLOPS = 1 << 21
# So do launches that take in hand fewer numbers than this: some 40 us of work.
SMALL_LAUNCH_FLOATS = 1 << 17


class CpuEvent:
    """A moment on the CPU: what was queued before it is done, because it was done at once."""

    is_done = True

    def synchronize(self) -> None:
        """Nothing to wait for."""


class CpuDevice:
    """Runs kernels and matrix products on `threads` threads, the calling one included.

    Work is cut into one part a thread at places that depend on the sizes alone, so a result never depends on
    timing. BLAS is held at one thread inside `running()`: the parts of a product are handed out here, so that
    BLAS's idle threads do not spin against the workers (they can cost more than half of a step).
    """

    name = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        """threads: at least 1; None takes every core this process may run on. Raises ConfigError."""
        self.threads = usable_cores() if threads is None else threads
        if self.threads < 1:
            raise ConfigError(f"threads must be at least 1, but is {self.threads}")
        self._workers: list[_Worker] = []
        self._with_workers = WhileNeeded(self._start_workers)

    @contextmanager
    def running(self) -> Iterator[CpuDevice]:
        """Within it the worker threads run and BLAS is held at one thread. May be nested, also by several threads."""
        with self.keeping_workers(), blas_on_one_thread.needed():
            yield self

    def keeping_workers(self) -> AbstractContextManager[None]:
        """Within it the worker threads stay where they sleep, between one `running` and the next."""
        return self._with_workers.needed()

    def _start_workers(self) -> Callable[[], None]:
        workers: list[_Worker] = []
        try:
            for number in range(1, self.threads):
                workers.append(_Worker(f"cupyrec-cpu-{number}"))
        except BaseException as error:
            _stop(workers)
            if not isinstance(error, RuntimeError):
                raise
            raise ConfigError(
                f"{self.threads} threads cannot be started, only {len(workers) + 1}; choose fewer (--threads)"
            ) from None
        # Only now: a child forked in between must not think it has workers.
        self._workers = workers
        return self._stop_workers

    def _stop_workers(self) -> None:
        _stop(self._workers)
        self._workers = []

    @property
    def description(self) -> str:
        """For people."""
        return f"cpu with {counted(self.threads, 'thread')}"

    @property
    def host(self) -> CpuDevice:
        """The device that does the work of the host: itself."""
        return self

    def zeros(self, shape: int | Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        """An array of zeros on this device, on huge pages where the system has them."""
        return host_array(shape, dtype)

    def page_locked(self, shape: int | Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        """As zeros: there is no link to lock pages for."""
        return host_array(shape, dtype)

    def upload(self, array: np.ndarray, target: Any = None) -> np.ndarray:
        """A copy of an array. target: where to; None: a new array."""
        if target is None:
            return np.array(array)
        np.copyto(target, array)
        return target

    def copy(self, source: np.ndarray, target: np.ndarray) -> None:
        """target[:] = source."""
        np.copyto(target, source)

    def download(self, array: np.ndarray) -> np.ndarray:
        """The array itself: it is on the host."""
        return array

    def record(self, event: CpuEvent | None = None) -> CpuEvent:
        """The event that all queued so far is done, as it is. event: one to be used again."""
        return event or CpuEvent()

    def wait(self, event: CpuEvent) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def stream(self, name: str = "") -> CpuStream:
        """A stream for a stage of the pipeline."""
        return CpuStream()

    def launch(
        self, kernel: Callable[..., Any], items: int, *arguments: Any, bounds: Any = None, floats: int | None = None
    ) -> None:
        """Run kernel(start, stop, *arguments) over all items, in one contiguous part a thread; return when all ended.

        bounds: optional (threads + 1,) ascending item numbers, for parts that are not equal in size; floats: about how
        many numbers are read, written or multiplied in all, None: many. Little is done by the calling thread alone.
        """
        parts = min(len(self._workers) + 1, items)
        if parts <= 1 or (floats is not None and floats < SMALL_LAUNCH_FLOATS):
            kernel(0, items, *arguments)
            return
        if bounds is None:
            bounds = [items * part // parts for part in range(parts + 1)]
        self._run([(kernel, (int(bounds[part]), int(bounds[part + 1]), *arguments)) for part in range(parts)])

    def matmul(self, A: np.ndarray, B: np.ndarray, out: np.ndarray) -> None:
        """out[:] = A @ B. A: (m, k), B: (k, n), out: (m, n) of one dtype; transposed views cost nothing.

        Parts are rows of `out`, or columns where there are more of these.
        """
        (m, k), n = A.shape, B.shape[1]
        parts = len(self._workers) + 1
        if parts == 1 or 2 * m * k * n < SMALL_PRODUCT_FLOPS:
            np.matmul(A, B, out=out)
        elif m >= n:
            cuts = [m * part // parts for part in range(parts + 1)]
            self._run([(_matmul, (A[i:j], B, out[i:j])) for i, j in itertools.pairwise(cuts) if i < j])
        else:
            cuts = [n * part // parts for part in range(parts + 1)]
            self._run([(_matmul, (A, B[:, i:j], out[:, i:j])) for i, j in itertools.pairwise(cuts) if i < j])

    def _run(self, calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
        """Run calls[0] here and the others on the workers; wait for all; raise the first error."""
        handed = [_Call(function, arguments) for function, arguments in calls[1:]]
        errors: list[BaseException] = []
        try:
            self._hand_over(handed)
            function, arguments = calls[0]
            function(*arguments)
        except BaseException as error:
            errors.append(error)
            # An interrupt may have come between two hand-overs; a call that is handed over twice runs once.
            self._hand_over(handed)
        for call in handed:
            while not call.ended:
                try:
                    call.waiting.acquire()
                except BaseException as error:  # an interrupt: the parts still write, so it waits for them
                    errors.append(error)
        errors += [call.error for call in handed if call.error is not None]
        if errors:
            raise errors[0]

    def _hand_over(self, handed: list[_Call]) -> None:
        for worker, call in zip(self._workers, handed, strict=False):
            worker.calls.put(call)


class CpuStream:
    """What a stage of the pipeline runs its kernels on: the thread that calls, and no other.

    Stages are threads of their own; what they launch is done when the call returns.
    """

    def zeros(self, shape: int | Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        """An array of zeros: many small ones, so not on huge pages of their own."""
        return np.zeros(shape, dtype)

    def launch(
        self, kernel: Callable[..., Any], items: int, *arguments: Any, bounds: Any = None, floats: int | None = None
    ) -> None:
        """Run kernel(0, items, *arguments). bounds, floats: see CpuDevice.launch; of no use here."""
        kernel(0, items, *arguments)

    def copy(self, source: np.ndarray, target: np.ndarray) -> None:
        """target[:] = source, as if over a link."""
        np.copyto(target, source)

    def record(self, event: CpuEvent | None = None) -> CpuEvent:
        """The event that all queued so far is done, as it is. event: one to be used again."""
        return event or CpuEvent()

    def wait(self, event: CpuEvent) -> None:
        """Nothing to wait for."""


class _Call:
    """One part of a launch, run once by a worker."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments
        self.error: BaseException | None = None
        self.ended = False
        # Held until the end; lighter than a threading.Event.
        self.waiting = threading.Lock()
        self.waiting.acquire()


class _Worker:
    """One thread that runs the calls it is handed, in order."""

    def __init__(self, name: str) -> None:
        self.calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while (call := self.calls.get()) is not None:
            if not call.ended:
                try:
                    call.function(*call.arguments)
                except BaseException as error:
                    call.error = error
                call.ended = True
                call.waiting.release()
            # Hold nothing while waiting, so that freed arrays are freed.
            del call

    def end(self) -> None:
        """When all that was handed over is done."""
        self.calls.put(None)

    def join(self) -> None:
        # What is collected as garbage may be so in any thread.
        if threading.current_thread() is not self._thread:
            self._thread.join()


def _stop(workers: list[_Worker]) -> None:
    """All of them, though an interrupt may come while one is waited for."""
    for worker in workers:
        worker.end()
    for worker in workers:
        worker.join()


def _matmul(A: np.ndarray, B: np.ndarray, out: np.ndarray) -> None:
    # NumPy's error state is each thread's own. Numbers that overflow are the loss's to report.
    with np.errstate(over="ignore", invalid="ignore"):
        np.matmul(A, B, out=out)


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
