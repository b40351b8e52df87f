"""Count the bad rows that are skipped, each once, and keep their text in a file."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from cupyrec.datasets.criteo_rows import BadLine
from cupyrec.errors import ConfigError, OutputError


def check_log_file(
    path: Path,
    inputs: Iterable[Path],
    *,
    overwrite: bool,
    what: str = "the bad rows",
    option: str = "--bad-rows",
    can_overwrite: bool = True,
) -> None:
    """Make sure that a file that will be written can be, and replaces nothing that should stay.

    inputs: files that are read, which it may never be; overwrite: whether it may replace another one.
    what, option: what it holds, and how it is named on the command line; can_overwrite: whether --overwrite may be
    given. Raises ConfigError, and OutputError when it cannot be written.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: {what} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise ConfigError(f"{path}: a folder; name a file with {option}")
    for file in inputs:
        if is_same_file(path, file):
            raise ConfigError(f"{what} would overwrite the input file {file}; name another file with {option}")
    # Not /dev/null and its like, which lose nothing.
    if path.is_file() and not overwrite:
        how = "replace it with --overwrite" if can_overwrite else "remove it"
        raise ConfigError(f"{path}: exists; name another file with {option}, or {how}")
    _try_to_write(path, what, option)


def _try_to_write(path: Path, what: str, option: str) -> None:
    """Raise OutputError when that is not allowed; nothing is changed. A pipe or device is not tried."""
    try:
        if path.is_file():
            with open(path, "ab"):
                pass
        elif not path.exists():
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise OutputError(
            f"{path}: {what} cannot be written: {error.strerror}; name another file with {option}"
        ) from None


def is_same_file(one: Path, other: Path) -> bool:
    """Whether both are there and are one file, whatever they are called."""
    try:
        return one.samefile(other)
    except OSError:
        return False


class BadRowLog:
    """Bad rows met so far, in whatever part of the data and however often it is read.

    The file, made with the first bad row, has a line for each: file, 1-based line, reason and the text of the
    row, separated by tabs; `cut -f4-` gives the rows back. Several threads may report at once.
    """

    def __init__(self, path: str | Path | None = None):
        """path: the file for bad rows, replaced when it exists; None only counts them."""
        self.count = 0
        self.first_reason = ""  # what is wrong with the first
        self._path = None if path is None else Path(path)
        self._known: dict[Path, _Lines] = {}
        self._lock = threading.Lock()

    def report(self, file: Path, first_line: int, lines: int, bad_lines: Sequence[BadLine]) -> None:
        """Take note of what was found in `lines` lines from `first_line` (0-based) on; again is no news.

        bad_lines: their line numbers count from first_line. Raises OutputError.
        """
        with self._lock:
            known = self._known.setdefault(file, _Lines())
            new = [bad for bad in bad_lines if first_line + bad.line not in known]
            if new:
                self._write(file, first_line, new)
            known.add(first_line, first_line + lines)
            self.count += len(new)
            if new and not self.first_reason:
                self.first_reason = new[0].reason

    def discard(self) -> None:
        """Nothing came of reading the data: remove the file, which would stand in the way of the next attempt."""
        # Not /dev/null and its like.
        if self.count and self._path is not None and self._path.is_file():
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _write(self, file: Path, first_line: int, bad_lines: Sequence[BadLine]) -> None:
        if self._path is None:
            return
        try:
            with open(self._path, "ab" if self.count else "wb") as output:
                for bad in bad_lines:
                    place = [os.fsencode(file), b"%d" % (first_line + bad.line + 1), bad.reason.encode()]
                    output.write(b"\t".join([*place, bad.text]) + b"\n")
        except OSError as error:
            raise OutputError(f"{self._path}: the bad rows cannot be written: {error.strerror}") from None


class _Lines:
    """A set of line numbers as intervals: a few of them cover a file that is read in order."""

    def __init__(self) -> None:
        self._intervals: list[tuple[int, int]] = []

    def __contains__(self, line: int) -> bool:
        return any(start <= line < stop for start, stop in self._intervals)

    def add(self, start: int, stop: int) -> None:
        """Add the lines from start to stop (exclusive), merged with the intervals that they touch."""
        apart = []
        for interval in self._intervals:
            if interval[1] < start or stop < interval[0]:
                apart.append(interval)
            else:
                start, stop = min(start, interval[0]), max(stop, interval[1])
        self._intervals = sorted([*apart, (start, stop)])
