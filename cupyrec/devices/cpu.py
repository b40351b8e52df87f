"""The CPU device: NumPy arrays, Numba kernels, a fixed set of worker threads."""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from cupyrec.devices.host_memory import host_array
from cupyrec.errors import ConfigError

# Matrix products smaller than this run on one thread: handing a part over costs about 20 us.
SMALL_PRODUCT_FLOPS = 1 << 21


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
        self._running = 0

    @contextmanager
    def running(self) -> Iterator[CpuDevice]:
        """Start the worker threads and hold BLAS at one thread; undo both at the end. May be nested."""
        if self._running:
            yield self
            return
        self._running += 1
        self._workers = [_Worker(f"cupyrec-cpu-{i}") for i in range(1, self.threads)]
        try:
            with ThreadpoolController().limit(limits=1, user_api="blas"):
                yield self
        finally:
            self._running -= 1
            workers, self._workers = self._workers, []
            for worker in workers:
                worker.stop()

    def empty(self, shape: int | Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        """An array on this device, on huge pages where the system has them."""
        return host_array(shape, dtype)

    def launch(self, kernel: Callable[..., Any], items: int, *arguments: Any, bounds: Any = None) -> None:
        """Run kernel(start, stop, *arguments) over all items, in one contiguous part a thread; return when all ended.

        bounds: optional (threads + 1,) ascending item numbers, for parts that are not equal in size.
        """
        parts = min(len(self._workers) + 1, items)
        if parts <= 1:
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
        busy = self._workers[: len(calls) - 1]
        for worker, call in zip(busy, calls[1:], strict=True):
            worker.calls.put(call)
        errors: list[BaseException] = []
        try:
            function, arguments = calls[0]
            function(*arguments)
        except BaseException as error:
            errors.append(error)
        ends = [worker.ended.get() for worker in busy]
        errors += [end for end in ends if end is not None]
        if errors:
            raise errors[0]


class _Worker:
    """One thread that runs the calls it is handed, in order, and reports the end of each."""

    def __init__(self, name: str) -> None:
        self.calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while (call := self.calls.get()) is not None:
            function, arguments = call
            try:
                function(*arguments)
            except BaseException as error:
                self.ended.put(error)
            else:
                self.ended.put(None)
            # Hold nothing while waiting, so that freed arrays are freed.
            del call, function, arguments

    def stop(self) -> None:
        self.calls.put(None)
        self._thread.join()


def _matmul(A: np.ndarray, B: np.ndarray, out: np.ndarray) -> None:
    np.matmul(A, B, out=out)


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
