"""The bad rows of a preparation, in a file that is cut back to where the preparation goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cupyrec.datasets.bad_rows import BadRowLog
from cupyrec.datasets.criteo_rows import BadLine
from cupyrec.datasets.durable_files import output_errors, sync_file
from cupyrec.errors import ConfigError


class BadRowsFile:
    """skips: whether bad rows are left out at all; size_bytes: of the file, 0 while there is none."""

    def __init__(self, path: Path, *, skips: bool) -> None:
        self.skips, self.size_bytes = skips, 0
        self._path = path
        self._log = BadRowLog(path)
        self._unsynced = False

    def resume(self, bad_rows: int, size_bytes: int) -> None:
        """Cut the file back to what it held after so many bad rows. Raises ConfigError when it holds less."""
        if bad_rows:
            with output_errors(self._path):
                if not self._path.is_file() or self._path.stat().st_size < size_bytes:
                    raise ConfigError(
                        f"{self._path}: does not hold the {bad_rows} bad rows of before; name the same --bad-rows, or "
                        "start anew with --overwrite"
                    )
                os.truncate(self._path, size_bytes)
        self._log.count, self.size_bytes = bad_rows, size_bytes

    def report(self, file: Path, first_line: int, lines: int, bad_lines: Sequence[BadLine]) -> None:
        """See BadRowLog.report. Raises OutputError."""
        self._log.report(file, first_line, lines, bad_lines)
        with output_errors(self._path):
            self.size_bytes = self._path.stat().st_size
        self._unsynced = True

    def sync(self) -> None:
        """Return when all that was reported is on the disk. Raises OutputError."""
        if self._unsynced:
            self._unsynced = False
            with output_errors(self._path):
                sync_file(self._path)
