"""Ctrl-C as a request: the step under way is finished, the model saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class StopOnInterrupt:
    """While it is entered, the first SIGINT sets `requested`; a second one interrupts as usual (KeyboardInterrupt).

    Does nothing outside the main thread, where Python delivers no signals.
    """

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.requested

    def __enter__(self) -> StopOnInterrupt:
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        if self._in_main_thread:
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._in_main_thread:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        # Nothing is printed here: the signal may have come in the middle of a write to the same stream.
        self.requested = True
