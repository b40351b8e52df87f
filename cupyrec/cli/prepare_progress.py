"""What `cupyrec prepare` shows while it works: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import click

from cupyrec.counted import counted

LINES = 10  # when nobody watches a terminal


class PrepareProgress:
    """The share done, rows, rows/s and, on a terminal, the time left. For a `with` statement."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """stream: standard error when not given; clock: seconds, ascending."""
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._is_terminal = self._stream.isatty()
        self._bar: Any = None
        # Time and rows at the first report: rows of an earlier call are not of this one's speed.
        self._first: tuple[float, int] | None = None
        self._lines_shown = 0

    def show(self, share: float, rows: int) -> None:
        """share: done, 0 to 1; rows: prepared."""
        now = self._clock()
        if self._first is None:
            self._first = now, rows
            self._lines_shown = int(share * LINES)
        since, before = self._first
        text = counted(rows, "row")
        if rows > before and now > since:
            text += f", {(rows - before) / (now - since):,.0f} rows/s"
        if self._is_terminal:
            self._draw(share, text)
        elif int(share * LINES) > self._lines_shown:
            self._lines_shown = int(share * LINES)
            click.echo(f"{self._lines_shown * 100 // LINES}% done, {text}", file=self._stream)

    def show_rebuild(self, shards: int) -> None:
        """Say that nothing new is prepared for now. shards: of an earlier call, that are read again."""
        # A line on a terminal too: the bar begins when it is known how much is done.
        click.echo(f"reading {shards:,} {'shard' if shards == 1 else 'shards'} again, to go on", file=self._stream)

    def _draw(self, share: float, text: str) -> None:
        if self._bar is None:
            from cupyrec.runs.progress import QuietBar

            bar_format = "{percentage:3.0f}% |{bar:20}| {remaining} left  {desc}"
            # All that tqdm counts is the share done; what was done before this call takes no time.
            self._bar = QuietBar(total=1.0, initial=share, bar_format=bar_format, file=self._stream)
        self._bar.set_description_str(text, refresh=False)
        self._bar.update(share - self._bar.n)

    def __enter__(self) -> PrepareProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
