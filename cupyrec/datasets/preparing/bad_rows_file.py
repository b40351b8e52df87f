"""The bad rows of a preparation, in a file that is cut back to where the preparation goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cupyrec.datasets.bad_rows import BadRowLog
from cupyrec.datasets.criteo_rows import BadLine
from cupyrec.datasets.durable_files import output_errors, sync_file, sync_folder
from cupyrec.errors import ConfigError


class BadRowsFile:
    """skips: whether bad rows are left out at all; size_bytes: of the file, 0 while there is none.

    The file may be a device such as /dev/null, which holds nothing and is never cut.
    """

    def __init__(self, path: Path, *, skips: bool) -> None:
        self.skips, self.size_bytes = skips, 0
        self.path = path
        self._is_device = path.exists() and not path.is_file()
        self._log = BadRowLog(path)
        self._unsynced = False

    def resume(self, bad_rows: int, size_bytes: int) -> None:
        """Cut the file back to what it held after so many bad rows. Raises ConfigError when it holds less."""
        if bad_rows and not self._is_device:
            with output_errors(self.path):
                if not self.path.is_file() or self.path.stat().st_size < size_bytes:
                    raise ConfigError(
                        f"{self.path}: does not hold the {bad_rows} bad rows of before; name the same --bad-rows, or "
                        "start anew with --overwrite"
                    )
                os.truncate(self.path, size_bytes)
        self._log.count, self.size_bytes = bad_rows, size_bytes

    def report(self, file: Path, first_line: int, lines: int, bad_lines: Sequence[BadLine]) -> None:
        """See BadRowLog.report. Raises OutputError."""
        self._log.report(file, first_line, lines, bad_lines)
        with output_errors(self.path):
            self.size_bytes = self.path.stat().st_size
        self._unsynced = True

    def sync(self) -> None:
        """Return when all that was reported is on the disk. Raises OutputError."""
        if self._unsynced and not self._is_device:
            with output_errors(self.path):
                sync_file(self.path)
                sync_folder(self.path.parent)
        self._unsynced = False
