"""The planner: which rows the scratchpad holds, batch for batch, decided ahead of training.

A state machine. Batches go in (`look`), plans come out (`plan`); it knows no thread, device or file, moves nothing,
and depends on nothing but the rows of the batches: the same batches give the same plans.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.embedding.hit_map import new_cells, with_room
from cupyrec.pipeline import planner_kernels as kernels
from cupyrec.pipeline.known_batches import LEAST_NODES, LEAST_WINDOW, PLANNER_GROWTH, KnownBatches
from cupyrec.pipeline.plan import Holds, Plan, PlanMemory
from cupyrec.pipeline.planner_kernels import LISTED, NODE_FIELDS, NODES_FREE, NODES_USED, NONE, SLOTS_FILLED
from cupyrec.pipeline.replacement import RANKS, replacement_kind

# What a node takes: its fields, its row, its place on the list of free ones, and two cells of 16 bytes in the hit map,
# which has up to twice as many because their number is a power of two.
NODE_BYTES = 4 * NODE_FIELDS + 8 + 4 + 4 * 16


class Planner(KnownBatches):
    """Plans batches over `slots` slots, seeing `lookahead` batches beyond the one that it plans.

    The rows that batch b misses get empty slots first; then rows leave that nobody holds and no known batch uses, the
    least valuable first; then those whose next use is furthest. Held are the rows of batches b - holds.past to
    b + holds.future. Where all that is not enough, holds are given up: the oldest past batch first, at last the
    nearest future one; the plan says which.
    """

    def __init__(
        self,
        slots: int,
        *,
        lookahead: int,
        holds: Holds,
        replacement: str = "lookahead",
        row_counts: Any = None,
        seed: int = 0,
    ) -> None:
        """lookahead: at least holds.future; the other policies than lookahead look no further than that.
        row_counts: (R,) integers, how often each row is used in the whole data set; None counts while running.
        seed: of the policy random. Raises ConfigError.
        """
        super().__init__(slots, lookahead, holds, replacement)
        self._kind, self._seed = replacement_kind(replacement), np.uint64(seed % 2**64)
        self._row_counts = np.zeros(0, np.int64) if row_counts is None else np.asarray(row_counts)
        self._lists = np.empty((RANKS + self._ring, 3), np.int32)
        self._lists[:] = NONE, NONE, 0
        self._window = np.zeros((LEAST_WINDOW, 2), np.int32)
        self._nodes, self._node_rows = np.zeros((LEAST_NODES, NODE_FIELDS), np.int32), np.zeros(LEAST_NODES, np.int64)
        self._free = np.zeros(LEAST_NODES, np.int32)
        self._cells = new_cells(LEAST_NODES)
        self._state = np.zeros(4, np.int64)
        self._misses = np.zeros(0, np.int64)

    @property
    def size_bytes(self) -> int:
        """Bytes of memory that the planner takes now."""
        arrays = (self._lists, self._window, self._nodes, self._node_rows, self._free, self._cells)
        return sum(array.nbytes for array in arrays)

    def look(self, unique_rows: Any) -> None:
        """Show the next batch. unique_rows: (U,) int64, ascending; not kept. Raises ScratchpadError when U > slots."""
        unique = unique_rows.shape[0]
        self._check_look(unique)
        self._reserve(unique)
        kernels.look(
            unique_rows, self.looked, self.planned, self._window_end, self._cells, self._nodes, self._node_rows,
            self._free, self._lists, self._window, self._state, self._kind, self._seed, self._row_counts,
        )  # fmt: skip
        self._add(unique)

    def plan(self, memory: PlanMemory) -> Plan:
        """Plan the next batch, in memory that the caller keeps as long as it needs the plan."""
        self._check_plan()
        batch, holds = self.planned, self.holds
        start, unique = self._batch(batch)
        memory.reserve(unique)
        if self._misses.shape[0] < unique:
            self._misses = np.zeros(memory.capacity, np.int64)
        missed = kernels.use(
            batch, start, unique, self._nodes, self._node_rows, self._lists, self._window, self._state, self._kind,
            self._seed, self._row_counts.shape[0] > 0, memory.unique_slots, self._misses,
        )  # fmt: skip
        while self._released < batch - holds.past:
            self._release_oldest()
        given_up, bubbles = -1, 0
        if missed > self._room(batch, batch + holds.future + 1):
            given_up, bubbles = self._give_up_holds(lambda nearest: missed <= self._room(batch, nearest))
        evicted = max(missed - self.slots + int(self._state[SLOTS_FILLED]), 0)
        evict_slots, evict_rows = memory.evict_slots[:evicted], memory.evict_rows[:evicted]
        unused = kernels.choose_victims(
            evicted, self.looked - 1, self._nodes, self._node_rows, self._lists, self._state, evict_slots
        )
        kernels.evict(
            unused, evict_slots, self._cells, self._nodes, self._node_rows, self._free, self._state, evict_rows,
            evict_slots,
        )  # fmt: skip
        kernels.assign(
            start, self._misses[:missed], evict_slots, self._nodes, self._node_rows, self._window, self._state,
            memory.unique_slots, memory.miss_rows, memory.miss_slots,
        )  # fmt: skip
        self.planned += 1
        return Plan(
            batch=batch,
            unique_slots=memory.unique_slots[:unique],
            miss_rows=memory.miss_rows[:missed],
            miss_slots=memory.miss_slots[:missed],
            evict_rows=evict_rows,
            evict_slots=evict_slots,
            given_up=given_up,
            bubbles=bubbles,
        )

    def _room(self, batch: int, nearest: int) -> int:
        """Slots that are empty or may be left. nearest: of the batches after this one, the first that is not held."""
        empty = self.slots - int(self._state[SLOTS_FILLED])
        return empty + int(self._state[LISTED]) - sum(self._listed_for(each) for each in range(batch + 1, nearest))

    def _listed_for(self, batch: int) -> int:
        return int(self._lists[RANKS + (batch & (self._ring - 1)), 2])

    def _release_oldest(self) -> None:
        start, size = self._batch(self._released)
        kernels.release(
            self._released, start, size, self._nodes, self._node_rows, self._lists, self._window, self._state,
            self._kind, self._seed,
        )  # fmt: skip
        self._released += 1

    def _reserve(self, unique: int) -> None:
        """Make room in window, nodes and hit map for a batch of so many unique rows."""
        first = self._window_start
        if self._window_end + unique - first > self._window.shape[0]:
            self._grow_window(first, self._window_end + unique - first)
        in_use = int(self._state[NODES_USED]) - int(self._state[NODES_FREE])
        if in_use + unique > self._nodes.shape[0]:
            self._grow_nodes(in_use + unique)
        self._cells = with_room(self._cells, in_use + unique)

    def _grow_window(self, first: int, needed: int) -> None:
        old, mask = self._window, self._window.shape[0] - 1
        size = old.shape[0]
        while size < needed:
            size *= 2
        self._window = np.zeros((size, 2), np.int32)
        places = np.arange(first, self._window_end)
        self._window[places & (size - 1)] = old[places & mask]
        # Later batches overwrite what earlier ones say of a node: each ends with its latest place.
        self._nodes[old[places & mask, 0], kernels.SEEN_AT] = places & (size - 1)

    def _grow_nodes(self, needed: int) -> None:
        size = max(needed, int(PLANNER_GROWTH * self._nodes.shape[0]))
        nodes, node_rows, free = self._nodes, self._node_rows, self._free
        self._nodes, self._node_rows = np.zeros((size, NODE_FIELDS), np.int32), np.zeros(size, np.int64)
        self._free = np.zeros(size, np.int32)
        self._nodes[: len(nodes)], self._node_rows[: len(nodes)], self._free[: len(free)] = nodes, node_rows, free
