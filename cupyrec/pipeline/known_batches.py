"""What a planner knows of its batches, on whatever device: how many were shown and planned, and where they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cupyrec.counted import counted
from cupyrec.errors import ConfigError, ScratchpadError
from cupyrec.pipeline.plan import Holds
from cupyrec.pipeline.planner_kernels import NEVER
from cupyrec.pipeline.replacement import replacement_kind

# Of what is known of rows and batches, at first; what is too small grows to PLANNER_GROWTH times its size.
LEAST_NODES, LEAST_WINDOW, PLANNER_GROWTH = 64, 64, 1.25
# Later batches hardly ever have so many times the rows of the largest of some first ones.
MARGIN = 1.25


def size_with_margin(unique: int) -> int:
    """Slots for all batches, where the largest one seen so far has so many unique rows; a round number."""
    unit = 10 ** max(len(str(unique)) - 2, 0)
    return math.ceil(MARGIN * unique / unit) * unit


def check_settings(slots: int, lookahead: int, holds: Holds, replacement: str) -> None:
    """Raise ConfigError on what no planner takes."""
    replacement_kind(replacement)
    if not 1 <= slots < NEVER:
        raise ConfigError(f"a scratchpad has 1 to {NEVER - 1} slots, not {slots}")
    if lookahead < holds.future:
        raise ConfigError(f"the look-ahead (--lookahead) must be at least {holds.future}, but is {lookahead}")


class KnownBatches:
    """The batches that a planner over `slots` slots holds, plans next or sees ahead; when one may be shown or planned.

    looked, planned: how many were shown and planned so far. Each batch's unique rows have consecutive places in the
    window, which counts on without end.
    """

    def __init__(self, slots: int, lookahead: int, holds: Holds, replacement: str) -> None:
        """lookahead: at least holds.future. Raises ConfigError."""
        check_settings(slots, lookahead, holds, replacement)
        self.slots, self.lookahead, self.holds = slots, lookahead, holds
        self.looked = self.planned = 0
        self._ended = False
        self._released = 0  # batches that are held no longer
        ring = 1
        # Batches of which something is known at once: held ones, the planned one, those ahead and one coming in.
        while ring < holds.past + 1 + lookahead + 2:
            ring *= 2
        self._ring = ring
        self._starts, self._sizes = np.zeros(ring, np.int64), np.zeros(ring, np.int64)
        self._window_end = 0

    @property
    def may_look(self) -> bool:
        """Whether the next batch may be shown: not before the batch `lookahead` + 1 before it has been planned."""
        return not self._ended and self.looked <= self.planned + self.lookahead

    @property
    def may_plan(self) -> bool:
        """Whether enough batches are known to plan the next one."""
        return self.planned < self.looked and (self._ended or self.looked > self.planned + self.lookahead)

    def end(self) -> None:
        """No batch follows."""
        self._ended = True

    def _check_look(self, unique: int) -> None:
        """Raise RuntimeError when no batch may be shown, ScratchpadError when it has more unique rows than slots."""
        if not self.may_look:
            raise RuntimeError(f"batch {self.looked} is shown, but batch {self.planned} is not planned yet")
        if unique > self.slots:
            size = size_with_margin(unique)
            raise ScratchpadError(
                f"batch {self.looked}, counted from 0, looks up {unique:,} different rows, the largest batch so far, "
                f"but the scratchpad has {counted(self.slots, 'slot')}; make it larger, as later batches may have "
                f"still more: at least --scratchpad {size}, better several times that; or take smaller "
                "batches (--batch-size)"
            )

    def _check_plan(self) -> None:
        """Raise RuntimeError when no batch may be planned."""
        if not self.may_plan:
            raise RuntimeError(f"batch {self.planned} is to be planned, but only {self.looked} are known")

    def _give_up_holds(self, has_room: Callable[[int], bool]) -> tuple[int, int]:
        """Where there is no room for the batch that is planned, give up holds until there is: of past batches, the
        oldest first, then of future ones, the furthest first.

        has_room: whether there is, while the batches after this one and before `nearest` are held; asked whenever a
        hold was given up. Returns the last past batch given up or -1, and how many were given up in all.
        """
        batch, nearest = self.planned, self.planned + self.holds.future + 1
        given_up, bubbles = -1, 0
        while True:
            if self._released < batch:
                given_up = self._released
                self._release_oldest()
                bubbles += 1
            elif nearest == batch + 1:
                raise RuntimeError(f"batch {batch} finds no room, though its rows are no more than there are slots")
            else:
                nearest -= 1
                bubbles += self._listed_for(nearest) > 0
            if has_room(nearest):
                return given_up, bubbles

    def _release_oldest(self) -> None:
        """The oldest batch that is held is so no longer: its rows that no later one has used may leave."""
        raise NotImplementedError

    def _listed_for(self, batch: int) -> int:
        """How many rows that could leave are used next by a batch."""
        raise NotImplementedError

    def _add(self, unique: int) -> None:
        """The next batch is known, and has so many unique rows."""
        at = self.looked & (self._ring - 1)
        self._starts[at], self._sizes[at] = self._window_end, unique
        self._window_end += unique
        self.looked += 1

    def _batch(self, batch: int) -> tuple[int, int]:
        """Where a batch begins in the window, and its unique rows."""
        at = batch & (self._ring - 1)
        return int(self._starts[at]), int(self._sizes[at])

    @property
    def _window_start(self) -> int:
        """What comes before in the window was released and is read no more."""
        return self._batch(self._released)[0] if self._released < self.looked else self._window_end
