"""A temporary file without a name, which is gone when it is closed or the process ends, however it ends."""

from __future__ import annotations

import tempfile
import weakref
from typing import Any

import numpy as np

from cupyrec.errors import OutputError


class NamelessFile:
    """Arrays are appended to it; then it is read, or mapped by its `fileno`. When it is dropped it is closed."""

    def __init__(self, what: str, hint: str = "") -> None:
        """what: the file holds, in words; hint: what else can be done where there is no room. Raises OutputError."""
        self._what, self._hint = what, hint
        try:
            # Of IO[bytes] the unbuffered kind, whose `readinto` its type does not have.
            self._file: Any = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._error(error) from None
        self.close = weakref.finalize(self, self._file.close)

    def append(self, items: np.ndarray) -> None:
        """Write a C-contiguous array after what was written before. On OutputError the file is gone."""
        unwritten = items.reshape(-1).view(np.uint8).data
        try:
            while unwritten:
                # A raw file may take less at once.
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:
            self.close()
            raise self._error(error) from None

    def read(self, start: int, items: np.ndarray) -> None:
        """Fill a C-contiguous array from a place in bytes. Nothing is appended afterwards. Raises OSError."""
        self._file.seek(start)
        unread = items.reshape(-1).view(np.uint8).data
        while unread:
            count = self._file.readinto(unread)
            if not count:
                raise OSError(f"the temporary file of {self._what} ends {len(unread)} bytes too early")
            unread = unread[count:]

    def fileno(self) -> int:
        """The file's descriptor."""
        return int(self._file.fileno())

    def _error(self, error: OSError) -> OutputError:
        # There may be no such folder at all.
        place = tempfile.tempdir or "the folder for temporary files"
        return OutputError(
            f"{place}: cannot write the temporary file of {self._what} ({error.strerror or error}): free some space "
            f"there, or choose another folder by TMPDIR{self._hint}"
        )
