"""What planning costs on the device: showing a batch to the planner and planning one, at the paper's batch."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from gpu_bench_checks import make_stage, small
from gpu_bench_report import Section
from gpu_bench_runs import free_memory
from gpu_bench_scale import BatchSource, Locality, Scale
from gpu_bench_timing import between_ms
from gpu_bench_train import load_batches, random_records

from cupyrec.batch import Batch
from cupyrec.devices.cupy_runtime import CupyRuntime, CupyStream
from cupyrec.devices.gpu import GpuDevice, GpuEvent, GpuStream
from cupyrec.embedding.gpu_coalesce import GpuCoalesceMemory, GpuCoalescer
from cupyrec.pipeline.gpu_planner import GpuPlanMemory, GpuPlanner
from cupyrec.pipeline.plan import Plan, PlanMemory
from cupyrec.pipeline.planner import Planner
from cupyrec.pipeline.stages import PIPELINED
from cupyrec.scratchpad_size import scratchpad_slots

TURNOVERS = 4
# CUDA takes the highest that there is for one that is higher.
HIGHEST_PRIORITY = -100
# Beside uniform rows, where the scale has it.
SKEWED = "Zipf 0.9"
# Small plans that are compared with the CPU's before anything is timed.
CHECKED_BATCHES, CHECKED_SLOTS, CHECKED_ROWS, CHECKED_UNIQUE = 40, 400, 2000, 60


def measure_planning(section: Section, scale: Scale, device: GpuDevice) -> None:
    """All items of the section."""
    if section.measure("check", 10, lambda: check_plans(device)) is None:
        return
    uniform = scale.localities[0]
    skewed = next((each for each in scale.localities if each.name == SKEWED), scale.localities[-1])
    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "": planning,
        ", kernels": launches,
        ", beside Train": partial(beside_train, urgent=False),
        ", beside Train, urgent": partial(beside_train, urgent=True),
    }
    with device.running():
        for locality in (uniform, skewed):
            unique_rows: list[Any] = []
            for slots in scale.planner_slots:
                # By kernel, and beside Train, for one scratchpad: the rest tells nothing new.
                for kind in kinds if slots == scale.planner_slots[0] else [""]:
                    section.measure(
                        f"{locality.name} / {slots} slots{kind}",
                        8,
                        partial(one_kind, kinds[kind], scale, device, locality, slots, unique_rows),
                    )
                    free_memory(device)


def one_kind(
    measure: Callable[..., dict[str, Any]],
    scale: Scale,
    device: GpuDevice,
    locality: Locality,
    slots: int,
    unique_rows: list[Any],
) -> dict[str, Any]:
    """What is measured of planning, over rows that are made when they are first needed."""
    if not unique_rows:
        unique_rows.extend(coalesced_rows(scale, device, locality))
    return measure(scale, device, locality, slots, unique_rows)


def check_plans(device: GpuDevice) -> dict[str, Any]:
    """Whether the plans are the CPU planner's."""
    random = np.random.default_rng(1)
    batches = [
        np.unique(random.integers(0, CHECKED_ROWS, CHECKED_UNIQUE).astype(np.int64)) for _ in range(CHECKED_BATCHES)
    ]
    settings: dict[str, Any] = {"lookahead": 8, "holds": PIPELINED.holds}
    planners = Planner(CHECKED_SLOTS, **settings), GpuPlanner(device.stream("plan"), CHECKED_SLOTS, **settings)
    memories, shown = (PlanMemory(), GpuPlanMemory()), 0
    uploaded: list[Any] = []
    for number in range(CHECKED_BATCHES):
        while planners[0].may_look:
            if shown == CHECKED_BATCHES:
                planners[0].end()
                planners[1].end()
                break
            planners[0].look(batches[shown])
            uploaded.append(device.upload(batches[shown]))  # kept until it is read
            planners[1].look(uploaded[-1])
            shown += 1
        plans = [planner.plan(memory) for planner, memory in zip(planners, memories, strict=True)]
        device.synchronize()
        for name in ("unique_slots", "miss_rows", "miss_slots", "evict_rows", "evict_slots"):
            on_cpu, on_gpu = getattr(plans[0], name), device.download(getattr(plans[1], name))
            if not np.array_equal(on_cpu, on_gpu):
                return {"mismatch": f"{name} of batch {number}"}
    return {"right": True, "batches": CHECKED_BATCHES}


class SteadyPlanning:
    """Shows batches to a planner and plans them, once the scratchpad is full, or has not become so within the
    locality's steps.
    """

    def __init__(
        self, scale: Scale, stream: GpuStream, locality: Locality, slots: int, unique_rows: Sequence[Any]
    ) -> None:
        """unique_rows: of the batches, device arrays."""
        self.stream, self._scale, self._unique_rows = stream, scale, unique_rows
        self._fill_steps, self._slots = locality.fill_steps, slots
        known = TURNOVERS * slots // unique_rows[0].shape[0]
        self.lookahead = min(max(known, PIPELINED.holds.future), scale.most_lookahead)
        self.planner = GpuPlanner(stream, slots, lookahead=self.lookahead, holds=PIPELINED.holds)
        self._memory, self._shown, self._filled = GpuPlanMemory(), 0, 0

    @property
    def is_full(self) -> bool:
        """Whether the scratchpad is full."""
        return self._filled >= self._slots

    def steps(self, before_each: Callable[[], object] = lambda: None) -> Iterator[tuple[float, float, Plan]]:
        """For each batch that is timed: milliseconds to show one and to plan one, by the device's clock; and the plan.

        before_each: is called before each of them.
        """
        device, planner, steady = self.stream, self.planner, False
        for _ in range(self._scale.timed_steps + self._fill_steps):
            before_each()
            marks = [device.record(timed=True)]
            # In the steady state this is one batch.
            while planner.may_look and self._shown < len(self._unique_rows):
                planner.look(self._unique_rows[self._shown])
                self._shown += 1
            if not planner.may_plan:
                return
            marks.append(device.record(timed=True))
            plan = planner.plan(self._memory)
            marks.append(device.record(timed=True))
            marks[-1].synchronize()
            self._filled += plan.miss_rows.shape[0] - plan.evict_rows.shape[0]
            if steady:
                look_ms, plan_ms = (between_ms(device, *pair) for pair in itertools.pairwise(marks))
                yield look_ms, plan_ms, plan
            steady = steady or self.is_full or planner.planned >= self._fill_steps


def planning(scale: Scale, device: GpuDevice, locality: Locality, slots: int, unique_rows: list[Any]) -> dict[str, Any]:
    """Milliseconds a batch."""
    steady = SteadyPlanning(scale, device.stream("plan"), locality, slots, unique_rows)
    clock: list[float] = []
    steps = list(steady.steps(lambda: clock.append(time.perf_counter())))
    look_ms, plan_ms, plans = zip(*steps, strict=True)
    host_s = [after - before for before, after in itertools.pairwise(clock[-len(steps) :])]
    return {
        "look_ms": median_of(look_ms),
        "plan_ms": median_of(plan_ms),
        "both_ms": median_of(map(sum, zip(look_ms, plan_ms, strict=True))),
        "host_ms": round(1e3 * statistics.median(host_s), 4),
        "batches": len(steps),
        "full": steady.is_full,
        "lookahead": steady.lookahead,
        "unique_rows": unique_rows[0].shape[0],
        "missed_rows": round(statistics.mean(plan.miss_rows.shape[0] for plan in plans)),
        "planner_bytes": steady.planner.size_bytes,
    }


def launches(scale: Scale, device: GpuDevice, locality: Locality, slots: int, unique_rows: list[Any]) -> dict[str, Any]:
    """What of planning is whose: for each kernel, its launches a batch, and the milliseconds of all of them.

    Each launch has a record of an event behind it, on the same stream; where it takes less than the host takes to queue
    both, it is the host that is timed. Nothing is captured here.
    """
    stream: Any = device.stream("plan")
    noted: list[tuple[str, GpuEvent]] = []
    steady = SteadyPlanning(scale, stream, locality, slots, unique_rows)
    batches: list[dict[str, list[float]]] = []

    def noting(queue: Callable[..., None], name_of: Callable[..., str]) -> Callable[..., None]:
        def queue_and_note(*arguments: Any, **named: Any) -> None:
            if not noted:
                noted.append(("", stream.record(timed=True)))
            queue(stream, *arguments, **named)
            noted.append((name_of(*arguments), stream.record(timed=True)))

        return queue_and_note

    graphs, stream.graphs = stream.graphs, False
    stream.launch = noting(GpuStream.launch, lambda kernel, *_: kernel.name)
    stream.copy = noting(GpuStream.copy, lambda *_: "copy")
    try:
        for _ in steady.steps(noted.clear):
            times: dict[str, list[float]] = {}
            for (_, begun), (name, ended) in itertools.pairwise(noted):
                times.setdefault(name, []).append(between_ms(device, begun, ended))
            batches.append(times)
    finally:
        del stream.launch, stream.copy
        stream.graphs = graphs
    names = dict.fromkeys(name for times in batches for name in times)
    return {
        name: {
            "launches": median_of(len(times.get(name, [])) for times in batches),
            "ms": median_of(sum(times.get(name, [])) for times in batches),
        }
        for name in names
    }


def beside_train(
    scale: Scale, device: GpuDevice, locality: Locality, slots: int, unique_rows: list[Any], *, urgent: bool
) -> dict[str, Any]:
    """Planning and Train at once, each batch of one beside one of the other; each waits for the other's batch before.

    urgent: whether planning is on a stream whose blocks come first.
    """
    # As many rows as the largest scratchpad: the rest of the table is not looked at by Train.
    a_table = scratchpad_slots(scale.shares[0], sum(scale.config.table_rows), 1) // scale.config.features
    config = small(scale.config, a_table)
    records = random_records(device, sum(config.table_rows), config.dimension)
    loaded = itertools.cycle(load_batches(scale, device, config, locality))
    stage = make_stage(device, scale.config, scale.batch_size)
    steady = SteadyPlanning(
        scale, urgent_stream(device) if urgent else device.stream("plan"), locality, slots, unique_rows
    )
    trained: list[tuple[GpuEvent, GpuEvent]] = []
    clock: list[float] = []

    def train() -> None:
        if len(trained) > 1:
            trained[-2][1].synchronize()
        clock.append(time.perf_counter())
        batch, plan = next(loaded)
        begun = device.record(timed=True)
        stage.run(batch, records, batch.rows, plan)
        trained.append((begun, device.record(timed=True)))

    steps = list(steady.steps(train))
    device.synchronize()
    look_ms, plan_ms, _ = zip(*steps, strict=True)
    host_s = [after - before for before, after in itertools.pairwise(clock[-len(steps) :])]
    return {
        "look_ms": median_of(look_ms),
        "plan_ms": median_of(plan_ms),
        "train_ms": median_of(between_ms(device, *pair) for pair in trained[-len(steps) :]),
        "both_at_once_ms": round(1e3 * statistics.median(host_s), 4),
    }


def urgent_stream(device: GpuDevice) -> GpuStream:
    """A stream of the highest priority; an emulated GPU has none."""
    stream: Any = device.stream("plan")
    if isinstance(device.runtime, CupyRuntime):
        import cupy

        stream._handle = CupyStream("plan", cupy.cuda.Stream(non_blocking=True, priority=HIGHEST_PRIORITY))
    return stream


def median_of(values: Iterable[float]) -> float:
    """Rounded."""
    return round(statistics.median(values), 4)


def coalesced_rows(scale: Scale, device: GpuDevice, locality: Locality) -> list[Any]:
    """The unique rows of batches, device arrays."""
    config = scale.config
    source = BatchSource(device.host, config, scale.batch_size, scale.bag_lookups, locality)
    coalescer, memory = GpuCoalescer(device, config.table_rows), GpuCoalesceMemory()
    rows = []
    for batch in source.batches(locality.fill_steps + scale.timed_steps + scale.most_lookahead + 2):
        arrays = (batch.dense[:0], batch.rows, batch.offsets, batch.labels[:0])
        there = Batch(*(device.upload(each) for each in arrays))
        plan = coalescer.plan(there, memory)
        unique = int(device.download(plan.unique_count)[0])
        of_batch = device.empty(unique, np.int64)
        device.copy(plan.unique_rows[:unique], of_batch)
        rows.append(of_batch)
    device.synchronize()
    return rows
