"""How many rows must move at the least: Belady's MIN for mini-batches. A yardstick: it must know all batches.

Each batch brings the rows that it misses, and the rows leave whose next use is furthest. Without holds no choice of
victims, even with all batches known, brings fewer rows in all. With holds it is the same rule among the rows that may
leave: what a policy can hope for under these holds, though not proven to be the least.

Source: L. A. Belady, A study of replacement algorithms for a virtual-storage computer, IBM Systems Journal 5, 1966;
there for single references. That the rows of a batch come all at once changes nothing: they are needed together, and
which of several rows with the same next use leaves makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cupyrec.devices.numba_kernel import cpu_kernel, prefetch
from cupyrec.errors import ConfigError, ScratchpadError
from cupyrec.pipeline.plan import Holds

# The next use of a row that no later batch uses; any number from the number of batches on means the same.
NEVER_USED = 2**31 - 1
NO_HOLDS = Holds(past=0, future=0)
# A row in the scratchpad is in exactly one list: in that of its last use while the batch is held, else in that of its
# next use; lists[batches] is of rows that are never used again. rows: (rows, 4) int32, 16 bytes a row.
NEXT_USE, LAST_USE, BEFORE, AFTER = range(4)
NONE, ABSENT = -1, -2
# lists: (batches + 1 + held batches, 3) int32: the first row, and how many there are; and, in or out of the scratchpad,
# the rows that are said to be used next by this batch.
FIRST, SIZE, PROMISED = range(3)
# Rows listed by next use are counted for each group of so many batches, so that empty lists are passed over quickly.
GROUP = 64
# state: (4,) int64: batches so far, batches held no longer, slots filled, rows listed by next use.
BATCH, RELEASED, FILLED, LISTED = range(4)
# Memory is asked for so many rows ahead.
AHEAD = 16
# What a step answers instead of a number of misses.
OUTSIDE, TWICE, NOT_AHEAD, BROKEN_WORD, NO_ROOM = -1, -2, -3, -4, -5


class OfflineOptimum:
    """Counts the rows that each batch must bring into `slots` slots, batch for batch.

    Memory: 16 bytes a row and 12 a batch. Time: O(unique rows + batches / 64) a batch.
    """

    def __init__(self, slots: int, rows: int, batches: int, *, holds: Holds = NO_HOLDS) -> None:
        """rows: their numbers are 0 .. rows - 1; batches: how many there are in all; holds: as the Planner keeps them.

        Raises ConfigError.
        """
        if slots < 1:
            raise ConfigError(f"a scratchpad has at least 1 slot, not {slots}")
        if not 0 <= rows <= NEVER_USED or not 0 <= batches < NEVER_USED:
            raise ConfigError(f"rows and batches must be fewer than {NEVER_USED:,}, but are {rows:,} and {batches:,}")
        self.slots, self.batches, self.holds = slots, batches, holds
        self._rows = np.empty((rows, 4), np.int32)
        self._rows[:] = NEVER_USED, NONE, ABSENT, NONE
        # Held are the past batches, the current one, and one that is just being released.
        self._lists = np.empty((batches + 1 + holds.past + 2, 3), np.int32)
        self._lists[:] = NONE, 0, 0
        self._groups = np.zeros(batches // GROUP + 1, np.int64)
        self._state = np.zeros(4, np.int64)

    @property
    def size_bytes(self) -> int:
        """Bytes of memory that it takes."""
        return self._rows.nbytes + self._lists.nbytes + self._groups.nbytes

    def step(self, ids: Any, next_uses: Any) -> int:
        """Take the next batch; returns how many of its rows have to be brought.

        ids: (U,) int64, unique, in any order.
        next_uses: (U,) int64, the next batch that uses each, NEVER_USED where none does.

        Raises ScratchpadError when U > slots, and ValueError on arguments that contradict what it was told: it is of no
        use after that.
        """
        batch, unique = int(self._state[BATCH]), ids.shape[0]
        if batch >= self.batches:
            raise ValueError(f"there are {self.batches} batches, but another is given")
        if next_uses.shape != ids.shape:
            raise ValueError(f"{unique} rows have next uses of the shape {next_uses.shape}")
        if unique > self.slots:
            raise ScratchpadError(
                f"batch {batch} looks up {unique:,} different rows, but the scratchpad has {self.slots:,} slots; "
                f"give it at least {unique:,} rows (--scratchpad {unique}), or take smaller batches (--batch-size)"
            )
        missed = _step(
            ids, next_uses, self.slots, self.batches, self.holds.past, self.holds.future, self._rows, self._lists,
            self._groups, self._state,
        )  # fmt: skip
        if missed < 0:
            raise ValueError(f"batch {batch}: {_REASONS[missed]}")
        return int(missed)


def next_uses_of(batches: Sequence[Any], rows: int) -> list[Any]:
    """For each batch, (U,) int64: the next batch that uses each of its rows, NEVER_USED where none does.

    batches: (U,) int64 each, unique, 0 .. rows - 1.
    """
    latest = np.full(rows, NEVER_USED, np.int64)
    next_uses = []
    for number in range(len(batches) - 1, -1, -1):
        next_uses.append(latest[batches[number]])
        latest[batches[number]] = number
    return next_uses[::-1]


def offline_misses(batches: Sequence[Any], slots: int, rows: int, holds: Holds = NO_HOLDS) -> Any:
    """(batches,) int64: how many rows each batch must bring. Arguments as above."""
    optimum = OfflineOptimum(slots, rows, len(batches), holds=holds)
    pairs = zip(batches, next_uses_of(batches, rows), strict=True)
    return np.array([optimum.step(ids, next_uses) for ids, next_uses in pairs], dtype=np.int64)


_REASONS = {
    OUTSIDE: "a row is not among those there are",
    TWICE: "a row is given twice",
    NOT_AHEAD: "a next use is not after this batch",
    BROKEN_WORD: "an earlier batch named another next use of one of these rows, or of a row that is not used now",
    NO_ROOM: "no row may leave",
}


@cpu_kernel
def _step(ids, next_uses, slots, batches, past, future, rows, lists, groups, state):
    """Returns the number of misses, or one of the answers above."""
    batch = state[BATCH]
    for i in range(ids.shape[0]):
        if ids[i] < 0 or ids[i] >= rows.shape[0]:
            return OUTSIDE
        if next_uses[i] <= batch:
            return NOT_AHEAD
    missed = _use(ids, next_uses, batches, past, rows, lists, groups, state)
    if missed < 0:
        return missed
    while state[RELEASED] < batch - past:
        _release_oldest(batches, past, rows, lists, groups, state)
    # As the planner does: holds of past batches are given up first, the oldest first, then those of future ones.
    nearest = min(batch + future + 1, batches)
    needed = missed - (slots - state[FILLED])
    while needed > _may_leave(batch, nearest, lists, state):
        if state[RELEASED] < batch:
            _release_oldest(batches, past, rows, lists, groups, state)
        elif nearest > batch + 1:
            nearest -= 1
        else:
            return NO_ROOM
    if needed > 0:
        _evict(needed, batches, rows, lists, groups, state)
    state[FILLED] += missed - max(needed, 0)
    state[BATCH] += 1
    return missed


@cpu_kernel
def _use(ids, next_uses, batches, past, rows, lists, groups, state):
    """Put the rows of the batch into the list of those that it holds; returns how many were absent."""
    batch, missed, known = state[BATCH], 0, 0
    held_by_batch = _held(batch, batches, past)
    for i in range(ids.shape[0]):
        if i + AHEAD < ids.shape[0]:
            prefetch(rows, (ids[i + AHEAD], 0))
        row = ids[i]
        last_use = rows[row, LAST_USE]
        if last_use == batch:
            return TWICE
        if last_use != NONE:
            if rows[row, NEXT_USE] != batch:
                return BROKEN_WORD
            known += 1
        if rows[row, BEFORE] == ABSENT:
            missed += 1
        elif last_use >= state[RELEASED]:
            _remove(row, _held(last_use, batches, past), rows, lists)
        else:
            _remove(row, batch, rows, lists)
            _count(batch, -1, groups, state)
        next_use = min(next_uses[i], batches)
        rows[row, NEXT_USE] = next_use
        lists[next_use, PROMISED] += 1
        rows[row, LAST_USE] = batch
        _push(row, held_by_batch, rows, lists)
    return missed if known == lists[batch, PROMISED] else BROKEN_WORD


@cpu_kernel
def _release_oldest(batches, past, rows, lists, groups, state):
    """A batch is held no longer: those of its rows that no later one has used go to the lists of their next use."""
    held = _held(state[RELEASED], batches, past)
    while lists[held, FIRST] != NONE:
        row = np.int64(lists[held, FIRST])
        _remove(row, held, rows, lists)
        if lists[held, FIRST] != NONE:
            prefetch(rows, (lists[held, FIRST], 0))
        next_use = np.int64(rows[row, NEXT_USE])
        _push(row, next_use, rows, lists)
        _count(next_use, 1, groups, state)
    state[RELEASED] += 1


@cpu_kernel
def _may_leave(batch, nearest, lists, state):
    """How many rows are not held, where the batches after this one up to `nearest` are."""
    held = 0
    for each in range(batch + 1, nearest):
        held += lists[each, SIZE]
    return state[LISTED] - held


@cpu_kernel
def _evict(count, batches, rows, lists, groups, state):
    """So many rows leave, those with the furthest next use first."""
    group = groups.shape[0] - 1
    at = batches
    for _ in range(count):
        while groups[group] == 0:
            group -= 1
            at = (group + 1) * GROUP - 1
        while lists[at, FIRST] == NONE:
            at -= 1
        row = np.int64(lists[at, FIRST])
        _remove(row, at, rows, lists)
        rows[row, BEFORE] = ABSENT
        _count(at, -1, groups, state)


@cpu_kernel
def _held(batch, batches, past):
    """The list of the rows whose last use was in a batch that is held: past + 2 lists, used in turn."""
    return batches + 1 + batch % (past + 2)


@cpu_kernel
def _push(row, to, rows, lists):
    first = lists[to, FIRST]
    rows[row, BEFORE], rows[row, AFTER] = NONE, first
    if first != NONE:
        rows[first, BEFORE] = row
    lists[to, FIRST] = row
    lists[to, SIZE] += 1


@cpu_kernel
def _remove(row, out_of, rows, lists):
    before, after = rows[row, BEFORE], rows[row, AFTER]
    if before == NONE:
        lists[out_of, FIRST] = after
    else:
        rows[before, AFTER] = after
    if after != NONE:
        rows[after, BEFORE] = before
    lists[out_of, SIZE] -= 1


@cpu_kernel
def _count(next_use, change, groups, state):
    groups[next_use // GROUP] += change
    state[LISTED] += change
