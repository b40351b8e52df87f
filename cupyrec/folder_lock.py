"""One process at a time writes to a folder."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

from cupyrec.errors import OutputError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not a POSIX system: there is no such lock, and nobody is kept out
    fcntl = None

# In the folder, empty, and left there.
LOCK_FILE = ".lock"


class FolderLock:
    """While it is entered, another FolderLock on the folder, of this process or another, cannot be entered.

    Its file stays behind: were it removed, one process could lock it and another a new one of the same name.
    The system releases the lock when the process ends, however it ends.
    """

    def __init__(self, folder: str | Path) -> None:
        """folder: must exist when the lock is entered."""
        self._folder = Path(folder)
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        """Raises OutputError when the folder is locked or cannot be written."""
        try:
            self._descriptor = open_locked(self._folder / LOCK_FILE)
        except BlockingIOError:
            raise OutputError(
                f"{self._folder}: another cupyrec is writing to it; wait for its end, or name another folder"
            ) from None
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be written: {error.strerror}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_locked(path: Path) -> int | None:
    """A descriptor of a file, made if need be: until it is closed, nobody else gets one here.

    None where the system has no such locks. Raises BlockingIOError when somebody else has one, and other OSErrors when
    the file cannot be opened.
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass  # some network file systems have no locks; there nobody is kept out
    return descriptor
