"""How often each row is used: counted from batches, kept in a .npy file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cupyrec.batch import Batch
from cupyrec.datasets.durable_files import durable_file
from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.errors import DataError

MOST_LOOKUPS = 2**63 - 1


def new_row_counts(rows: int) -> np.ndarray:
    """(R,) int64, zeros."""
    return np.zeros(rows, np.int64)


def add_lookups(counts: np.ndarray, rows: Any) -> None:
    """counts[rows[l]] += 1 for each lookup l. counts: (R,) int64, modified; rows: (N,) int64."""
    _add(0, rows.shape[0], rows, counts)


def count_rows(batches: Iterable[Batch], rows: int) -> np.ndarray:
    """(R,) int64: the lookups of each row in all batches. rows: R."""
    counts = new_row_counts(rows)
    for batch in batches:
        add_lookups(counts, batch.rows)
    return counts


def most_used_rows(counts: Any, most: int) -> np.ndarray:
    """(n,) int64, ascending: the rows used most, at most so many; the lower of equals, and none that is never used."""
    counts = np.asarray(counts, np.int64)
    if most >= counts.shape[0]:
        return np.flatnonzero(counts > 0)
    if most < 1:
        return np.zeros(0, np.int64)
    # No order of all rows is made: for large tables it would take more memory than the counts.
    least = max(int(np.partition(counts, -most)[-most]), 1)
    above = np.flatnonzero(counts > least)
    equal = np.flatnonzero(counts == least)[: most - above.shape[0]]
    return np.sort(np.concatenate([above, equal]))


def read_row_counts(path: str | Path, rows: int) -> np.ndarray:
    """(R,) int64: the counts in a .npy file. rows: R, which the file must have. Raises DataError."""
    try:
        counts = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path=path) from None
    except Exception:
        # NumPy raises whatever its parsers do, and what it says would be about pickles.
        raise DataError(
            "not a file of row counts (.npy), such as cupyrec advise --row-counts writes", path=path
        ) from None
    if not isinstance(counts, np.ndarray):
        counts.close()  # an archive of several
        raise DataError("not a file of row counts: one list of whole numbers is expected", path=path)
    if counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer):
        raise DataError("not a file of row counts: one list of whole numbers is expected", path=path)
    if counts.shape[0] != rows:
        raise DataError(
            f"counts {counts.shape[0]:,} rows, but the tables have {rows:,}; count again for the same tables",
            path=path,
        )
    if counts.size and (counts.min() < 0 or counts.max() > MOST_LOOKUPS):
        raise DataError("not a file of row counts: some are negative or beyond 64 bits", path=path)
    return counts.astype(np.int64, copy=False)


def write_row_counts(path: str | Path, counts: np.ndarray) -> None:
    """Write counts, whole or not at all. Raises OutputError."""
    # To a file that is open for reading too NumPy writes by way of Python, whose error tells what the system said.
    with durable_file(Path(path)) as partial, open(partial, "w+b") as file:
        np.save(file, counts, allow_pickle=False)


@cpu_kernel
def _add(start, stop, rows, counts):
    for at in range(start, stop):
        counts[rows[at]] += 1
