"""CUDA without a GPU: what is queued on streams runs late, and in whatever order CUDA's promises allow.

Nothing runs when it is queued. Work runs while some thread waits for an event or asks whether it is done; which
stream goes on next is for the `order` to say, within the order of each stream and the events that it waits for.
So a wait that is missing gives wrong results in some order, every time, instead of once in a while on some GPU.
Kernels are the .cu files, executed by cuda_on_cpu.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from emulated_device_array import DeviceArray, as_shape
from emulated_streams import Moment, Streams, Work

from cupyrec.devices.cuda_runtime import HIGHEST_PRIORITY, LOWEST_PRIORITY
from cupyrec.devices.host_memory import host_array
from cupyrec.errors import DeviceError, DeviceMemoryError

# What the emulated device allows: the least that the supported GPUs have.
MOST_BLOCK_THREADS, MOST_BLOCKS = 1024, (2**31 - 1, 65_535, 65_535)
POOL_ROUND_BYTES = 512
DEFAULT_MEMORY_BYTES = 2**34


def adversarial_orders(stream_names):
    """Orders that show a missing wait on any of the streams, the names of which are given."""
    each = [f"{kind}:{name}" for name in stream_names for kind in ("latest", "earliest")]
    return ["as-queued", "lazy", *each, "shuffled-1", "shuffled-2"]


@dataclass(eq=False)
class Event:
    timed: bool = False
    latest: Moment | None = None


@dataclass(eq=False)
class Graph:
    works: list[Work]


@dataclass(eq=False)
class LockedPages:
    begin: int
    end: int
    array: np.ndarray


class EmulatedCuda:
    """A CudaRuntime that needs no GPU.

    order:        which stream goes on next, see adversarial_orders:
                  "as-queued"        what was queued first
                  "lazy"             only what a waiting thread needs
                  "latest:NAME"      the stream NAME only when nothing else can go on
                  "earliest:NAME"    the stream NAME as soon as it can, the others only when they are needed
                  "shuffled-SEED"    any; work may also run when it is queued
    thread_order: of blocks and threads in kernels, see cuda_on_cpu.
    memory_bytes: of the device; beyond it DeviceMemoryError is raised.
    lockable:     whether host pages can be locked.
    manages:      whether the driver gives managed memory.
    strict:       whether freeing memory that queued work still uses is an error.
    ignore_wait:  called with the names of the waiting and of the recorded stream; where it says True the wait is left
                  out: tests show by it that they would see a missing one.

    log:   (stream, label) of all that ran, in that order.
    waits: (waiting stream, recorded stream) of all waits between two streams, how often they were queued.
    """

    def __init__(
        self,
        order="as-queued",
        thread_order="ascending",
        memory_bytes=None,
        *,
        lockable=True,
        manages=True,
        strict=True,
        ignore_wait=None,
    ):
        self.order, self.thread_order, self.lockable, self.strict = order, thread_order, lockable, strict
        self.manages = manages
        self.ignore_wait = ignore_wait or (lambda waiting, recorded: False)
        self._streams = Streams(order, strict, self._count_back)
        self._lock = self._streams.lock
        self._total_bytes, self._used_bytes = memory_bytes or DEFAULT_MEMORY_BYTES, 0
        self._locked: list[LockedPages] = []
        self._managed: list[LockedPages] = []
        self.log = self._streams.log
        self.waits: Counter = Counter()

    # Memory

    def describe(self):
        return {"name": "emulated", "order": self.order, "thread_order": self.thread_order}

    def memory_bytes(self):
        with self._lock:
            self._streams.take_back()
            return self._total_bytes - self._used_bytes, self._total_bytes

    def empty(self, shape, dtype):
        with self._lock:
            self._streams.check_not_captured("memory is allocated")
            size_bytes = _rounded(math.prod(as_shape(shape)) * np.dtype(dtype).itemsize)
            if self._used_bytes + size_bytes > self._total_bytes:
                raise DeviceMemoryError(
                    f"{size_bytes} bytes of device memory, where {self._total_bytes - self._used_bytes} are free"
                )
            array = DeviceArray.allocate(shape, dtype, self._streams.freed)
            self._used_bytes += size_bytes
            return array

    def _count_back(self, memory):
        self._used_bytes -= _rounded(memory.bytes.size)

    def page_locked(self, shape, dtype):
        if not self.lockable:
            raise DeviceMemoryError("no pages can be locked")
        array = host_array(as_shape(shape), dtype)
        self.lock_pages(array)
        return array

    def lock_pages(self, array):
        with self._lock:
            self._streams.check()
            begin, end = _span(array)
            if _lies_in(self._managed, begin, end):
                return
            if not self.lockable:
                raise DeviceMemoryError("no pages can be locked")
            if any(begin < each.end and each.begin < end for each in self._locked):
                raise DeviceError("some of these pages are locked already")
            # Held for good: an address that is used again shall not count as locked because an old array was there.
            self._locked.append(LockedPages(begin, end, array))

    def managed(self, shape, dtype):
        """Filled with what is no number: whoever needs zeros must say so."""
        if not self.manages:
            raise DeviceMemoryError("there is no managed memory")
        array = host_array(as_shape(shape), dtype)
        array.reshape(-1).view(np.uint8)[:] = 0xFF
        with self._lock:
            self._streams.check_not_captured("managed memory is taken")
            self._managed.append(LockedPages(*_span(array), array))
        return array

    def is_managed(self, array):
        with self._lock:
            return _lies_in(self._managed, *_span(array))

    def mapped(self, array):
        if not self._is_locked(array):
            raise DeviceError(f"a host array {array.shape} whose pages are not locked cannot be mapped")
        return DeviceArray.over(array)

    def _is_locked(self, array):
        begin, end = _span(array)
        with self._lock:
            return _lies_in(self._locked + self._managed, begin, end)

    # Streams and events

    def stream(self, name, *, priority=HIGHEST_PRIORITY):
        assert HIGHEST_PRIORITY <= priority <= LOWEST_PRIORITY
        return self._streams.add(name, priority)

    def event(self, *, timed=False):
        return Event(timed)

    def record(self, event, stream):
        event.latest = self._streams.record(stream)

    def wait(self, stream, event):
        moment = event.latest
        if moment is None:
            return
        with self._lock:
            self.waits[stream.name, moment.stream.name] += 1
        if not self.ignore_wait(stream.name, moment.stream.name):
            self._streams.queue(stream, Work("wait", awaited=moment), in_graph=False)

    def is_done(self, event):
        self._streams.check_not_captured("the host asks the device")
        return event.latest is None or self._streams.ask(event.latest)

    def synchronize(self, event):
        self._streams.check_not_captured("the host waits for the device")
        if event.latest is not None:
            self._streams.run_until(event.latest)

    def synchronize_all(self):
        self._streams.check_not_captured("the host waits for the device")
        for moment in [self._streams.record(stream) for stream in self._streams.all()]:
            self._streams.run_until(moment)

    def elapsed_ms(self, begun, ended):
        if not (begun.timed and ended.timed):
            raise DeviceError("the time between events that are not timed")
        moments = begun.latest, ended.latest
        if any(moment is None or not moment.is_done for moment in moments):
            raise DeviceError("the time between events that are not done")
        return float(moments[1].tick - moments[0].tick)

    # Work

    def launch(self, stream, kernel, grid, block, arguments):
        kernel.check(arguments)
        for argument in arguments:
            if not isinstance(argument, (DeviceArray, np.generic)):
                raise TypeError(f"{kernel} is given a {type(argument).__name__}, which is not on the device")
        if not (1 <= math.prod(block) <= MOST_BLOCK_THREADS and min(block) >= 1 and block[2] <= 64):
            raise DeviceError(f"{kernel}: blocks of {block} threads")
        if not all(1 <= blocks <= most for blocks, most in zip(grid, MOST_BLOCKS, strict=True)):
            raise DeviceError(f"{kernel}: a grid of {grid} blocks")
        plain = [_plain(argument) for argument in arguments]

        # Here, so that the calling test is skipped where kernels cannot be executed.
        from cuda_on_cpu import run_kernel

        def run():
            run_kernel(kernel, grid, block, plain, order=self.thread_order)

        self._streams.queue(stream, Work(kernel.name, run, _memories(*arguments)))

    def matmul(self, stream, A, B, out, precision):
        for array in (A, B):
            if not (array.flags.c_contiguous or array.T.flags.c_contiguous):
                raise ValueError(f"a factor {array.shape} is neither C-contiguous nor the transpose of such")
        if not out.flags.c_contiguous or {A.dtype, B.dtype, out.dtype} != {np.dtype(np.float32)}:
            raise ValueError(f"a product of {A.dtype} {A.shape} and {B.dtype} {B.shape} into {out.dtype} {out.shape}")
        if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[0] or out.shape != (A.shape[0], B.shape[1]):
            raise ValueError(f"a product of {A.shape} and {B.shape} into {out.shape}")
        left, right, target = _plain(A), _plain(B), _plain(out)

        def run():
            with np.errstate(all="ignore"):
                np.matmul(rounded_factor(left, precision), rounded_factor(right, precision), out=target)

        self._streams.queue(stream, Work("matmul", run, _memories(A, B, out)))

    def copy(self, stream, source, target):
        pageable = [
            each for each in (source, target) if not isinstance(each, DeviceArray) and not self._is_locked(each)
        ]
        if pageable:
            self._streams.check_not_captured("pageable memory is copied")
        taken, given = _plain(source), _plain(target)
        if any(each is source for each in pageable):
            taken = taken.copy()
        self._streams.queue(stream, Work("copy", lambda: np.copyto(given, taken), _memories(source, target)))
        if any(each is target for each in pageable):
            self._streams.run_until(self._streams.record(stream))

    def fill(self, stream, array, byte):
        target = _plain(array).reshape(-1).view(np.uint8)
        self._streams.queue(stream, Work("fill", lambda: target.fill(byte), _memories(array)))

    def capture(self, stream, work):
        return Graph(self._streams.capture(stream, work))

    def replay(self, stream, graph):
        for work in graph.works:
            self._streams.queue(stream, Work(work.label, work.run, work.memories))


def rounded_factor(array, precision):
    """A factor as the matrix units take it: 10 bits of mantissa (tf32) or 7 (bf16), rounded to nearest even."""
    dropped = {"fp32": 0, "tf32": 13, "bf16": 16}[precision]
    if not dropped:
        return array
    bits = np.ascontiguousarray(array).view(np.uint32).astype(np.uint64)
    bits += (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1)
    rounded = (bits >> dropped << dropped).astype(np.uint32).view(np.float32)
    return np.where(np.isfinite(array), rounded, array)


def _plain(argument):
    return argument._array if isinstance(argument, DeviceArray) else argument


def _memories(*arguments):
    found = [each._memory for each in arguments if isinstance(each, DeviceArray) and each._memory is not None]
    return tuple(found)


def _span(array):
    """First and last address of a host array, the last one not included."""
    if not array.flags.c_contiguous:
        raise ValueError(f"a host array {array.shape} that is not C-contiguous")
    begin = array.ctypes.data
    return begin, begin + array.nbytes


def _lies_in(all_pages, begin, end):
    return any(each.begin <= begin and end <= each.end for each in all_pages)


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // POOL_ROUND_BYTES) * POOL_ROUND_BYTES
