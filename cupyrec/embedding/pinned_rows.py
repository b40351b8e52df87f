"""Rows that have a slot for good: which they are, and a batch cut in two, the lookups of such rows and all others."""

from __future__ import annotations

import numpy as np

from cupyrec.batch import Batch
from cupyrec.devices.cpu import CpuDevice, CpuStream
from cupyrec.devices.numba_kernel import cpu_kernel, prefetch
from cupyrec.embedding.hit_map import find, home, new_cells, shift_of

# Memory is asked for so many lookups ahead.
AHEAD = 16


class PinnedRows:
    """The pinned rows in their slots: slot i holds the i-th of them. Memory follows their number, not R.

    rows: (n,) int64, ascending; so the slots of one table are neighbours, and the scratchpad is like a host table.
    table_slots: (F,), how many pinned rows each table has.
    """

    def __init__(self, stream: CpuDevice | CpuStream, rows: np.ndarray, starts: np.ndarray) -> None:
        """rows: ascending; starts: (F + 1,), the first row of each table and, after them, R."""
        self.rows = rows
        self.table_slots = tuple(np.diff(np.searchsorted(rows, starts)).tolist())
        self._stream = stream
        self._cells = new_cells(rows.shape[0])
        _fill(rows, self._cells)
        self._lookups = self._bags = -1

    def split(self, batch: Batch) -> tuple[Batch, Batch]:
        """(hot, cold): the batch with its lookups of pinned rows alone, as slots, and with all its others. O(N).

        Both have all samples and bags of the batch, and the lookups of a bag in their order. Valid until the next call.
        """
        N, B, F = batch.lookups, batch.samples, batch.features
        self._reserve(N, F * B)
        hot_of_table = np.zeros(F, np.int64)
        self._stream.launch(_find_slots, F, batch.rows, batch.offsets, B, self._cells, self._slots, hot_of_table)
        first_hot = np.concatenate([[0], np.cumsum(hot_of_table)])
        hot_rows, cold_rows = self._hot_rows[: first_hot[F]], self._cold_rows[: N - first_hot[F]]
        hot_offsets, cold_offsets = self._hot_offsets[: F * B + 1], self._cold_offsets[: F * B + 1]
        self._stream.launch(
            _divide, F, batch.rows, batch.offsets, B, self._slots, first_hot,
            hot_rows, hot_offsets, cold_rows, cold_offsets,
        )  # fmt: skip
        hot_offsets[F * B], cold_offsets[F * B] = hot_rows.shape[0], cold_rows.shape[0]
        return (
            Batch(batch.dense, hot_rows, hot_offsets, batch.labels),
            Batch(batch.dense, cold_rows, cold_offsets, batch.labels),
        )

    def _reserve(self, lookups: int, bags: int) -> None:
        """Make room for the largest batch so far."""
        zeros = self._stream.zeros
        if self._lookups < lookups:
            self._lookups, self._slots = lookups, zeros(lookups, np.int32)
            self._hot_rows, self._cold_rows = zeros(lookups, np.int64), zeros(lookups, np.int64)
        if self._bags < bags:
            self._bags = bags
            self._hot_offsets, self._cold_offsets = zeros(bags + 1, np.int64), zeros(bags + 1, np.int64)


@cpu_kernel
def _fill(rows, cells):
    """Put the rows into an empty hash table, each with its slot."""
    shift = shift_of(cells)
    for slot in range(rows.shape[0]):
        at = find(cells, shift, rows[slot])
        cells[2 * at] = rows[slot]
        cells[2 * at + 1] = slot


@cpu_kernel
def _find_slots(start, stop, rows, offsets, B, cells, slots, hot_of_table):
    """The slot of each lookup of the tables start .. stop-1, -1 where its row is not pinned; and how many are."""
    shift = shift_of(cells)
    for table in range(start, stop):
        first, last = offsets[table * B], offsets[(table + 1) * B]
        hot = 0
        for at in range(first, last):
            if at + AHEAD < last:
                prefetch(cells, (2 * home(rows[at + AHEAD], shift),))
            # A free place has the value -1, as it has the key.
            slot = cells[2 * find(cells, shift, rows[at]) + 1]
            slots[at] = slot
            hot += slot >= 0
        hot_of_table[table] = hot


@cpu_kernel
def _divide(start, stop, rows, offsets, B, slots, first_hot, hot_rows, hot_offsets, cold_rows, cold_offsets):
    """Write the lookups of the tables start .. stop-1 to their side, and where each bag begins there."""
    for table in range(start, stop):
        hot = first_hot[table]
        cold = offsets[table * B] - hot
        for bag in range(table * B, (table + 1) * B):
            hot_offsets[bag], cold_offsets[bag] = hot, cold
            for at in range(offsets[bag], offsets[bag + 1]):
                if slots[at] >= 0:
                    hot_rows[hot] = slots[at]
                    hot += 1
                else:
                    cold_rows[cold] = rows[at]
                    cold += 1
