"""What each stage does to a batch on a GPU: the same as stage_work does on the CPU, queued on a stream for each stage.

The board says when a stage may queue its work for a batch; events, when the device may do it. What is not here needs no
event because the host has waited already: for the count of unique rows before planning; for the rows that miss, and for
the victims that they may bring back to be in the host table, before the host gathers; for victims, and which they are,
before the host writes them there.

Between training's own streams there are the waits of TrainStage and its dense part, and where two streams bring rows
in, those of MixedIn. All others:

    stream   waits for                            because
    load     Train of the batch that had the      it overwrites what training reads
             ring entry before
    collect  Plan                                 it reads the plan, and Train the slots of the lookups
    collect  Train of the last batch not held     its victims are final
    collect  Insert of the batch that had the     it, and what follows it, overwrites what Insert reads
             staging before
    in, out  Collect                              victims are gathered; and all that Collect waits for
    insert   in                                   it reads what came
    insert   out, where that is direct            slots are overwritten after their rows have gone
    train    Insert                               it reads and writes the slots

All but what the host itself has to copy, gather or scatter is queued by the thread that trains: threads that queue at
the same time hand Python's lock to and fro, which costs many times what a launch does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cupyrec.batch import Batch
from cupyrec.devices.cuda_runtime import LOWEST_PRIORITY
from cupyrec.devices.gpu import ARRAY_GROWTH, GpuDevice, GpuStream
from cupyrec.embedding.gpu_coalesce import GpuCoalescer
from cupyrec.embedding.host_table import HostTable
from cupyrec.embedding.move_rows import gather_records, insert_records, scatter_records
from cupyrec.embedding.place_lookups import place_lookups
from cupyrec.embedding.radix_sort import RadixSort
from cupyrec.pipeline.exchange import Exchange
from cupyrec.pipeline.gpu_planner import GpuPlanner
from cupyrec.pipeline.gpu_ring import GpuRingEntry, GpuStaging, LoadedBatch, RingSizes
from cupyrec.pipeline.growing_array import GrowingArray
from cupyrec.pipeline.plan import Plan
from cupyrec.pipeline.stages import COLLECT, INSERT, LOAD, ONE_AFTER_ANOTHER, STAGES, Board, Depth

# Rows that are copied to the host table at a time: some 30 MB at D 128.
FLUSHED_ROWS = 65_536
# Batches that are loaded beyond what Plan has to know. Plan begins with the batch after the one that it is at; that one
# and its look-ahead are then on the device, and have been sorted while other batches trained.
LOADED_AHEAD = 2


def loaded_ahead(depth: Depth) -> int:
    """The same of a pipeline; where its stages come one after another nothing would go on meanwhile."""
    return 0 if depth == ONE_AFTER_ANOTHER else LOADED_AHEAD


class GpuStageWork:
    """The state of one run through the pipeline on a GPU. The host table is given, and outlives it.

    scratchpad: (S, record width) float32, device.
    """

    def __init__(
        self,
        device: GpuDevice,
        table: HostTable,
        scratchpad: Any,
        make_planner: Callable[[GpuStream], GpuPlanner],
        board: Board,
        exchange: Exchange,
        *,
        dense_features: int,
        in_turn: bool,
    ) -> None:
        """make_planner: makes the planner on its stream; in_turn: whether each stage's work is waited for at once."""
        self.table, self.scratchpad, self.board = table, scratchpad, board
        self._device, self._in_turn, self._dense_features = device, in_turn, dense_features
        self._into, self._out = exchange.into, exchange.out
        # As patient as pooling and updates: their blocks take turns, and products go before all of them.
        names = ("load", "plan", "collect", "insert")
        self._load_stream, self._plan_stream, self._collect_stream, self._insert_stream = (
            device.stream(each, priority=LOWEST_PRIORITY) for each in names
        )
        # What crosses the link is few blocks, which wait for it.
        self._in_stream, self._out_stream = device.stream("in"), device.stream("out")
        self.planner = make_planner(self._plan_stream)
        self._coalescer = GpuCoalescer(self._load_stream, table.table_rows)
        self._sizes = RingSizes()
        self._ring: list[GpuRingEntry | None] = [None] * board.ring_size
        width = table.records.shape[1]
        self._staging = [
            GpuStaging(device, width, in_on_host=self._into.by_host, out_on_host=self._out.by_host, sizes=self._sizes)
            for _ in range(board.depth.staging_sets)
        ]
        # (S,) int64, device: the row whose value is in each slot when all that is queued is done, -1 for none.
        self._slot_rows = device.zeros(scratchpad.shape[0], np.int64)
        device.fill(self._slot_rows, 0xFF)
        device.record().synchronize()
        # Now, because memory may have run short when it is needed.
        flushed = min(scratchpad.shape[0], FLUSHED_ROWS)
        self._flushed = GrowingArray(device, np.float32, row=(width,), on_host=True, on_device=True)
        self._flushed.reserve(flushed)
        self._flushed_slots = device.empty(flushed, np.int32)
        self._row_bits = max(table.records.shape[0] - 1, 0).bit_length()
        self._sort = RadixSort(self._collect_stream, 0)
        self._loaded = self._shown = 0
        self._begun: int | None = None

    @property
    def own_stages(self) -> tuple[str, ...]:
        """The stages that wait for nothing but the device's counts: for the thread that trains."""
        by_host = {LOAD: True, COLLECT: self._into.by_host, INSERT: self._out.by_host}
        return tuple(stage for stage in STAGES[:-1] if not by_host.get(stage, False))

    def entry(self, batch: int) -> GpuRingEntry:
        """The ring entry of a batch that is on its way."""
        entry = self._ring[batch % len(self._ring)]
        if entry is None:
            sizes, features = self._sizes, self._dense_features
            loading = LoadedBatch(self._device, self._load_stream, self._coalescer, features, sizes.batch)
            entry = self._ring[batch % len(self._ring)] = GpuRingEntry(self._device, loading, sizes)
        return entry

    def load(self, number: int, batch: Batch) -> None:
        """Copy a batch to where the device can fetch it. All else of Load is queued when Plan comes by."""
        entry = self.entry(number)
        entry.plan = entry.slots = None
        # What was in the entry has trained, or its training is queued: the planner has waited for it to be loaded.
        entry.loading.fill(batch)

    def plan(self, number: int) -> None:
        """Plan a batch and find the slot of every lookup; begin to plan the next, so that its counts come meanwhile."""
        board, stream = self.board, self._plan_stream
        self._begin_plan(number)
        self._begun = None
        entry = self.entry(number)
        coalesced = entry.coalesced
        plan = entry.plan = self.planner.end_plan()
        entry.slots_memory.reserve(coalesced.lookups)
        entry.slots = entry.slots_memory.device(coalesced.lookups)
        place_lookups(stream, coalesced, plan.unique_slots, entry.slots)
        stream.record(entry.planned)
        if self._into.by_host:
            entry.miss_rows = entry.told_misses.tell(stream, plan.miss_rows)
            stream.record(entry.told)
        board.planned(plan)
        if self._may_begin(number + 1):
            self._begin_plan(number + 1)
        self._end(stream)

    def collect(self, number: int) -> None:
        """Gather the victims from the scratchpad; where the host moves rows, the missed records from its table."""
        entry, plan, staging = self._planned(number)
        missed, evicted = plan.miss_rows.shape[0], plan.evict_rows.shape[0]
        staging.reserve(missed, evicted)
        stream = self._collect_stream
        for event in self._events_before_collect(number):
            stream.wait(event)
        slots = self._sort_victims(plan, staging) if self._out.in_order else plan.evict_slots
        gather_records(stream, self.scratchpad, slots, staging.device_out(evicted))
        stream.record(entry.collected)
        if self._into.by_host:
            entry.told.synchronize()
            before = number - len(self._staging)
            if before >= 0:
                self.entry(before).came.synchronize()  # the copies from this staging are done
            written = max(self.board.collect_follows(number))
            if written >= 0:
                self.entry(written).went.synchronize()  # what it reads has come to the host table
            self._into.gather(entry.miss_rows, staging)
        self._end(stream)

    def exchange(self, number: int) -> None:
        """Bring missed records to the device and victims to the host, both at once."""
        entry, plan, staging = self._planned(number)
        self._in_stream.wait(entry.collected)
        self._into.bring(self._in_stream, plan.miss_rows, staging)
        self._in_stream.record(entry.came)
        evicted = plan.evict_rows.shape[0]
        self._out_stream.wait(entry.collected)
        if self._out.by_host:
            entry.evict_rows = entry.told_victims.tell(self._out_stream, plan.evict_rows)
        rows = staging.evict_rows.device(evicted) if self._out.in_order else plan.evict_rows
        self._out.take(self._out_stream, rows, staging)
        self._out_stream.record(entry.went)
        self._end(self._in_stream, self._out_stream)

    def insert(self, number: int) -> None:
        """Write the victims to the host table, then fill their slots.

        Wherever it fails, every row has a place: a victim its slot until it is in the host table, a missed row the host
        table until it is in its slot.
        """
        entry, plan, staging = self._planned(number)
        if self._out.by_host:
            entry.went.synchronize()
            self._out.scatter(entry.evict_rows, staging)
        stream = self._insert_stream
        stream.wait(entry.came)
        if not self._out.by_host:
            stream.wait(entry.went)
        device_in = staging.device_in(plan.miss_slots.shape[0])
        insert_records(stream, device_in, plan.miss_slots, plan.miss_rows, self.scratchpad, self._slot_rows)
        stream.record(entry.inserted)
        self._end(stream)

    def before_train(self, number: int) -> None:
        """Let training wait, on the device, for the rows of a batch."""
        self._device.wait(self.entry(number).inserted)

    def after_train(self, number: int) -> None:
        """All of a batch's training is queued."""
        self._device.record(self.entry(number).trained)
        self._end(self._device)

    def flush(self) -> None:
        """Copy every row whose value is in the scratchpad to the host table. No stage but Load may be at work.

        Nothing else changes: training may go on. Waits for all that is queued. What it copies is what has been carried
        out, so that it may follow a failure or an interrupt anywhere.
        """
        device = self._device
        device.synchronize()
        slot_rows = device.download(self._slot_rows)
        slots = np.flatnonzero(slot_rows >= 0).astype(np.int32)
        for at in range(0, slots.shape[0], FLUSHED_ROWS):
            part = slots[at : at + FLUSHED_ROWS]
            self._flushed.reserve(part.shape[0])
            gathered, on_host = self._flushed.device(part.shape[0]), self._flushed.host(part.shape[0])
            on_device = device.upload(part, self._flushed_slots[: part.shape[0]])
            gather_records(device, self.scratchpad, on_device, gathered)
            device.copy(gathered, on_host)
            device.record().synchronize()
            scatter_records(device.host, on_host, slot_rows[part], self.table.records)

    def _may_begin(self, number: int) -> bool:
        """Whether there is such a batch, and all that the planner is to see of those after it."""
        board = self.board
        last = number + board.lookahead
        if board.total is not None:
            last = min(last, board.total - 1)
        return not self._in_turn and number <= last < board.done[LOAD]

    def _begin_plan(self, number: int) -> None:
        """Queue the planning of a batch, unless that is done: show the planner what it may see by now before."""
        planner, board = self.planner, self.board
        if self._begun == number:
            return
        while self._loaded < board.done[LOAD]:
            self.entry(self._loaded).loading.load()
            self._loaded += 1
        while planner.may_look and self._shown <= number + board.lookahead:
            if self._shown == board.total:
                planner.end()
                break
            loading = self.entry(self._shown).loading
            planner.look(loading.coalesced.unique_rows[: loading.unique()])
            self._shown += 1
        planner.begin_plan(self.entry(number).plan_memory)
        self._begun = number

    def _sort_victims(self, plan: Plan, staging: GpuStaging) -> Any:
        """The victims' slots in the order of their rows, which stand beside them in the staging."""
        evicted = plan.evict_rows.shape[0]
        staging.evict_rows.reserve(evicted)
        staging.evict_slots.reserve(evicted)
        rows, slots = staging.evict_rows.device(evicted), staging.evict_slots.device(evicted)
        if self._sort.most_items < evicted:
            self._device.synchronize()  # what is given back may still be in use
            self._sort = RadixSort(self._collect_stream, math.ceil(ARRAY_GROWTH * evicted))
        self._sort.sort(plan.evict_rows, plan.evict_slots, rows, slots, bits=self._row_bits)
        return slots

    def _events_before_collect(self, number: int) -> list[Any]:
        """The events of the table above. A batch before the first has none."""
        trained, inserted = self.board.collect_follows(number)
        events = [self.entry(number).planned]
        events += [self.entry(trained).trained] if trained >= 0 else []
        return events + ([self.entry(inserted).inserted] if inserted >= 0 else [])

    def _planned(self, number: int) -> tuple[GpuRingEntry, Plan, GpuStaging]:
        entry = self.entry(number)
        assert entry.plan is not None
        return entry, entry.plan, self._staging[number % len(self._staging)]

    def _end(self, *streams: GpuStream) -> None:
        """The work of a stage is queued."""
        if self._in_turn:
            for stream in streams:
                stream.record().synchronize()
