"""Ctrl-C and SIGTERM as a request: what is under way comes to a good end."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What a shell reports of a process that a signal ended: 128 and the signal's number.
SIGNAL_EXIT_CODE = 128


class StopOnSignals:
    """While it is entered, the first SIGINT or SIGTERM sets `requested`; another one interrupts (KeyboardInterrupt).

    Does nothing outside the main thread, where Python delivers no signals, and leaves alone a signal that is ignored,
    as SIGINT is in the background of a script.
    """

    def __init__(self) -> None:
        self.requested = False
        self.exit_code = 0
        self._previous: dict[signal.Signals, object] = {}

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.requested

    def __enter__(self) -> StopOnSignals:
        if threading.current_thread() is threading.main_thread():
            for each in SIGNALS:
                if signal.getsignal(each) != signal.SIG_IGN:
                    self._previous[each] = signal.signal(each, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for each, previous in self._previous.items():
            signal.signal(each, previous)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        # Nothing is printed here: the signal may have come in the middle of a write to the same stream.
        self.requested, self.exit_code = True, SIGNAL_EXIT_CODE + number
