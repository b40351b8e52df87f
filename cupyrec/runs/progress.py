"""What a run shows while it works: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, TextIO

from tqdm import tqdm

from cupyrec.counted import figure

# Each update's loss counts this much: about the last hundred updates are seen.
LOSS_WEIGHT = 0.01
# Samples per second are those of the last half minute, noted once a second.
RATE_WINDOW_S = 30.0
RATE_MARK_S = 1.0
LINE_INTERVAL_S = 10.0
BAR_INTERVAL_S = 0.1
DEFAULT_COLUMNS = 80


class Progress(Protocol):
    """Where a run reports to. Numbers are totals since the run began."""

    def update(self, step: int, samples: int, loss: float, fraction_done: float | None = None) -> None:
        """After a step: steps and samples trained so far, the loss of this step, and the share of the whole run
        that is done, 0 to 1, or None when nobody knows. Cheap: most calls show nothing.
        """

    def message(self, line: str) -> None:
        """Show a line of text at once."""

    def close(self) -> None:
        """Show the last state and end. May be called twice."""


def open_progress(stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> Progress:
    """The progress for a stream, by default stderr: a bar if it is a terminal, else a line every LINE_INTERVAL_S."""
    stream = sys.stderr if stream is None else stream
    return BarProgress(stream, clock) if stream.isatty() else LineProgress(stream, LINE_INTERVAL_S, clock)


class LineProgress:
    """Lines such as `step 1,200  42% done  loss 0.4712  41,300 samples/s  1 min 20 s left`, without control
    characters: for log files.

    interval_s: seconds from one line to the next, at least; clock: seconds, ascending.
    """

    def __init__(self, stream: TextIO, interval_s: float, clock: Callable[[], float]):
        self._stream, self._interval_s, self._clock = stream, interval_s, clock
        self._meter = RunMeter()
        self._shown_at = clock()
        self._unshown = False

    def update(self, step: int, samples: int, loss: float, fraction_done: float | None = None) -> None:
        now = self._clock()
        self._meter.note(now, step, samples, loss, fraction_done)
        self._unshown = True
        if now - self._shown_at >= self._interval_s:
            self._show()
            self._shown_at = now

    def message(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def close(self) -> None:
        if self._unshown:
            self._show()

    def _show(self) -> None:
        step, *others = self._meter.parts()
        self.message("  ".join([step, *self._meter.done_parts(), *others]))
        self._unshown = False


class BarProgress:
    """A bar at the foot of a terminal; messages scroll above it. clock: seconds, ascending."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]):
        self._stream, self._clock = stream, clock
        self._meter = RunMeter()
        self._shown_at = -BAR_INTERVAL_S
        self._bar: QuietBar | None = None

    def update(self, step: int, samples: int, loss: float, fraction_done: float | None = None) -> None:
        now = self._clock()
        self._meter.note(now, step, samples, loss, fraction_done)
        if self._bar is None or now - self._shown_at >= BAR_INTERVAL_S:
            self._show()
            self._shown_at = now

    def message(self, line: str) -> None:
        if self._bar is None:
            self._stream.write(line + "\n")
            self._stream.flush()
        else:
            self._bar.write(line, file=self._stream)

    def close(self) -> None:
        if self._bar is not None:
            self._show()
            self._bar.close()
            self._bar = None

    def _show(self) -> None:
        fraction_done, text = self._meter.fraction_done, "  ".join(self._meter.parts())
        bar_format = "{desc}" if fraction_done is None else "{percentage:3.0f}% |{bar:10}| {desc}"
        n = min(1.0, fraction_done or 0.0)
        if self._bar is None:
            # All that tqdm has to do is draw: rates and times are the meter's, which knows no number of steps.
            self._bar = QuietBar(
                file=self._stream,
                total=1.0,
                initial=n,
                desc=text,
                bar_format=bar_format,
                ncols=_columns(self._stream),
                nrows=2,  # one bar needs no more; a terminal that says 0 would be shown none
                miniters=1,
            )
        else:
            self._bar.n, self._bar.bar_format, self._bar.ncols = n, bar_format, _columns(self._stream)
            self._bar.set_description_str(text)


class QuietBar(tqdm):
    """A bar that is drawn when it is told to, without tqdm's thread that looks after silent bars."""

    monitor_interval = 0


class RunMeter:
    """Turns updates into a smoothed loss, samples per second and time left. Knows no clock and shows nothing."""

    def __init__(self) -> None:
        self.fraction_done: float | None = None
        self._step = 0
        self._loss_sum = self._loss_weight = 0.0
        self._marks: deque[tuple[float, int]] = deque()  # time and samples, within the rate's window
        self._first: tuple[float, float] | None = None  # time and share done when that was first known
        self._now, self._samples = 0.0, 0

    def note(self, now: float, step: int, samples: int, loss: float, fraction_done: float | None) -> None:
        """Take in an update. now: seconds. The first one only starts the clock: it may have compiled kernels."""
        self._now, self._step, self._samples, self.fraction_done = now, step, samples, fraction_done
        self._loss_sum += LOSS_WEIGHT * (loss - self._loss_sum)
        self._loss_weight += LOSS_WEIGHT * (1.0 - self._loss_weight)
        if not self._marks or now - self._marks[-1][0] >= RATE_MARK_S:
            self._marks.append((now, samples))
        while len(self._marks) > 2 and now - self._marks[1][0] >= RATE_WINDOW_S:
            self._marks.popleft()
        if self._first is None and fraction_done is not None:
            self._first = now, fraction_done

    @property
    def loss(self) -> float:
        """Mean of the losses so far, recent ones weighing more."""
        return self._loss_sum / self._loss_weight

    @property
    def samples_per_s(self) -> float | None:
        """Over the window of the rate; None before any time has passed."""
        since, samples = self._marks[0]
        return (self._samples - samples) / (self._now - since) if self._now > since else None

    @property
    def seconds_left(self) -> float | None:
        """If all goes on as fast as from the first update to now; None when that cannot be said."""
        if self._first is None or self.fraction_done is None:
            return None
        since, fraction = self._first
        if self.fraction_done <= fraction:
            return None
        return (1.0 - self.fraction_done) * (self._now - since) / (self.fraction_done - fraction)

    def parts(self) -> list[str]:
        """Step, loss, rate and time left, as far as they are known."""
        parts = [f"step {self._step:,}", f"loss {figure(self.loss)}"]
        if self.samples_per_s is not None:
            parts.append(f"{_three_digits(self.samples_per_s)} samples/s")
        if self.seconds_left is not None and self.fraction_done != 1.0:
            parts.append(f"{format_duration(self.seconds_left)} left")
        return parts

    def done_parts(self) -> list[str]:
        """The share done, rounded down: 100% is the end and nothing before it. Empty when it is not known."""
        return [] if self.fraction_done is None else [f"{int(self.fraction_done * 100)}% done"]


def format_duration(seconds: float) -> str:
    """The two largest units: `45 s`, `1 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def _columns(stream: TextIO) -> int:
    """Columns of a terminal. Some say 0, or nothing: there the bar may have 80."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_COLUMNS
    except OSError:
        return DEFAULT_COLUMNS


def _three_digits(number: float) -> str:
    rounded = float(f"{number:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:.3g}"
