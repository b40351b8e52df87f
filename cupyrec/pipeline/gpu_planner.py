"""The planner on a GPU: plan for plan what planner.Planner gives, in device memory, by kernels of known_batches.cu and
victims.cu.

Everything is queued on one stream. The host waits once for each plan, for a few counts; only where the scratchpad is
too small does it ask again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cupyrec.devices.gpu import GpuStream
from cupyrec.kernels import kernel
from cupyrec.kernels.compaction import TILE_THREADS, tiles
from cupyrec.pipeline.gpu_nodes import EVICTED, FILLED, IS_OK, MISSED, GpuNodes
from cupyrec.pipeline.gpu_victims import GpuVictims
from cupyrec.pipeline.known_batches import PLANNER_GROWTH, KnownBatches
from cupyrec.pipeline.plan import Holds, Plan
from cupyrec.pipeline.planner_kernels import NEVER
from cupyrec.pipeline.replacement import RANKS, replacement_kind

ROOM_THREADS = 512


class GpuPlanMemory:
    """The device arrays of one plan, as PlanMemory's; and miss_count, evict_count: (1,) int32, as many as are meant."""

    def __init__(self) -> None:
        self.capacity = -1

    def reserve(self, stream: GpuStream, unique: int) -> None:
        """Make room for so many unique rows. Waits for the device where what is there is too small."""
        if self.capacity >= unique:
            return
        if self.capacity >= 0:
            stream.runtime.synchronize_all()
        unique = math.ceil(PLANNER_GROWTH * unique)
        self.unique_slots = stream.empty(unique, np.int32)
        self.miss_rows, self.miss_slots = stream.empty(unique, np.int64), stream.empty(unique, np.int32)
        self.evict_rows, self.evict_slots = stream.empty(unique, np.int64), stream.empty(unique, np.int32)
        self.miss_count, self.evict_count = stream.empty(1, np.int32), stream.empty(1, np.int32)
        self.capacity = unique


class GpuPlanner(KnownBatches):
    """Plans batches over `slots` slots as planner.Planner does: what it decides, and why, stands there.

    What is shown must be there for the stream; a plan's arrays are filled when all is done that its planning queued.
    """

    def __init__(
        self,
        stream: GpuStream,
        slots: int,
        *,
        lookahead: int,
        holds: Holds,
        replacement: str = "lookahead",
        row_counts: Any = None,
        seed: int = 0,
    ) -> None:
        """lookahead: at least holds.future; the other policies than lookahead look no further than that.
        row_counts: (R,) integers, on the host: how often each row is used in the whole data set; they take 4 bytes of
        device memory a row. None counts while running. seed: of the policy random. Raises ConfigError,
        DeviceMemoryError.
        """
        super().__init__(slots, lookahead, holds, replacement)
        self._stream = stream
        self._kind, self._seed = np.int32(replacement_kind(replacement)), np.uint64(seed % 2**64)
        self._nodes, self._victims = GpuNodes(stream), GpuVictims(stream, slots)
        self._lists = stream.zeros(RANKS + self._ring, np.int32)
        self._has_counts = row_counts is not None
        counts = np.minimum(row_counts, NEVER).astype(np.int32) if self._has_counts else np.zeros(1, np.int32)
        self._row_counts = stream.empty(counts.shape, np.int32)
        stream.copy(counts, self._row_counts)
        self._tile_capacity = -1
        self._filled = 0  # slots, as of the last plan
        self._largest_unique = 0
        # Listings are numbered, so that rows in one list are in order; the next number.
        self._since = 0
        self._begun: GpuPlanMemory | None = None
        stream.record().synchronize()

    @property
    def may_look(self) -> bool:
        """Whether the next batch may be shown: as KnownBatches says, and not while a plan is begun and not ended."""
        return self._begun is None and super().may_look

    @property
    def size_bytes(self) -> int:
        """Bytes of device memory that the planner takes now, beside what is needed only while a batch is planned."""
        victims = self._victims
        slots = victims.slot_list, victims.slot_since, victims.slot_node
        return sum(array.nbytes for array in (*self._nodes.arrays, *slots, self._lists, self._row_counts))

    def look(self, unique_rows: Any) -> None:
        """Show the next batch: queue that it is taken in.

        unique_rows: (U,) int64, device, ascending; read when the stream comes to it, and not later. Raises
        ScratchpadError when U > slots.
        """
        unique, known = unique_rows.shape[0], self._nodes
        self._check_look(unique)
        known.reserve(unique, self._window_start, self._window_end)
        self._stream.launch_over(
            kernel("known_batches", "look"), unique, unique_rows, *map(np.int32, (unique, self.looked, self.planned)),
            np.int64(self._window_end), self._next_since(unique), known.cells, known.shift, known.nodes,
            known.node_rows, known.free_nodes, self._lists, np.int32(self._ring), *known.window,
            self._victims.slot_list, self._victims.slot_since, self._row_counts, np.int32(self._has_counts),
            known.state,
        )  # fmt: skip
        self._largest_unique = max(self._largest_unique, unique)
        self._add(unique)

    def plan(self, memory: GpuPlanMemory) -> Plan:
        """Plan the next batch, in memory that the caller keeps as long as it needs the plan. Waits for its counts."""
        self.begin_plan(memory)
        return self.end_plan()

    def begin_plan(self, memory: GpuPlanMemory) -> None:
        """Queue the planning of the next batch; no batch may be shown until `end_plan`."""
        if self._begun is not None:
            raise RuntimeError(f"batch {self.planned} is being planned already")
        self._check_plan()
        batch, (start, unique) = self.planned, self._batch(self.planned)
        if memory.capacity < unique:
            # As much as any batch known has: memories of a ring then hardly ever grow.
            memory.reserve(self._stream, self._largest_unique)
        self._victims.reserve(unique)
        self._reserve_tiles(tiles(unique))
        self._stream.launch(
            kernel("known_batches", "use"), tiles(unique), TILE_THREADS,
            np.int32(batch), np.int64(start), np.int32(unique),
            self._nodes.nodes, *self._nodes.window, self._victims.slot_list, np.int32(not self._has_counts),
            memory.unique_slots, self._tile_misses,
        )  # fmt: skip
        while self._released < batch - self.holds.past:
            self._release_oldest()
        self._begun = memory
        self._queue_room(memory, batch + self.holds.future + 1)
        # There will be room, or nothing happens.
        self._queue_moves(memory)

    def end_plan(self) -> Plan:
        """The plan that was begun. Waits for its counts, and gives up holds while there is no room."""
        if self._begun is None:
            raise RuntimeError("no plan has been begun")
        memory, counts, batch = self._begun, self._nodes.counts, self.planned
        self._nodes.wait_for_counts()
        given_up, bubbles = -1, 0
        if not counts[IS_OK]:
            given_up, bubbles = self._give_up_holds(lambda nearest: self._has_room(memory, nearest))
            self._queue_moves(memory)
        self._nodes.planned()
        self._filled, self._begun = int(counts[FILLED]), None
        self.planned += 1
        unique, missed, evicted = self._batch(batch)[1], int(counts[MISSED]), int(counts[EVICTED])
        return Plan(
            batch=batch,
            unique_slots=memory.unique_slots[:unique],
            miss_rows=memory.miss_rows[:missed],
            miss_slots=memory.miss_slots[:missed],
            evict_rows=memory.evict_rows[:evicted],
            evict_slots=memory.evict_slots[:evicted],
            given_up=given_up,
            bubbles=bubbles,
        )

    def _has_room(self, memory: GpuPlanMemory, nearest: int) -> bool:
        """Ask the device, and wait for the answer. nearest: see _give_up_holds."""
        self._queue_room(memory, nearest)
        self._nodes.wait_for_counts()
        return bool(self._nodes.counts[IS_OK])

    def _listed_for(self, batch: int) -> int:
        at, count = RANKS + (batch & (self._ring - 1)), np.empty(1, np.int32)
        self._stream.copy(self._lists[at : at + 1], count)
        self._stream.record().synchronize()
        return int(count[0])

    def _next_since(self, rows: int) -> np.uint64:
        """The first of numbers for so many rows to be listed."""
        first = self._since
        self._since += rows
        return np.uint64(first)

    def _release_oldest(self) -> None:
        (start, size), known = self._batch(self._released), self._nodes
        self._stream.launch_over(
            kernel("known_batches", "release"), size, np.int32(self._released), np.int64(start), np.int32(size),
            self._next_since(size), known.nodes, known.node_rows, self._lists, np.int32(self._ring), *known.window,
            self._victims.slot_list, self._victims.slot_since, self._kind, self._seed,
        )  # fmt: skip
        self._released += 1

    def _queue_room(self, memory: GpuPlanMemory, nearest: int) -> None:
        """Queue the question how many rows leave, and whether there is room while batches before `nearest` are held."""
        unique, victims = self._batch(self.planned)[1], self._victims
        self._stream.launch(
            kernel("victims", "find_room"), 1, ROOM_THREADS,
            *map(np.int32, (self.planned, nearest, self.looked - 1, self.slots, victims.spare)), self._tile_misses,
            np.int32(tiles(unique)), self._tile_starts, self._lists, np.int32(self._ring), self._nodes.state,
            victims.cut, memory.miss_count, memory.evict_count,
        )  # fmt: skip
        self._nodes.queue_counts()

    def _queue_moves(self, memory: GpuPlanMemory) -> None:
        """Queue what takes slots away from rows that leave, and gives slots to those that miss, if there is room."""
        (start, unique), known, victims = self._batch(self.planned), self._nodes, self._victims
        # No row leaves while all that may miss find empty slots.
        if self._filled + unique > self.slots:
            leaving = victims.queue(
                known.state, unique, furthest=self.looked - 1, ahead=self.looked - 1 - self.planned, ring=self._ring,
                since_end=self._since,
            )  # fmt: skip
            self._stream.launch_over(
                kernel("victims", "evict"), unique, leaving, known.cells, known.shift, known.nodes, known.node_rows,
                known.free_nodes, victims.slot_node, victims.slot_list, known.state, memory.evict_rows,
                memory.evict_slots,
            )  # fmt: skip
        self._stream.launch(
            kernel("victims", "assign"), tiles(unique), TILE_THREADS, np.int64(start), np.int32(unique),
            self._tile_starts, memory.evict_slots, known.nodes, known.node_rows, *known.window, victims.slot_node,
            known.state, memory.unique_slots, memory.miss_rows, memory.miss_slots,
        )  # fmt: skip

    def _reserve_tiles(self, count: int) -> None:
        if self._tile_capacity < count:
            if self._tile_capacity >= 0:
                self._stream.runtime.synchronize_all()
            self._tile_capacity = count
            self._tile_misses, self._tile_starts = (self._stream.empty(count, np.int32) for _ in range(2))
