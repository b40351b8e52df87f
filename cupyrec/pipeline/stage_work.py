"""What each stage does to a batch: the scratchpad, its planner and the moving of rows. Knows no thread and no waiting.

Whoever calls keeps to the order that `stages.Board` allows; each stage may run in a thread of its own then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.batch import Batch
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.host_table import HostTable
from cupyrec.embedding.move_rows import copy_between, gather_records, insert_records, scatter_records
from cupyrec.embedding.place_lookups import place_lookups
from cupyrec.pipeline.planner import Planner
from cupyrec.pipeline.ring import RingEntry, Staging
from cupyrec.pipeline.stages import Board


class StageWork:
    """The state of one run through the pipeline: ring, planner, scratchpad. The host table is given, and outlives it.

    scratchpad: (S, record width) of the table's dtype, device.
    """

    def __init__(self, device: CpuDevice, table: HostTable, scratchpad: Any, planner: Planner, board: Board) -> None:
        self.table, self.scratchpad, self.planner, self.board = table, scratchpad, planner, board
        # Entries are made when they are first used: a run may end before it has needed them all.
        self._ring: list[RingEntry | None] = [None] * board.ring_size
        width, dtype = table.records.shape[1], table.records.dtype
        self._staging = [Staging(width, dtype) for _ in range(board.depth.staging_sets)]
        self._load_stream, self._plan_stream = device.stream(), device.stream()
        self._collect_stream, self._copy_stream, self._insert_stream = (device.stream() for _ in range(3))
        self._coalescer = Coalescer(self._load_stream, table.table_rows)
        # (S,) int64: the row whose value is in each slot now, -1 for none. Insert alone changes it.
        self._rows = np.full(scratchpad.shape[0], -1, np.int64)
        self._shown = 0

    @property
    def own_stages(self) -> tuple[str, ...]:
        """Stages for the thread that trains: none, each has work of its own to do."""
        return ()

    def entry(self, batch: int) -> RingEntry:
        """The ring entry of a batch that is on its way."""
        entry = self._ring[batch % len(self._ring)]
        if entry is None:
            entry = self._ring[batch % len(self._ring)] = RingEntry()
        return entry

    def load(self, number: int, batch: Batch) -> None:
        """Take a batch into the ring; sort and deduplicate its rows."""
        entry = self.entry(number)
        entry.batch = batch
        entry.coalesced = self._coalescer.plan(batch, entry.coalesce_memory)
        entry.plan = entry.slots = None

    def plan(self, number: int) -> None:
        """Show the planner the batches that it may see by now, and plan one; then find the slot of every lookup."""
        planner, board = self.planner, self.board
        while planner.may_look and self._shown <= number + board.lookahead:
            if self._shown == board.total:
                planner.end()
                break
            planner.look(self._coalesced(self._shown).unique_rows)
            self._shown += 1
        entry = self.entry(number)
        entry.plan = planner.plan(entry.plan_memory)
        coalesced = self._coalesced(number)
        lookups = coalesced.segment_lookups.shape[0]
        if entry.slots_memory.shape[0] < lookups:
            entry.slots_memory = np.empty(lookups, np.int32)
        entry.slots = entry.slots_memory[:lookups]
        place_lookups(self._plan_stream, coalesced, entry.plan.unique_slots, entry.slots)
        board.planned(entry.plan)

    def collect(self, number: int) -> None:
        """Gather the missed records from the host table, and the victims from the scratchpad."""
        self._staging_of(number).reserve(self._plan(number).miss_rows.shape[0])
        self.collect_misses(number)
        self.collect_victims(number)

    def collect_misses(self, number: int) -> None:
        rows = self._plan(number).miss_rows
        host_in = self._staging_of(number).host_in[: rows.shape[0]]
        gather_records(self._collect_stream, self.table.records, rows, host_in)

    def collect_victims(self, number: int) -> None:
        slots = self._plan(number).evict_slots
        gather_records(
            self._collect_stream, self.scratchpad, slots, self._staging_of(number).device_out[: slots.shape[0]]
        )

    def exchange(self, number: int) -> None:
        """Copy both over the link."""
        self.exchange_in(number)
        self.exchange_out(number)

    def exchange_in(self, number: int) -> None:
        staging, missed = self._staging_of(number), self._plan(number).miss_rows.shape[0]
        self._copy_stream.copy(staging.host_in[:missed], staging.device_in[:missed])

    def exchange_out(self, number: int) -> None:
        staging, evicted = self._staging_of(number), self._plan(number).evict_rows.shape[0]
        self._copy_stream.copy(staging.device_out[:evicted], staging.host_out[:evicted])

    def insert(self, number: int) -> None:
        """Write the victims to the host table, then fill their slots.

        Wherever it fails, every row has a place: a victim its slot until the first part has ended, a missed row the
        host table until the second has.
        """
        self.write_back(number)
        self.fill(number)

    def write_back(self, number: int) -> None:
        plan = self._plan(number)
        host_out = self._staging_of(number).host_out[: plan.evict_rows.shape[0]]
        scatter_records(self._insert_stream, host_out, plan.evict_rows, self.table.records)
        self._rows[plan.evict_slots] = -1

    def fill(self, number: int) -> None:
        plan = self._plan(number)
        device_in = self._staging_of(number).device_in[: plan.miss_slots.shape[0]]
        insert_records(self._insert_stream, device_in, plan.miss_slots, plan.miss_rows, self.scratchpad, self._rows)

    def before_train(self, number: int) -> None:
        """Nothing to wait for: the rows of a batch that the board lets train are in their slots."""

    def after_train(self, number: int) -> None:
        """Nothing to tell anybody: what is done is done."""

    def flush(self) -> None:
        """Copy every row whose value is in the scratchpad to the host table. No stage but Load may be at work.

        Nothing else changes: training may go on. What it asks is what has been carried out, so that it may follow a
        failure or an interrupt anywhere.
        """
        slots = np.flatnonzero(self._rows >= 0)
        copy_between(self._insert_stream, self.scratchpad, slots, self.table.records, self._rows[slots])

    def _coalesced(self, number: int) -> Any:
        return self.entry(number).coalesced

    def _plan(self, number: int) -> Any:
        return self.entry(number).plan

    def _staging_of(self, number: int) -> Staging:
        return self._staging[number % len(self._staging)]
