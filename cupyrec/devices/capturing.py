"""Who may do what while a CUDA graph is captured."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Capturing:
    """At most one thread captures at a time. What may wait for the whole device would spoil the graph, and waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Around a capture."""
        with self._lock:
            self._thread = threading.get_ident()
            try:
                yield
            finally:
                self._thread = None

    @contextmanager
    def between(self) -> Iterator[None]:
        """Around what must not be done while another thread captures.

        The thread that captures is not kept waiting for itself: CUDA tells it what it may not do.
        """
        if self._thread == threading.get_ident():
            yield
            return
        with self._lock:
            yield

    @contextmanager
    def between_if_now(self) -> Iterator[bool]:
        """The same without waiting; False where some thread captures, or does what must be done between."""
        free = self._lock.acquire(blocking=False)
        try:
            yield free
        finally:
            if free:
                self._lock.release()
