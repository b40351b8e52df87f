"""Whether files are the same as when a checkpoint was made; see file_identity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cupyrec.datasets.file_identity import file_identity
from cupyrec.errors import DataError

# Of a manifest, which has checksums of all blocks, and of a split.
WHOLE_SUFFIX = ".json"


def fingerprint(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Of each file the name, the bytes and a CRC-32, JSON-safe. Raises DataError."""
    return [_of_file(file) for file in files]


def check_same_files(files: Sequence[Path], before: Sequence[dict[str, Any]], what: str) -> None:
    """Raise DataError when files are not those of a fingerprint, in the same order, wherever they lie now.

    what: what they are for, such as training.
    """
    for file, then in zip(files, before, strict=False):
        now = _of_file(file)
        if now["name"] != then["name"]:
            raise DataError(f"is read in place of {then['name']}, with which the checkpoint was made", path=file)
        if now != then:
            how = f"it had {then['bytes']:,} bytes" if now["bytes"] != then["bytes"] else "its content is another"
            raise DataError(f"has changed since the checkpoint was made ({how})", path=file)
    if len(files) > len(before):
        raise DataError(f"was not among the {what} files when the checkpoint was made", path=files[len(before)])
    if len(files) < len(before):
        raise DataError(f"is missing among the {what} files", path=before[len(files)]["name"])


def _of_file(file: Path) -> dict[str, Any]:
    return {"name": file.name, **file_identity(file, whole=file.suffix == WHOLE_SUFFIX)}
