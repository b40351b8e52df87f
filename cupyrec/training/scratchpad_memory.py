"""What a scratchpad takes of a GPU's memory, by its number of slots; of the host's, what is on its way."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.devices.gpu import ARRAY_GROWTH
from cupyrec.embedding.radix_sort import SORT_BYTES_PER_ITEM
from cupyrec.pipeline.exchange import CHOSEN_BY_TRIAL, TRIED_ROWS
from cupyrec.pipeline.gpu_nodes import GPU_NODE_BYTES, GPU_SLOT_BYTES
from cupyrec.pipeline.gpu_stage_work import FLUSHED_ROWS
from cupyrec.pipeline.gpu_victims import SPARE_BITS
from cupyrec.pipeline.known_batches import PLANNER_GROWTH
from cupyrec.pipeline.lookahead import most_window_bytes, window_bytes_beside
from cupyrec.scratchpad_size import MOST_SLOTS, scratchpad_slots
from cupyrec.systems.scratchpipe import ScratchpipeSystem
from cupyrec.systems.serial import SerialSystem

FLOAT_BYTES = 4
# Of a lookup's row, and of a bag's offset.
ROW_BYTES = 8

DEPTH_OF = {each.name: each.depth for each in (SerialSystem, ScratchpipeSystem)}

# What is known of a slot's row, at most: while that memory grows, what was there before is there too.
PLANNED_ROW_BYTES = int(1.5 * GPU_NODE_BYTES)
# Of each slot, beside its record: what the planner knows of it and its row, and which row is in it now.
PLANNED_SLOT_BYTES = PLANNED_ROW_BYTES + GPU_SLOT_BYTES + 8
# Of a row that may leave: when it was listed, and its slot, before and after sorting.
VICTIM_BYTES = 2 * (8 + 4) + SORT_BYTES_PER_ITEM
# Of a victim on its way, beside its record: its row and its slot.
ON_ITS_WAY_BYTES = 8 + 4


@dataclass(frozen=True)
class ScratchpadMemory:
    """Bytes of device memory, for any number of slots.

    unique: U of the largest batch; record_bytes: of a row; staging_sets: batches whose rows are on their way at once, 0
    where rows stay for good, as in `static`; tried_rows: that are moved, both ways and in two places, to see how rows
    move fastest, before there is anything else to move.
    """

    unique: int
    record_bytes: int
    staging_sets: int
    tried_rows: int = 0

    def slot_bytes(self, slots: int) -> int:
        """Records, and what is known of each."""
        return slots * (self.record_bytes + (PLANNED_SLOT_BYTES if self.staging_sets else 0))

    def planner_bytes(self, slots: int) -> int:
        """What else planning takes: the rows of the batches in flight, and the choice of victims."""
        if not self.staging_sets:
            return 0
        chosen = min(int(PLANNER_GROWTH * self.unique) + (1 << SPARE_BITS), slots)
        return PLANNED_ROW_BYTES * self.unique + int(VICTIM_BYTES * chosen)

    def moving_bytes(self, slots: int) -> int:
        """Records on their way, in and out, and those on their way to the host table at the end.

        Where the host moves them they are, at most, as much on its side, page-locked.
        """
        if not self.staging_sets:
            return 0
        staged = min(slots, self.unique)
        in_staging = self.staging_sets * staged * (2 * self.record_bytes + ON_ITS_WAY_BYTES)
        flushed = min(slots, FLUSHED_ROWS) * (self.record_bytes + 4)
        tried = min(self.tried_rows, slots) * (4 * self.record_bytes + ON_ITS_WAY_BYTES)
        return int(ARRAY_GROWTH * max(in_staging + SORT_BYTES_PER_ITEM * staged + flushed, tried))

    def total_bytes(self, slots: int) -> int:
        """All of it."""
        return self.slot_bytes(slots) + self.planner_bytes(slots) + self.moving_bytes(slots)

    def most_slots(self, free_bytes: int) -> int:
        """The most slots that fit; 0 where not even one does."""
        return bisect.bisect_right(range(1, MOST_SLOTS + 1), free_bytes, key=self.total_bytes)


def scratchpad_memory(system: SystemConfig, rows: int, unique: int, record_bytes: int) -> ScratchpadMemory:
    """For static, serial and scratchpipe. system: resolved; rows: R; the others: see ScratchpadMemory."""
    if system.name not in DEPTH_OF:
        return ScratchpadMemory(unique, record_bytes, staging_sets=0)
    # The rows that are tried are different ones each way.
    tried_rows = min(TRIED_ROWS, rows) if system.exchange in CHOSEN_BY_TRIAL else 0
    return ScratchpadMemory(unique, record_bytes, DEPTH_OF[system.name].staging_sets, tried_rows)


def most_bytes_ahead(
    system: SystemConfig, config: DlrmConfig, max_samples: int, record_bytes: int, free_bytes: int | None
) -> int:
    """What the batches known ahead will take at most, on the host and as much on a GPU, with one lookup a bag; 0 where
    none are. How many they are and what they take is known with the first batch.

    system: resolved; free_bytes: None where the system does not say.
    """
    if system.name not in DEPTH_OF:
        return 0
    rows, lookups, least = sum(config.table_rows), max_samples * config.features, DEPTH_OF[system.name].holds.future
    batch_bytes = FLOAT_BYTES * max_samples * (config.dense_features + 1) + ROW_BYTES * (2 * lookups + 1)
    return most_window_bytes(
        system.lookahead if system.replacement == "lookahead" else least,
        least=least,
        slots=scratchpad_slots(system.scratchpad, rows, record_bytes),
        rows=rows,
        batch_bytes=batch_bytes + window_bytes_beside(lookups, min(lookups, rows)),
        free_bytes=free_bytes,
    )
