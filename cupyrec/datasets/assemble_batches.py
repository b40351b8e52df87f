"""Cut a stream of parsed rows into batches of one size."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import numpy as np

from cupyrec.batch import Batch
from cupyrec.datasets.criteo_rows import DENSE_FEATURES, SPARSE_FEATURES
from cupyrec.datasets.hashed_rows import HashedRows


def assemble_batches(
    parts: Iterable[tuple[HashedRows, float, float]], batch_size: int
) -> Iterator[tuple[Batch, float]]:
    """Yield batches of batch_size samples, the last one with what is left, and the progress at their end.

    parts: rows in order, of any number, each with the progress (0 to 1) at its start and at its end.

    Every batch has memory of its own, but for its offsets: they are shared and read-only.
    """
    dense, rows, labels = _unwritten_batch(batch_size)
    filled, progress = 0, 0.0
    for part, progress_before, progress in parts:
        taken = 0
        while taken < len(part):
            count = min(batch_size - filled, len(part) - taken)
            source, target = slice(taken, taken + count), slice(filled, filled + count)
            dense[target] = part.dense[source]
            rows[:, target] = part.rows[:, source]
            labels[target] = part.labels[source]
            taken, filled = taken + count, filled + count
            if filled == batch_size:
                reached = progress_before + (progress - progress_before) * taken / len(part)
                yield Batch(dense, rows.reshape(-1), _offsets(filled), labels), reached
                dense, rows, labels = _unwritten_batch(batch_size)
                filled = 0
    if filled:
        last = np.ascontiguousarray(rows[:, :filled]).reshape(-1)
        yield Batch(dense[:filled].copy(), last, _offsets(filled), labels[:filled].copy()), progress


# Two sizes are in use at a time: that of all batches and that of the last one.
@functools.lru_cache(maxsize=4)
def one_lookup_offsets(bags: int) -> np.ndarray:
    """(bags + 1,) int64, 0, 1, 2, ...: one lookup in every bag. Shared and read-only."""
    offsets = np.arange(bags + 1, dtype=np.int64)
    offsets.flags.writeable = False
    return offsets


def _offsets(samples: int) -> np.ndarray:
    return one_lookup_offsets(SPARSE_FEATURES * samples)


def _unwritten_batch(samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.empty((samples, DENSE_FEATURES), dtype=np.float32),
        np.empty((SPARSE_FEATURES, samples), dtype=np.int64),
        np.empty(samples, dtype=np.float32),
    )
