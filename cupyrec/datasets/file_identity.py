"""What a large file is known by when work goes on later: its size, and checksums of its ends and of samples between."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from cupyrec.errors import DataError

# Read of each end.
END_BYTES = 1 << 20
# Read between the ends, evenly spread: a change of one byte of a large file may be missed, another content is not.
SAMPLES = 64
SAMPLE_BYTES = 1 << 16


def file_identity(path: Path, *, whole: bool = False) -> dict[str, int]:
    """`bytes` and `crc32` of a file, JSON-safe; the same for the same content, wherever and whenever it was written.

    whole: read all of it, as for small files that stand for others. Up to 6 MiB are read as a whole anyway. Raises
    DataError when it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            checksum = 0
            for start, stop in [(0, size)] if whole else _ranges(size):
                file.seek(start)
                for at in range(start, stop, END_BYTES):
                    checksum = zlib.crc32(file.read(min(END_BYTES, stop - at)), checksum)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None
    return {"bytes": size, "crc32": checksum}


def _ranges(size: int) -> Iterator[tuple[int, int]]:
    """What is read of a file of so many bytes: starts and stops, ascending."""
    between = size - 2 * END_BYTES
    if between <= SAMPLES * SAMPLE_BYTES:
        yield 0, size
        return
    yield 0, END_BYTES
    for number in range(SAMPLES):
        start = END_BYTES + (between - SAMPLE_BYTES) * number // (SAMPLES - 1)
        yield start, start + SAMPLE_BYTES
    yield size - END_BYTES, size
