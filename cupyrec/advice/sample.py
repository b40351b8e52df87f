"""A sample of the rows, small enough to simulate scratchpads of any size in bounded memory.

A row belongs to it when a hash of its number is low enough. All uses of a row are then in the sample, or none, so that
a scratchpad of S slots behaves on all rows nearly as one of rate * S slots on the sample. The sample begins with all
rows. Whenever it grows too large the threshold is halved, and about half of the rows drop out.

Source: Waldspurger, Park, Garthwaite, Ahmad, Efficient MRC Construction with SHARDS, FAST 2015; the fixed-size variant.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.devices.splitmix import GOLDEN_GAMMA, mix64
from cupyrec.embedding.hit_map import EMPTY, find, new_cells, shift_of, with_room

# Up to so many rows and uses, all figures are exact. Of the 1,285,180 rows that 3 million generated samples use, 1 in 4
# gave hit rates within 0.2 points and bytes within 0.5% of the exact ones, 1 in 32 within 0.8 points and 2%. The error
# is largest for lookahead at sizes so small that they bubble, where a little room more or less makes much difference.
MOST_ROWS = 2**19
# A use takes 12 bytes on disk, and about half a microsecond for all policies of one size.
MOST_USES = 2**25
# A sample with few rows says little: the number of uses alone makes it no smaller than this.
LEAST_ROWS = 2**13

ALL = np.uint64(2**64 - 1)
FIRST_CAPACITY = 1024


class RowSample:
    """Numbers the sampled rows as they are met, and counts how often each is used.

    rate:   the share of rows that are in the sample, 1, 1/2, 1/4, ...
    rows:   rows in the sample.
    """

    def __init__(self, most_rows: int = MOST_ROWS, most_uses: int = MOST_USES, least_rows: int = LEAST_ROWS) -> None:
        """most_rows: the sample is halved when it has more; most_uses: likewise, but not to fewer rows than least_rows.
        A use is a batch that uses a row.
        """
        self._most_rows, self._most_uses, self._least_rows = most_rows, most_uses, least_rows
        self.rate, self.rows = 1.0, 0
        self._threshold = ALL
        self._uses = self._named = 0
        self._cells = new_cells(FIRST_CAPACITY)
        # Of each id: its row, lookups, the batches that use it; -1 for the row of one that was dropped.
        self._of_id = np.zeros((FIRST_CAPACITY, 3), np.int64)

    def add(self, unique_rows: Any, segment_offsets: Any) -> np.ndarray:
        """The ids of the batch's sampled rows, (n,) int32, in the order of the rows.

        unique_rows: (U,) int64; segment_offsets: (U + 1,) int64, whose differences are the lookups of each row. Ids are
        given as rows are met, 0, 1, ...; one that is dropped is not given again. See `numbers`.
        """
        self._reserve(unique_rows.shape[0])
        ids = np.empty(unique_rows.shape[0], np.int32)
        taken, named = _take(unique_rows, segment_offsets, self._threshold, self._named, self._cells, self._of_id, ids)
        self.rows += named - self._named
        self._named, self._uses = named, self._uses + taken
        while self.rows > self._most_rows or (self._uses > self._most_uses and self.rows // 2 >= self._least_rows):
            self._halve()
        return ids[:taken]

    def numbers(self) -> np.ndarray:
        """(ids,) int32: for each id ever given, the place of its row among all sampled rows, in ascending order.

        -1 where the row was dropped.
        """
        rows = self._of_id[: self._named, 0]
        numbers = np.full(self._named, -1, np.int32)
        kept = np.flatnonzero(rows >= 0)
        numbers[kept[np.argsort(rows[kept])]] = np.arange(kept.shape[0], dtype=np.int32)
        return numbers

    def lookups(self) -> np.ndarray:
        """(rows,) int64: how often each sampled row was looked up, in ascending order of the rows."""
        rows, lookups, _ = self._of_id[: self._named].T
        kept = np.flatnonzero(rows >= 0)
        return lookups[kept[np.argsort(rows[kept])]]

    def _halve(self) -> None:
        self.rate /= 2
        self._threshold >>= np.uint64(1)
        self._cells.fill(EMPTY)
        self.rows, self._uses = _keep(self._threshold, self._cells, self._of_id[: self._named])

    def _reserve(self, unique: int) -> None:
        """Make room for so many ids more."""
        if self._named + unique > self._of_id.shape[0]:
            grown = np.zeros((max(self._named + unique, 2 * self._of_id.shape[0]), 3), np.int64)
            grown[: self._named] = self._of_id[: self._named]
            self._of_id = grown
        self._cells = with_room(self._cells, self.rows + unique)


@cpu_kernel
def _mixed(row):
    return mix64(np.uint64(row) + GOLDEN_GAMMA)


@cpu_kernel
def _take(rows, segment_offsets, threshold, named, cells, of_id, ids):
    """Write the ids of the sampled rows, naming new ones; returns how many, and how many ids there are then."""
    shift, taken = shift_of(cells), 0
    for u in range(rows.shape[0]):
        if _mixed(rows[u]) > threshold:
            continue
        at = find(cells, shift, rows[u])
        if cells[2 * at] == EMPTY:
            cells[2 * at], cells[2 * at + 1] = rows[u], named
            of_id[named, 0], of_id[named, 1], of_id[named, 2] = rows[u], 0, 0
            named += 1
        row_id = cells[2 * at + 1]
        of_id[row_id, 1] += segment_offsets[u + 1] - segment_offsets[u]
        of_id[row_id, 2] += 1
        ids[taken] = row_id
        taken += 1
    return taken, named


@cpu_kernel
def _keep(threshold, cells, of_id):
    """Drop the ids above the threshold and fill an empty table with the others; returns these and their uses."""
    shift, kept, uses = shift_of(cells), 0, 0
    for row_id in range(of_id.shape[0]):
        row = of_id[row_id, 0]
        if row < 0:
            continue
        if _mixed(row) > threshold:
            of_id[row_id, 0] = -1
            continue
        at = find(cells, shift, row)
        cells[2 * at], cells[2 * at + 1] = row, row_id
        kept += 1
        uses += of_id[row_id, 2]
    return kept, uses
