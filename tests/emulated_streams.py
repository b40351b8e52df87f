"""The streams of the emulated GPU: what is queued on them, and in which order it runs.

See EmulatedCuda for the orders. All that runs does so on one thread, the device's, one piece of work after another.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from emulated_device_array import POISON, Memory

from cupyrec.errors import DeviceError

KINDS = ("as-queued", "lazy", "latest", "earliest", "shuffled")
# After so many steps for one event, or questions whether it is done, the order has no say: every wait ends.
MOST_STEPS, MOST_QUESTIONS = 10_000, 100


@dataclass(eq=False)
class Moment:
    """One record of an event: all that was queued on its stream before."""

    stream: Stream
    is_done: bool = False
    # How much had run when it was done.
    tick: int = 0
    # How often it was asked for.
    asked: int = 0


@dataclass(eq=False)
class Work:
    """One piece of work on a stream. A `moment` is to be marked done; an `awaited` one to be waited for."""

    label: str
    run: Callable[[], None] = lambda: None
    memories: tuple[Memory, ...] = ()
    moment: Moment | None = None
    awaited: Moment | None = None
    number: int = 0

    @property
    def may_begin(self):
        return self.awaited is None or self.awaited.is_done


@dataclass(eq=False)
class Stream:
    name: str
    # Of no effect here: any order is allowed.
    priority: int = 0
    queue: deque[Work] = field(default_factory=deque)


class Streams:
    """All streams of one device.

    order, strict: see EmulatedCuda. on_freed: called with each Memory that nobody holds any more.

    log: (stream, label) of all that ran, in that order. lock: held while anything below is changed.
    """

    def __init__(self, order, strict, on_freed):
        kind, colon, self._name = order.partition(":")
        if not colon:
            kind, _, seed = order.partition("-") if order.startswith("shuffled-") else (order, "", 0)
            self._random = random.Random(int(seed))
        if kind not in KINDS:
            raise ValueError(f"unknown order {order!r}")
        self._kind, self._strict, self._on_freed = kind, strict, on_freed
        self.lock = threading.RLock()
        self.freed: deque[Memory] = deque()
        self.log: list[tuple[str, str]] = []
        self._streams: list[Stream] = []
        self._queued, self._tick = 0, 0
        self._error: BaseException | None = None
        self._captures: dict[int, tuple[Stream, list[Work]]] = {}

    # For threads of the host

    def add(self, name, priority=0):
        with self.lock:
            self._streams.append(Stream(name, priority))
            return self._streams[-1]

    def all(self):
        with self.lock:
            return list(self._streams)

    def queue(self, stream, work, in_graph=True):
        """Queue work, or add it to the graph that the calling thread captures. in_graph: whether that can be."""
        with self.lock:
            self.check()
            captured, works = self._captures.get(threading.get_ident(), (None, []))
            if captured is not None:
                if captured is not stream or not in_graph:
                    raise DeviceError(f"{work.label} on stream {stream.name!r} while {captured.name!r} is captured")
                works.append(work)
                return
            if any(memory.is_freed for memory in work.memories) and self._strict:
                raise AssertionError(f"a graph on stream {stream.name} uses memory that was freed")
            self._queued += 1
            work.number = self._queued
            for memory in work.memories:
                memory.pending[stream.name, work.label] += 1
            stream.queue.append(work)
        if self._kind == "earliest":
            _on_device(self._run_early)
        elif self._kind == "shuffled":
            for _ in range(self._random.choice((0, 0, 0, 1, 2))):
                _on_device(self._step, None)

    def record(self, stream):
        """The moment after all that is queued on a stream."""
        moment = Moment(stream)
        self.queue(stream, Work("record", moment=moment), in_graph=False)
        return moment

    def capture(self, stream, work):
        """All that work() queues on the stream, instead of queueing it."""
        thread, works = threading.get_ident(), []
        with self.lock:
            self.check()
            if thread in self._captures:
                raise DeviceError("a graph is captured within another")
            self._captures[thread] = (stream, works)
        try:
            work()
        finally:
            with self.lock:
                del self._captures[thread]
        return works

    def run_until(self, moment):
        """Let the calling thread wait until the moment is done."""
        if not moment.is_done:
            _on_device(self._run_steps_until, moment)
        with self.lock:
            self.check()

    def ask(self, moment):
        """Whether a moment is done; each question lets one piece of work be done, maybe of another stream."""
        if moment.is_done:
            return True
        moment.asked += 1
        _on_device(self._step, moment, moment.asked > MOST_QUESTIONS)
        with self.lock:
            self.check()
        return moment.is_done

    def check(self):
        """Raise what went wrong on the device, now and ever after."""
        self.take_back()
        if isinstance(self._error, AssertionError):
            raise AssertionError(str(self._error))
        if self._error is not None:
            raise DeviceError(f"work on the device failed: {self._error}") from self._error

    def check_not_captured(self, what):
        with self.lock:
            self.check()
            if threading.get_ident() in self._captures:
                raise DeviceError(f"{what} while a graph is captured")

    def take_back(self):
        """See to what was freed; it holds poison from now on, whoever still uses it."""
        while self.freed:
            memory = self.freed.popleft()
            memory.is_freed = True
            self._on_freed(memory)
            users = [user for user, count in memory.pending.items() if count]
            if users and self._strict:
                (name, label), size_bytes = users[0], memory.bytes.size
                self._fail(
                    AssertionError(
                        f"memory freed while queued work on stream {name} still uses it: {label}, {size_bytes} bytes"
                    )
                )
            memory.bytes[:] = POISON

    # On the device's thread

    def _run_steps_until(self, moment):
        steps = 0
        while not moment.is_done and self._error is None:
            self._step(moment, steps > MOST_STEPS)
            steps += 1

    def _run_early(self):
        while (stream := self._named_head()) is not None:
            self._run(stream)

    def _named_head(self):
        with self.lock:
            heads = [stream for stream in self._heads() if stream.name == self._name]
            return heads[0] if heads and self._error is None else None

    def _step(self, moment, hurried=False):
        """Run one piece of work. moment: what a thread waits for, or None; hurried: the order has no say."""
        with self.lock:
            heads = self._heads()
            if self._error is not None or (moment is not None and moment.is_done):
                return
            if not heads:
                if moment is not None:
                    self._fail(RuntimeError("an event that can never be done"))
                return
            stream = _needed(moment) if hurried else self._chosen(heads, moment)
        self._run(stream)

    def _heads(self):
        """The streams that can go on with work; what is only a wait or a record is settled first."""
        self.take_back()
        settled = True
        while settled:
            settled = False
            for stream in self._streams:
                while stream.queue and (work := stream.queue[0]).may_begin and (work.moment or work.awaited):
                    stream.queue.popleft()
                    settled = True
                    if work.moment is not None:
                        work.moment.is_done, work.moment.tick = True, self._tick
        heads = [stream for stream in self._streams if stream.queue and stream.queue[0].may_begin]
        return sorted(heads, key=lambda stream: stream.queue[0].number)

    def _chosen(self, heads, moment):
        named = [stream for stream in heads if stream.name == self._name]
        others = [stream for stream in heads if stream.name != self._name]
        if self._kind == "shuffled":
            return self._random.choice(heads)
        if self._kind == "latest":
            return (others or named)[0]
        if self._kind == "earliest" and named:
            return named[0]
        if self._kind != "as-queued" and moment is not None:
            return _needed(moment)
        return heads[0]

    def _run(self, stream):
        """Run the head of a stream. On the device's thread, one at a time."""
        with self.lock:
            work = stream.queue[0]
        try:
            work.run()
        except BaseException as error:
            self._fail(error)
        with self.lock:
            self.take_back()
            stream.queue.popleft()
            for memory in work.memories:
                memory.pending[stream.name, work.label] -= 1
            self._tick += 1
            self.log.append((stream.name, work.label))

    def _fail(self, error):
        with self.lock:
            self._error = self._error or error


# The device: one thread, so that an interrupt of a thread that waits for it does not break what it is doing.
_DEVICE = ThreadPoolExecutor(1, "emulated-cuda")
_DEVICE_THREAD = _DEVICE.submit(threading.get_ident).result()


def _on_device(function, *arguments):
    if threading.get_ident() == _DEVICE_THREAD:
        function(*arguments)
    else:
        _DEVICE.submit(function, *arguments).result()


def _needed(moment):
    """The stream on which a moment's next work is that can run now."""
    while not (head := moment.stream.queue[0]).may_begin:
        moment = head.awaited
    return moment.stream
