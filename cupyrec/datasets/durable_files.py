"""Files that are there whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cupyrec.errors import ConfigError, OutputError, first_line
from cupyrec.folder_lock import LOCK_FILE

if TYPE_CHECKING:
    import pyarrow as pa

PARTIAL_SUFFIX = ".partial"

# What can be done, by what the system says of a disk, or a user's share of one, that is full, and of a file too large.
_HINTS = {
    os.strerror(errno.ENOSPC): "; make room, and try again",
    os.strerror(errno.EDQUOT): "; make room, and try again",
    os.strerror(errno.EFBIG): "; allow larger files (ulimit -f), or choose another disk, and try again",
}


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[Path]:
    """Give the path to write to, beside `path`; at the end what was written is on the disk and takes its place.

    When the block raises, nothing has changed. Raises OutputError for an OSError or an error of pyarrow within it.
    """
    partial = partial_path(path)
    try:
        with output_errors(path):
            yield partial
            sync_file(partial)
            os.replace(partial, path)
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def check_utf8(path: Path) -> None:
    """Raise ConfigError for a name that pyarrow cannot open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{path}: its name is not valid UTF-8; rename it") from None


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an OSError or an error of pyarrow within the block into an OutputError that names the path."""
    try:
        yield
    except OutputError:
        raise
    except _write_errors() as error:
        reason = _system_message(error)
        raise OutputError(f"{path}: cannot be written: {reason}{_HINTS.get(reason, '')}") from None


def write_durably(path: Path, content: bytes | memoryview | pa.Buffer) -> None:
    """Write a small file, whole or not at all. Raises OutputError."""
    with durable_file(path) as partial, open(partial, "wb") as file:
        file.write(content)


def make_folders(path: Path) -> list[Path]:
    """Make a folder and those above it where they are missing, and bring their names to the disk; return those made,
    the uppermost first. Raises OSError, and none is left.
    """
    made: list[Path] = []
    try:
        for folder in reversed([path, *path.parents]):
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
                with contextlib.suppress(PermissionError):
                    sync_folder(folder.parent)
    except BaseException:
        remove_unused(made)
        raise
    return made


def remove_unused(made: Sequence[Path]) -> None:
    """Remove what make_folders made, where it holds nothing but the lock."""
    with contextlib.suppress(OSError):
        for folder in reversed(made):
            if [file.name for file in folder.iterdir()] == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
            folder.rmdir()


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, which need not be there. Raises OutputError."""
    with output_errors(folder):
        there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
        return shutil.disk_usage(there).free


def partial_path(path: Path) -> Path:
    """Where a file is written before it takes its place."""
    return path.with_name(f".{path.name}{PARTIAL_SUFFIX}")


def remove_partials(folder: Path) -> None:
    """Remove what a process that was killed left of files that it wrote. Raises OSError."""
    for partial in folder.glob(f".*{PARTIAL_SUFFIX}"):
        partial.unlink()


def sync_file(path: Path) -> None:
    """Return when the content of a file is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk. Raises OSError."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        sync_file(folder)


def _write_errors() -> tuple[type[Exception], ...]:
    """OSError, and what pyarrow raises where it is loaded; who writes without it need not wait for it."""
    pyarrow = sys.modules.get("pyarrow")
    return (OSError,) if pyarrow is None else (OSError, pyarrow.ArrowException)


def _system_message(error: BaseException) -> str:
    """What the system said; of pyarrow's message, that part of the first line, or all of it where there is none."""
    text = getattr(error, "strerror", None) or first_line(error)
    _, found, detail = text.rpartition("Detail: ")
    return detail.partition("] ")[2] or detail if found else text
