"""The stage Train on rows that are there, against its floor: as a whole, and kernel by kernel."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import numpy as np
from gpu_bench_ceilings import rates_of
from gpu_bench_checks import check_rows, check_step, make_stage, small
from gpu_bench_report import Section
from gpu_bench_runs import free_memory
from gpu_bench_scale import BatchSource, Locality, Scale, train_floor_ms
from gpu_bench_timing import between_ms, kernel_times, per_ms, tflop_s

from cupyrec.batch import Batch, GpuCoalescePlan
from cupyrec.config import PRECISIONS, DlrmConfig
from cupyrec.devices.gpu import GpuDevice
from cupyrec.embedding.gpu_coalesce import GpuCoalesceMemory, GpuCoalescer
from cupyrec.scratchpad_size import scratchpad_slots

# Batches that take turns, so that one's rows are not in the cache from the time before.
ROTATED = 4
KERNEL_SUM = "sum of kernels"
# Of its floor, that Train must reach.
LEAST_FLOOR_SHARE = 0.70
RANDOM_ROWS = 65_536


def measure_train(section: Section, scale: Scale, device: GpuDevice) -> None:
    """All items of the section."""
    if section.measure("check rows", 10, lambda: check_rows(scale, device, scale.config)) is None:
        return
    right = []
    for precision in PRECISIONS:
        device.precision = precision
        if section.measure(f"check step {precision}", 5, lambda: check_step(scale, device)) is not None:
            right.append(precision)
    # As many rows as the largest scratchpad: the rest of the table is not looked at by Train.
    a_table = scratchpad_slots(scale.shares[0], sum(scale.config.table_rows), 1) // scale.config.features
    config = small(scale.config, a_table)
    with device.running():
        records = random_records(device, sum(config.table_rows), config.dimension)
        for locality in scale.localities:
            loaded = load_batches(scale, device, config, locality)
            unique = statistics.mean(int(device.download(plan.unique_count)[0]) for _, plan in loaded)
            for precision, graphs in itertools.product(right, (True, False)):
                device.precision, device.graphs = precision, graphs
                section.measure(
                    f"{locality.name} / {precision}, {'with graphs' if graphs else 'without graphs'}",
                    3,
                    lambda loaded=loaded, unique=unique: whole_stage(section, scale, device, records, loaded, unique),
                )
            for precision in right:
                device.precision, device.graphs = precision, False
                section.measure(
                    f"{locality.name} / {precision}, kernels",
                    6,
                    lambda loaded=loaded, unique=unique: kernels(section, scale, device, records, loaded, unique),
                )
                if locality is not scale.localities[0]:
                    break  # matrix products do not depend on the rows
    device.precision, device.graphs = PRECISIONS[0], True
    section.note("bars", train_bars(section.report.section(section.name)))
    free_memory(device)


def train_bars(items: dict[str, Any]) -> dict[str, Any]:
    """Whether Train, with graphs, comes near enough to its floor; nothing where the ceilings were not measured."""
    shares = {
        name: item["share_of_floor"]
        for name, item in items.items()
        if name.endswith("with graphs") and "share_of_floor" in item
    }
    bar = f"at least {LEAST_FLOOR_SHARE:.0%} of its floor"
    return {
        "share of floor": [
            {"case": name, "share": share, "bar": bar, "met": share >= LEAST_FLOOR_SHARE}
            for name, share in shares.items()
        ]
    }


def random_records(device: GpuDevice, rows: int, width: int) -> Any:
    """(rows, width), device: random numbers, the same again after some rows."""
    records = device.empty((rows, width))
    part = np.random.default_rng(1).random((min(RANDOM_ROWS, rows), width), np.float32)
    for at in range(0, rows, RANDOM_ROWS):
        device.copy(part[: rows - at], records[at : at + RANDOM_ROWS])
    device.synchronize()
    return records


def load_batches(
    scale: Scale, device: GpuDevice, config: DlrmConfig, locality: Locality
) -> list[tuple[Batch, GpuCoalescePlan]]:
    """A few batches on the device, with their coalescing."""
    source = BatchSource(device.host, config, scale.batch_size, scale.bag_lookups, locality)
    coalescer = GpuCoalescer(device, config.table_rows)
    loaded = []
    for batch in source.batches(ROTATED):
        there = Batch(*(device.upload(each) for each in (batch.dense, batch.rows, batch.offsets, batch.labels)))
        loaded.append((there, coalescer.plan(there, GpuCoalesceMemory())))
    device.synchronize()
    return loaded


def whole_stage(
    section: Section, scale: Scale, device: GpuDevice, records: Any, loaded: list[Any], unique: float
) -> dict[str, Any]:
    """Steps one after another, by events and by the host's clock."""
    stage = make_stage(device, scale.config, scale.batch_size)

    def steps(count: int) -> None:
        for batch, plan in itertools.islice(itertools.cycle(loaded), count):
            stage.run(batch, records, batch.rows, plan)

    steps(2 * ROTATED)
    device.synchronize()
    times, begun = [], time.perf_counter()
    for _ in range(scale.repeats):
        first = device.record(timed=True)
        steps(ROTATED)
        times.append((first, device.record(timed=True)))
    queued_ms = (time.perf_counter() - begun) * 1e3
    device.synchronize()
    ms = statistics.median(between_ms(device, *pair) for pair in times) / ROTATED
    host_ms = queued_ms / scale.repeats / ROTATED
    return {"ms": round(ms, 4), "host_ms": round(host_ms, 4), **_against_floor(section, scale, device, unique, ms)}


def kernels(
    section: Section, scale: Scale, device: GpuDevice, records: Any, loaded: list[Any], unique: float
) -> dict[str, Any]:
    """Each kernel of one step by itself, again and again: what it works on stays in the cache where it fits there."""
    stage = make_stage(device, scale.config, scale.batch_size)
    batch, plan = loaded[0]
    stage.run(batch, records, batch.rows, plan)
    times = kernel_times(device, lambda: stage.run(batch, records, batch.rows, plan), scale.repeats, stage.beside)
    for each in times:
        if each["name"].startswith("matmul"):
            m, k, n = map(int, each["name"].split()[1].split("x"))
            each["tflop_s"] = tflop_s(2 * m * k * n, each["ms"])
    total = sum(each["ms"] for each in times)
    floor = _against_floor(section, scale, device, unique, total)
    return {"kernels": times, KERNEL_SUM: round(total, 4), **floor}


def _against_floor(section: Section, scale: Scale, device: GpuDevice, unique: float, ms: float) -> dict[str, Any]:
    values: dict[str, Any] = {"unique_rows": round(unique)}
    rates = rates_of(section.report.section("ceilings"))
    if rates is not None:
        floor_ms = train_floor_ms(scale, unique, rates, device.precision)
        values |= {"floor_ms": round(floor_ms, 4), "share_of_floor": round(per_ms(floor_ms, ms), 3)}
    return values
