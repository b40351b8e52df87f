"""The checksum that the safetensors files of a model have in their own metadata.

`crc32` in `__metadata__` is the CRC-32 of all of the file with eight zeros in place of its eight hexadecimal digits;
to other programs it is one more text there. Files of other programs, and of cupyrec before it did so, have none.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from cupyrec.errors import ModelError
from cupyrec.saving.safetensors_header import LENGTH_BYTES

CHECKSUM_KEY, NO_CHECKSUM = "crc32", "00000000"
# A quote within a name or a text has a backslash before it. Other programs may write spaces.
STATED = re.compile(rb'"crc32"\s*:\s*"([^"]*)"')
# What a core's cache holds.
BLOCK_BYTES = 2**20


def place_of_checksum(header: bytes) -> tuple[int, int] | None:
    """Where the digits begin and end in the bytes before the data; None where there are none."""
    found = STATED.search(header)
    return None if found is None else found.span(1)


def check_checksums(paths: Sequence[Path], watch: Callable[[float], None] = lambda share: None) -> bool:
    """Read files that were opened before, and compare the checksums of those that have one; whether all have.

    watch: is told the share done, 0 to 1. Raises ModelError.
    """
    total = max(sum(path.stat().st_size for path in paths), 1)
    done, all_have, block = 0, True, memoryview(bytearray(BLOCK_BYTES))
    for path in paths:
        try:
            with open(path, "rb") as file:
                length = file.read(LENGTH_BYTES)
                header = length + file.read(int.from_bytes(length, "little"))
                place = place_of_checksum(header)
                if place is None:
                    all_have = False
                    continue
                start, stop = place
                stated = header[start:stop].decode("utf-8", "replace")
                checksum = zlib.crc32(header[:start] + NO_CHECKSUM.encode() + header[stop:])
                while count := file.readinto(block):
                    checksum = zlib.crc32(block[:count], checksum)
                    done += count
                    watch(done / total)
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from None
        if stated != f"{checksum:08x}":
            raise ModelError(
                f"{path}: damaged, or changed by a program that kept `{CHECKSUM_KEY}` in its metadata: the checksum is "
                f"{checksum:08x}, not {stated}; take the file from where it is whole, or remove that entry"
            )
    watch(1.0)
    return all_have
