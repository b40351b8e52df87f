"""What planning costs on the device: showing a batch to the planner and planning one, at the paper's batch."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import numpy as np
from gpu_bench_report import Section
from gpu_bench_runs import free_memory
from gpu_bench_scale import BatchSource, Locality, Scale
from gpu_bench_timing import between_ms

from cupyrec.batch import Batch
from cupyrec.devices.gpu import GpuDevice
from cupyrec.embedding.gpu_coalesce import GpuCoalesceMemory, GpuCoalescer
from cupyrec.pipeline.gpu_planner import GpuPlanMemory, GpuPlanner
from cupyrec.pipeline.plan import PlanMemory
from cupyrec.pipeline.planner import Planner
from cupyrec.pipeline.stages import PIPELINED

TURNOVERS = 4
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
    with device.running():
        for locality in (uniform, skewed):
            unique_rows: list[Any] = []
            for slots in scale.planner_slots:
                section.measure(
                    f"{locality.name} / {slots} slots",
                    8,
                    lambda locality=locality, slots=slots, unique_rows=unique_rows: planning(
                        scale, device, locality, slots, unique_rows
                    ),
                )
                free_memory(device)


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


def planning(scale: Scale, device: GpuDevice, locality: Locality, slots: int, unique_rows: list[Any]) -> dict[str, Any]:
    """Milliseconds a batch, once the scratchpad is full, or has not become so within the locality's steps."""
    if not unique_rows:
        unique_rows.extend(coalesced_rows(scale, device, locality))
    lookahead = min(max(TURNOVERS * slots // unique_rows[0].shape[0], PIPELINED.holds.future), scale.most_lookahead)
    stream = device.stream("plan")
    planner = GpuPlanner(stream, slots, lookahead=lookahead, holds=PIPELINED.holds)
    memory = GpuPlanMemory()
    shown = filled = first_timed = 0
    times: list[dict[str, float]] = []
    missed: list[int] = []
    while planner.planned < len(unique_rows) and len(times) < scale.timed_steps:
        marks, clock = [stream.record()], [time.perf_counter()]
        # In the steady state this is one batch.
        while planner.may_look and shown < len(unique_rows):
            planner.look(unique_rows[shown])
            shown += 1
        if not planner.may_plan:
            break
        marks.append(stream.record())
        clock.append(time.perf_counter())
        plan = planner.plan(memory)
        marks.append(stream.record())
        marks[-1].synchronize()
        clock.append(time.perf_counter())
        filled += plan.miss_rows.shape[0] - plan.evict_rows.shape[0]
        full = filled >= slots or planner.planned >= locality.fill_steps
        if full and not first_timed:
            first_timed = planner.planned
        elif full:
            look_ms, plan_ms = (between_ms(device, *pair) for pair in itertools.pairwise(marks))
            times.append(
                {"look_ms": look_ms, "plan_ms": plan_ms, "both_ms": look_ms + plan_ms,
                 "host_ms": (clock[2] - clock[0]) * 1e3}
            )  # fmt: skip
            missed.append(plan.miss_rows.shape[0])
    values = {name: round(statistics.median(each[name] for each in times), 4) for name in times[0]}
    return {
        **values,
        "batches": len(times),
        "full": filled >= slots,
        "lookahead": lookahead,
        "unique_rows": unique_rows[0].shape[0],
        "missed_rows": round(statistics.mean(missed)),
        "planner_bytes": planner.size_bytes,
    }


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
