"""How many different rows a few consecutive batches use: what a pipeline must be able to hold at once."""

from __future__ import annotations

from collections import deque
from typing import Any

from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.embedding.hit_map import EMPTY, erase, find, new_cells, shift_of, with_room

LEAST_ROWS = 64


class WindowRows:
    """Counts the different rows of the last `batches` batches, exactly.

    Memory grows with the rows of a window, not with R or with the data; O(U) a batch.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.rows = self._added = 0
        self._recent: deque[Any] = deque()
        # From each row of the window to the latest batch that uses it.
        self._cells = new_cells(LEAST_ROWS)

    def add(self, unique_rows: Any) -> int:
        """Take in the next batch; returns how many different rows the window has that ends with it.

        unique_rows: (U,) int64; not kept.
        """
        if len(self._recent) == self.batches:
            self.rows -= _leave(self._recent.popleft(), self._added - self.batches, self._cells)
        self._cells = with_room(self._cells, self.rows + unique_rows.shape[0])
        self.rows += _enter(unique_rows, self._added, self._cells)
        self._recent.append(unique_rows.copy())
        self._added += 1
        return self.rows


@cpu_kernel
def _enter(rows, batch, cells):
    """Note that a batch uses these rows; returns how many of them are new."""
    shift, new = shift_of(cells), 0
    for i in range(rows.shape[0]):
        at = find(cells, shift, rows[i])
        if cells[2 * at] == EMPTY:
            cells[2 * at] = rows[i]
            new += 1
        cells[2 * at + 1] = batch
    return new


@cpu_kernel
def _leave(rows, batch, cells):
    """Take out the rows of a batch that no later one uses; returns how many there were."""
    shift, left = shift_of(cells), 0
    for i in range(rows.shape[0]):
        if cells[2 * find(cells, shift, rows[i]) + 1] == batch:
            erase(cells, shift, rows[i])
            left += 1
    return left
