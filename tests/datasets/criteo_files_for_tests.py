"""Make small Criteo files with known rows."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa


def make_line(number: int, **cells: bytes) -> bytes:
    """A good line, told from others by its first integer; cells replaces some by column, as c1=b"2"."""
    row = [b"%d" % (number % 2), b"%d" % number]
    row += [b"%d" % (number * column % 50) for column in range(12)]
    row += [b"%08x" % (number * 7919 + column) for column in range(26)]
    for name, cell in cells.items():
        row[int(name[1:]) - 1] = cell
    return b"\t".join(row) + b"\n"


def make_lines(first: int, stop: int) -> bytes:
    return b"".join(make_line(number) for number in range(first, stop))


def first_integers(batches) -> list[int]:
    """The number of each line of make_line, found again in the batches."""
    return [round(float(value)) for batch in batches for value in np.expm1(batch.dense[:, 0].astype(np.float64))]


def compress(content: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(content, mtime=0)
    if suffix == ".zst":
        return pa.compress(content, codec="zstd", asbytes=True)
    return content


def write(path: Path, content: bytes) -> Path:
    """Write a file, compressed as its name says."""
    path.write_bytes(compress(content, path.suffix))
    return path
