"""Progress of work of which only the share done is known."""

from __future__ import annotations

import sys
from typing import Any, TextIO

import click

LINES = 10  # of progress when nobody watches a terminal


class ShareProgress:
    """A bar where the stream is a terminal, else a plain line at every tenth of the work. For a `with` statement."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """stream: standard error when not given."""
        self.stream = sys.stderr if stream is None else stream
        self._lines_shown = 0
        self._bar: Any = None

    def begin(self, share: float = 0.0) -> None:
        """Before the first `show`; the `with` statement does it. share: done before, which took no time."""
        self._lines_shown = int(share * LINES)
        if self.stream.isatty():
            from cupyrec.runs.progress import QuietBar

            bar_format = "{percentage:3.0f}% |{bar:20}| {remaining} left{desc}"
            # All that tqdm counts is the share done.
            self._bar = QuietBar(total=1.0, initial=share, bar_format=bar_format, file=self.stream)

    def show(self, share: float, text: str = "") -> None:
        """share: done so far, 0 to 1, never falling; text: more, of one line."""
        if self._bar is not None:
            self._bar.set_description_str(text and f"  {text}", refresh=False)
            self._bar.update(share - self._bar.n)
        elif int(share * LINES) > self._lines_shown:
            self._lines_shown = int(share * LINES)
            click.echo(f"{self._lines_shown * 100 // LINES}% done{text and f', {text}'}", file=self.stream)

    def close(self) -> None:
        """Leave the bar as it is now."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> ShareProgress:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
