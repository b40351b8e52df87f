"""What the planner decides for one batch, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Holds:
    """How many batches before and after the planned one keep their rows in the scratchpad.

    past: batches that are planned and may yet have to train when the planned one's victims are read; future: batches
    whose rows are read from the host table before the planned one's victims have come there.
    """

    past: int
    future: int


@dataclass(frozen=True, eq=False)
class Plan:
    """What has to be moved for one batch, and where its rows are when it trains.

    batch:        its number, from 0.
    unique_slots: (U,) int32, the slot of each unique row.
    miss_rows, miss_slots:   (M,) int64 and int32, rows to bring, ascending, and where to.
    evict_rows, evict_slots: (E,) int64 and int32, rows that leave these slots; E <= M, since slots may be empty.
    given_up:     the latest earlier batch whose hold had to be given up: it must have trained before the victims are
        read; -1 for none, which is so unless the scratchpad is too small.
    bubbles:      how many holds were given up, of past and future batches.

    The arrays are the planner's caller's, in the PlanMemory that it gave.
    """

    batch: int
    unique_slots: Any
    miss_rows: Any
    miss_slots: Any
    evict_rows: Any
    evict_slots: Any
    given_up: int = -1
    bubbles: int = 0

    @property
    def hits(self) -> int:
        """Unique rows that were in the scratchpad already."""
        return self.unique_slots.shape[0] - self.miss_rows.shape[0]


# Of a PlanMemory, for each unique row.
PLAN_BYTES_PER_ROW = 3 * 4 + 2 * 8


class PlanMemory:
    """The arrays of one plan. They grow with the largest batch and are used again: the plan then is no longer valid."""

    def __init__(self) -> None:
        self.capacity = -1

    def reserve(self, unique: int) -> None:
        """Make room for so many unique rows."""
        if self.capacity >= unique:
            return
        self.capacity = unique
        self.unique_slots = np.empty(unique, np.int32)
        self.miss_rows, self.miss_slots = np.empty(unique, np.int64), np.empty(unique, np.int32)
        self.evict_rows, self.evict_slots = np.empty(unique, np.int64), np.empty(unique, np.int32)
