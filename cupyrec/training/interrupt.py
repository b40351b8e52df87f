"""Ctrl-C and SIGTERM as requests: the step under way is finished, the model saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopOnInterrupt:
    """While it is entered, the first SIGINT sets `requested`; a second one interrupts as usual (KeyboardInterrupt).

    SIGTERM sets it too, any number of times: who sends it, such as a batch system, has SIGKILL for the impatient.
    `signal` is the one that came first. Does nothing outside the main thread, where Python delivers no signals, and
    leaves alone a SIGINT that is ignored, as under nohup and in the background of a script, and a SIGTERM that somebody
    else handles or ignores.
    """

    def __init__(self, *, on_terminate: bool = True) -> None:
        """on_terminate: whether SIGTERM is such a request; else it ends the process, as always."""
        self.signal: signal.Signals | None = None
        self._on_terminate = on_terminate
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self.signal is not None

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.requested

    def __enter__(self) -> StopOnInterrupt:
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
                self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle)
            if self._on_terminate and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        before, self.signal = self.signal, self.signal or signal.Signals(number)
        # Nothing is printed here: the signal may have come in the middle of a write to the same stream.
        if before is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
