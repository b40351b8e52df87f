"""Ctrl-C as a request: the step under way is finished, the model saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class StopOnInterrupt:
    """While it is entered, the first SIGINT sets `requested`; a second one interrupts as usual (KeyboardInterrupt).

    Does nothing outside the main thread, where Python delivers no signals, and where SIGINT is ignored, as it is under
    nohup and in the background of a script.
    """

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.requested

    def __enter__(self) -> StopOnInterrupt:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._handles = in_main_thread and signal.getsignal(signal.SIGINT) != signal.SIG_IGN
        if self._handles:
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handles:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        # Nothing is printed here: the signal may have come in the middle of a write to the same stream.
        self.requested = True
