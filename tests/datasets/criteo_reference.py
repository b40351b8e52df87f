"""Read Criteo data the slow and obvious way: the oracle for the reader."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Expected:
    """What reading should give: the good rows, and (1-based line, 1-based column, text) of the bad."""

    labels: list[float] = field(default_factory=list)
    dense: list[list[float]] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    good_lines: list[int] = field(default_factory=list)
    bad: list[tuple[int, int | None, bytes]] = field(default_factory=list)


def read(content: bytes, hash_rows: list[int], *, whole_file: bool = True) -> Expected:
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    # Blank lines at the very end of a file are none.
    while whole_file and lines and not lines[-1].strip(b"\r"):
        lines.pop()
    expected = Expected()
    for number, line in enumerate(lines, start=1):
        text = line[:-1] if line.endswith(b"\r") else line
        cells = text.split(b"\t")
        column = first_bad_column(cells)
        if len(cells) != 40 or column is not None:
            expected.bad.append((number, column, text))
            continue
        expected.good_lines.append(number)
        expected.labels.append(float(cells[0]))
        expected.dense.append([math.log(max(int(cell or b"0"), 0) + 1) for cell in cells[1:14]])
        expected.ids.append([int(cell or b"0", 16) % rows for cell, rows in zip(cells[14:], hash_rows, strict=True)])
    return expected


def first_bad_column(cells: list[bytes]) -> int | None:
    """1-based; None for a row of another width too."""
    if len(cells) != 40:
        return None
    for column, cell in enumerate(cells, start=1):
        if column == 1:
            good = cell in (b"0", b"1")
        elif column <= 14:
            good = cell == b"" or (
                re.fullmatch(rb"[+-]?[0-9]{1,19}", cell) is not None and -(2**63) <= int(cell) < 2**63
            )
        else:
            good = re.fullmatch(rb"[0-9a-fA-F]{0,16}", cell) is not None
        if not good:
            return column
    return None


def join_batches(batches: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (n,), dense (n, 13) and global rows (n, 26) of all batches, sample after sample."""
    if not batches:
        return np.zeros(0), np.zeros((0, 13)), np.zeros((0, 26), dtype=np.int64)
    return (
        np.concatenate([batch.labels for batch in batches]),
        np.concatenate([batch.dense for batch in batches]),
        np.concatenate([batch.rows.reshape(26, -1).T for batch in batches]),
    )
