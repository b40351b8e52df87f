"""What `cupyrec prepare` shows while it works: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

import click

from cupyrec.cli.share_progress import ShareProgress
from cupyrec.counted import counted


class PrepareProgress:
    """The share done, rows, rows/s and, on a terminal, the time left. For a `with` statement."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """stream: standard error when not given; clock: seconds, ascending."""
        self._progress, self._clock = ShareProgress(stream), clock
        # Time and rows at the first report: rows of an earlier call are not of this one's speed.
        self._first: tuple[float, int] | None = None

    def show(self, share: float, rows: int) -> None:
        """share: done, 0 to 1; rows: prepared."""
        now = self._clock()
        if self._first is None:
            self._first = now, rows
            self._progress.begin(share)
        since, before = self._first
        text = counted(rows, "row")
        if rows > before and now > since:
            text += f", {(rows - before) / (now - since):,.0f} rows/s"
        self._progress.show(share, text)

    def show_rebuild(self, shards: int) -> None:
        """Say that nothing new is prepared for now. shards: of an earlier call, that are read again."""
        # A line on a terminal too: the bar begins when it is known how much is done.
        click.echo(f"reading {counted(shards, 'shard')} again, to go on", file=self._progress.stream)

    def __enter__(self) -> PrepareProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()
