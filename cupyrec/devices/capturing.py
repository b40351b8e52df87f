"""Who may do what while a CUDA graph is captured."""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from cupyrec.devices.while_needed import WhileNeeded


class Capturing:
    """At most one thread captures at a time. What may wait for the whole device would spoil the graph, and waits.

    One for all that use a device in a process: see `capturing_on`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._put_off: deque[Callable[[], None]] = deque()

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Around a capture. Raises RuntimeError within another of the same thread."""
        if self._thread == threading.get_ident():
            raise RuntimeError("a graph is captured while this thread captures another")
        try:
            with self._lock, collector_off.needed():
                self._thread = threading.get_ident()
                try:
                    yield
                finally:
                    self._thread = None
        finally:
            self._catch_up_if_now()

    @contextmanager
    def between(self) -> Iterator[None]:
        """Around what must not be done while another thread captures; what was put off is done before.

        The thread that captures is not kept waiting for itself: CUDA tells it what it may not do.
        """
        if self._thread == threading.get_ident():
            yield
            return
        try:
            with self._lock:
                self._catch_up()
                yield
        finally:
            self._catch_up_if_now()

    def as_soon_as_can_be(self, give_back: Callable[[], None]) -> None:
        """Run give_back now, or once no graph is being captured. Never waits; raises only what give_back raises.

        Whatever thread is the last to have an array may call this, even in the middle of a capture.
        """
        self._put_off.append(give_back)
        self._catch_up_if_now()

    def _catch_up_if_now(self) -> None:
        """Not where some thread captures, or does what must be done between: it is done when that ends."""
        # Once more after each release: what was put off meanwhile was left to this thread.
        while self._put_off and self._lock.acquire(blocking=False):
            try:
                self._catch_up()
            finally:
                self._lock.release()

    def _catch_up(self) -> None:
        while self._put_off:
            self._put_off.popleft()()


def _stop_collecting() -> Callable[[], None]:
    was_enabled = gc.isenabled()
    gc.disable()
    return gc.enable if was_enabled else lambda: None


# Python's collector frees nothing meanwhile: what it finds might be a graph, which must not end while one is captured.
collector_off = WhileNeeded(_stop_collecting)


@cache
def capturing_on(device: int) -> Capturing:
    """The one of a device, by its number."""
    return Capturing()
