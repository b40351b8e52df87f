"""The bad rows of a preparation, in a file that is cut back to where the preparation goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cupyrec.datasets.bad_rows import BadRowLog, is_same_file
from cupyrec.datasets.criteo_rows import BadLine
from cupyrec.datasets.durable_files import output_errors, sync_file, sync_folder
from cupyrec.datasets.preparing.journal import Journal
from cupyrec.errors import ConfigError


class BadRowsFile:
    """skips: whether bad rows are left out at all; size_bytes: of the file, 0 while there is none.

    The file may be a device such as /dev/null, which holds nothing and is never cut.
    """

    def __init__(self, path: Path, *, skips: bool, own: bool = True, overwrite: bool = False) -> None:
        """own: whether it is the folder's own; another one that is there must be known to the journal, or overwrite."""
        self.skips, self.size_bytes = skips, 0
        self.path = path
        self._own, self._overwrite = own, overwrite
        self._is_device = path.exists() and not path.is_file()
        self._log = BadRowLog(path)
        self._unsynced = False

    def resume(self, journal: Journal, bad_rows: int, size_bytes: int) -> None:
        """Cut the file back to what it held after so many bad rows, and let the journal know it.

        Raises ConfigError when it holds less, or is a file that this preparation has not written.
        """
        if bad_rows and not self._is_device:
            with output_errors(self.path):
                if not self.path.is_file() or self.path.stat().st_size < size_bytes:
                    raise ConfigError(
                        f"{self.path}: does not hold the {bad_rows} bad rows of before; name the same --bad-rows, or "
                        "start anew with --overwrite"
                    )
        known = [entry["bad_rows"] for entry in journal.entries if "bad_rows" in entry]
        if (self.skips or bad_rows) and not self._own and str(self.path.absolute()) not in known:
            is_known = any(is_same_file(self.path, Path(path)) for path in known)
            if self.path.is_file() and not is_known and not self._overwrite:
                raise exists(self.path)
            journal.append({"bad_rows": str(self.path.absolute())})
        if bad_rows and not self._is_device:
            with output_errors(self.path):
                os.truncate(self.path, size_bytes)
        self._log.count, self.size_bytes = bad_rows, size_bytes

    def report(self, file: Path, first_line: int, lines: int, bad_lines: Sequence[BadLine]) -> None:
        """See BadRowLog.report. Raises OutputError."""
        self._log.report(file, first_line, lines, bad_lines)
        with output_errors(self.path):
            self.size_bytes = self.path.stat().st_size
        self._unsynced = True

    def discard(self) -> None:
        """Remove what was reported: a preparation that begins again will report it again. Raises OutputError."""
        if self.size_bytes and not self._is_device:
            with output_errors(self.path):
                self.path.unlink(missing_ok=True)

    def sync(self) -> None:
        """Return when all that was reported is on the disk. Raises OutputError."""
        if self._unsynced and not self._is_device:
            # Before the fsync: what another thread reports in the meantime may not be part of it.
            self._unsynced = False
            with output_errors(self.path):
                sync_file(self.path)
                sync_folder(self.path.parent)


def exists(path: Path) -> ConfigError:
    """The error for a file that must stay as it is."""
    return ConfigError(f"{path}: exists; name another file with --bad-rows, or replace it with --overwrite")
