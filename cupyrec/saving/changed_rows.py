"""Which rows training may have changed since a checkpoint began to be written: a bit for each row."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

import numpy as np

from cupyrec.batch import Batch
from cupyrec.devices.numba_kernel import cpu_kernel

# Looked at at a time: a million rows.
BLOCK_OF_BITS = 2**17


class ChangedRows:
    """Marks the rows of every batch that trains between `begin` and `end`, and perhaps those of some that train later.

    Each batch is reported twice: `read`, before anybody can train it, and `trained`, in the same order; any thread may
    do so. Between the two a batch is in flight: it may train at any moment.
    """

    def __init__(self, rows: int) -> None:
        """rows: R, of all tables."""
        self._rows = rows
        self._bits: np.ndarray | None = None  # R bits, made when they are first wanted
        self._marks = False
        self._in_flight: deque[np.ndarray] = deque()
        self._lock = threading.Lock()

    def forget_batches(self) -> None:
        """No batch is in flight: those that were will not train."""
        with self._lock:
            self._in_flight.clear()

    def read(self, batch: Batch) -> None:
        """A batch is about to be handed to training."""
        with self._lock:
            self._in_flight.append(batch.rows)
            if self._marks:
                self._mark(batch.rows)

    def trained(self) -> None:
        """The first of the batches in flight has trained."""
        with self._lock:
            self._in_flight.popleft()

    def begin(self) -> None:
        """Mark from now on, beginning with the batches in flight; what was marked before is forgotten."""
        with self._lock:
            if self._bits is None:
                self._bits = np.zeros(-(-self._rows // 8), np.uint8)
            self._bits[:] = 0
            self._marks = True
            for rows in self._in_flight:
                self._mark(rows)

    def end(self) -> None:
        """Mark no more; what is marked stays."""
        with self._lock:
            self._marks = False

    def count(self) -> int:
        """How many rows are marked."""
        return sum(rows.shape[0] for rows in self.blocks())

    def blocks(self) -> Iterator[np.ndarray]:
        """The marked rows, ascending: (n,) int64 at a time, n at least 1."""
        if self._bits is None:
            return
        for at in range(0, self._bits.shape[0], BLOCK_OF_BITS):
            rows = np.flatnonzero(np.unpackbits(self._bits[at : at + BLOCK_OF_BITS], bitorder="little"))
            if rows.size:
                yield rows.astype(np.int64, copy=False) + 8 * at

    def _mark(self, rows: np.ndarray) -> None:
        _mark_rows(0, rows.shape[0], rows, self._bits)


@cpu_kernel
def _mark_rows(start, stop, rows, bits):
    for at in range(start, stop):
        bits[rows[at] >> 3] |= np.uint8(1 << (rows[at] & 7))
