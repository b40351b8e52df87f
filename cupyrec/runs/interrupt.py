"""Ctrl-C, SIGTERM and SIGHUP as requests: the step under way is finished, the model saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# Who sends these asks for an orderly end, or has closed the terminal. Not every system has both.
ORDERLY_STOPS = tuple(number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None)


class StopOnInterrupt:
    """While it is entered, the first SIGINT requests a stop; a second one interrupts as usual (KeyboardInterrupt).

    SIGTERM requests one too, any number of times: who sends it, such as a batch system, has SIGKILL for the impatient;
    and SIGHUP, which comes when the terminal is closed.
    `signal` is the one that came first. Does nothing outside the main thread, where Python delivers no signals, and
    leaves alone a SIGINT that is ignored, as under nohup and in the background of a script, and of the others what
    somebody else handles or ignores.
    """

    def __init__(self, *, on_terminate: bool = True) -> None:
        """on_terminate: whether SIGTERM and SIGHUP are such requests; else they end the process, as always."""
        self.signal: signal.Signals | None = None
        self._on_terminate = on_terminate
        self._previous: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.signal is not None

    def __enter__(self) -> StopOnInterrupt:
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
                self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle)
            for number in ORDERLY_STOPS if self._on_terminate else ():
                if signal.getsignal(number) == signal.SIG_DFL:
                    self._previous[number] = signal.signal(number, self._handle)
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
