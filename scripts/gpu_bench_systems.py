"""The five systems on the paper's model, over one host table."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from gpu_bench_ceilings import rates_of
from gpu_bench_checks import check_systems, exchanges_there, make_stage
from gpu_bench_report import Section
from gpu_bench_runs import TimedExchange, TimedTrainStage, batches_needed, free_memory, timed_steps
from gpu_bench_scale import BatchSource, Locality, Scale, expected_order, link_floor_ms, make_table, train_floor_ms
from gpu_bench_timing import gb_s, streams_ms

from cupyrec.batch import Batch
from cupyrec.config import SystemConfig
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.gpu import GpuDevice
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.host_table import HostTable
from cupyrec.embedding.move_rows import gather_records, scatter_records
from cupyrec.pipeline.exchange import TRIED_ROWS, Exchange, try_exchanges
from cupyrec.pipeline.ways import MIXED
from cupyrec.scratchpad_size import scratchpad_slots
from cupyrec.systems import scratchpad_system
from cupyrec.systems.registry import make_system
from cupyrec.systems.static import StaticSystem
from cupyrec.systems.table_memory import MANAGED

# Bars: scratchpipe against resident where the link allows it, against the link elsewhere, and against the others; and
# how much of a step may be outside Train.
MOST_OVER_RESIDENT, LEAST_LINK_SHARE, LEAST_OVER_STATIC, LEAST_OVER_HYBRID = 1.05, 0.90, 2.8, 5.0
MOST_OUTSIDE_TRAIN = 0.05
TURNOVERS = 4
HOST_TRIALS = 3
# What one system over one locality is thought to take, with its construction and the return of its rows.
SYSTEM_SECONDS = {"resident": 6, "scratchpipe": 6, "serial": 8, "static": 15, "hybrid": 4}


def measure_systems(section: Section, scale: Scale, device: GpuDevice) -> None:
    """All items of the section."""
    if section.measure("check", 20, lambda: check_systems(scale, device)) is None:
        return
    free_memory(device)
    # A virtual machine may show less memory than it has, and take more when it is used.
    with device.running(), patch.object(scratchpad_system, "available_bytes", return_value=None):
        Systems(section, scale, device).measure()


class Systems:
    """What the systems share: the host table, its ways over the link, the batches."""

    def __init__(self, section: Section, scale: Scale, device: GpuDevice) -> None:
        self._section, self._scale, self._device = section, scale, device
        self._table: Any = None
        self._memory = ""
        self._exchanges: dict[str, Exchange] = {}
        self._batches: dict[str, list[Batch]] = {}
        self._unique: dict[str, int] = {}
        self._fastest = "staged"
        self._counts: Any = None

    def measure(self) -> None:
        """The most important first: what is cut off is what is least missed."""
        section, scale = self._section, self._scale
        # Both are made in this process whatever an earlier one has measured, unless it has died of it.
        for item, seconds, function in (("host table", 40, self._make_table), ("batches", 15, self._make_batches)):
            known = section.report.section(section.name)
            if not {"begun", "error"} & known.get(item, {}).keys():
                known.pop(item, None)
            if section.measure(item, seconds, function) is None:
                return
        if self._memory == MANAGED and scale.host_memory != MANAGED:
            # Tables of the check before were too small for it.
            managed = replace(scale, host_memory=MANAGED)
            if section.measure("check in managed memory", 20, lambda: check_systems(managed, self._device)) is None:
                return
        section.measure("host rows", 10, lambda: move_rows(scale, self._device, self._table))
        self._over_localities("resident")
        for share in scale.shares:
            self._over_localities("scratchpipe", share)
        self._over_localities("static", scale.shares[0])
        self._over_localities("hybrid")
        for share in scale.shares[1:]:
            self._over_localities("static", share)
        self._over_localities("serial", scale.shares[0])
        for other in sorted(self._exchanges.keys() - {self._fastest}):
            # Shares beside the fastest tell little.
            if not other.startswith(MIXED):
                self._over_localities("scratchpipe", scale.shares[0], other)
        section.note("bars", bars_of(section.report.section(section.name), scale))

    def _make_table(self) -> dict[str, Any]:
        config, device = self._scale.config, self._device
        begun = time.perf_counter()
        self._table, memory = make_table(self._scale, device, config)
        made, self._memory = time.perf_counter(), memory.name
        self._exchanges, refusal = exchanges_there(device, self._table)
        locked = time.perf_counter()
        most_rows = min(TRIED_ROWS, config.table_rows[0])
        trials = try_exchanges(device, self._table, self._exchanges.values(), most_rows)
        self._fastest = min(trials, key=lambda name: trials[name])
        return {
            "bytes": self._table.records.nbytes,
            "memory": self._memory,
            **({"why_memory": memory.why} if memory.why else {}),
            "make_s": round(made - begun, 2),
            "lock_s": round(locked - made, 2),
            **({"not_locked": refusal} if refusal else {}),
            "auto_trial_ms": {name: round(seconds * 1e3, 3) for name, seconds in trials.items()},
            "auto_exchange": self._fastest,
        }

    def _make_batches(self) -> dict[str, Any]:
        scale, host = self._scale, self._device.host
        values: dict[str, Any] = {}
        for locality in scale.localities:
            count = batches_needed(scale, locality.fill_steps, scale.most_lookahead)
            source = BatchSource(host, scale.config, scale.batch_size, scale.bag_lookups, locality)
            begun = time.perf_counter()
            batches = self._batches[locality.name] = source.batches(count)
            seconds = time.perf_counter() - begun
            # Of a batch in the middle; U hardly differs between batches.
            unique = Coalescer(host, scale.config.table_rows).plan(batches[count // 2]).unique
            self._unique[locality.name] = unique
            values[locality.name] = {
                "batches": count,
                "unique_rows": unique,
                "lookups_a_s": round(count * scale.lookups / seconds),
            }
        return values

    def _over_localities(self, name: str, share: str | None = None, exchange: str | None = None) -> None:
        """A system made once and run on every locality. exchange: None: the one that auto takes."""
        scale = self._scale
        takes_exchange = name in ("scratchpipe", "serial")
        exchange = (exchange or self._fastest) if takes_exchange else None
        items = {
            locality.name: " / ".join(filter(None, (locality.name, name, share, exchange)))
            for locality in scale.localities
        }
        made: list[Any] = []
        for locality in scale.localities:
            # Its look-ahead follows U: a scratchpad system is made anew for each locality.
            if made and takes_exchange:
                made.clear()
            values = self._section.measure(
                items[locality.name],
                SYSTEM_SECONDS[name],
                lambda locality=locality: self._run(made, name, share, exchange, locality),
            )
            if values is None:
                made.clear()  # it may have failed amid its work
        made.clear()
        free_memory(self._device)

    def _run(
        self, made: list[Any], name: str, share: str | None, exchange: str | None, locality: Locality
    ) -> dict[str, Any]:
        if not made:
            free_memory(self._device)
            made.extend(self._make(name, share, exchange, locality))
        system, stage, timed_exchange = made
        batches = self._batches[locality.name]
        values = timed_steps(self._scale, system, stage, batches, timed_exchange, locality.fill_steps)
        values["floors"] = self._floors(values, locality)
        return values

    def _make(self, name: str, share: str | None, exchange: str | None, locality: Locality) -> tuple[Any, ...]:
        scale, device = self._scale, self._device
        stage = make_stage(device, scale.config, scale.batch_size, TimedTrainStage)
        rows, width = self._table.records.shape
        slots = scratchpad_slots(share or "100%", rows, 4 * width)
        if name == StaticSystem.name:
            if self._counts is None:
                self._counts = expected_order(scale.config)
            return StaticSystem(stage, self._table, slots=slots, row_counts=self._counts), stage, None
        if exchange is None:
            return make_system(SystemConfig(name), stage, self._table), stage, None
        lookahead = min(max(TURNOVERS * slots // self._unique[locality.name], 2), scale.most_lookahead)
        system: Any = make_system(SystemConfig(name, str(slots), lookahead), stage, self._table)
        # The table's pages are locked once, and what is moved is to be timed.
        system._exchange = timed = TimedExchange(self._exchanges[exchange])
        return system, stage, timed

    def _floors(self, values: dict[str, Any], locality: Locality) -> dict[str, float]:
        """What the step cannot beat, and how near it comes; nothing where the ceilings were not measured."""
        rates = rates_of(self._section.report.section("ceilings"))
        if rates is None:
            return {}
        train_ms = train_floor_ms(self._scale, self._unique[locality.name], rates, self._device.precision)
        link_ms = link_floor_ms(values.get("bytes_in_a_step", 0), values.get("bytes_out_a_step", 0), rates)
        floor_ms = max(train_ms, link_ms)
        return {
            "train_ms": round(train_ms, 4),
            "link_ms": round(link_ms, 4),
            "step_ms": round(floor_ms, 4),
            "step_over_floor": round(values["step_ms"] / floor_ms, 3),
        }


def move_rows(scale: Scale, device: GpuDevice, table: HostTable) -> dict[str, Any]:
    """Random records of the host table: gathered and scattered by the host, read and written by the GPU.

    The last two fail where the table's pages are not locked.
    """
    R, width = table.records.shape
    random, count = np.random.default_rng(1), min(scale.moved_rows, table.records.shape[0])
    # Different ones: two scatters of one row would be a race.
    rows = [np.unique(random.integers(0, R, count)) for _ in range(2)]
    for each in rows:
        random.shuffle(each)
    values: dict[str, Any] = {"rows": int(rows[0].size), "record_bytes": 4 * width}
    gathered = device.page_locked((count, width), np.float32)
    size = rows[0].size * 4 * width
    for name, host in (("1 thread", CpuDevice(1)), (f"{device.host.threads} threads", device.host)):
        for move, work in (
            ("gather", lambda host, each: gather_records(host, table.records, each, gathered[: each.size])),
            ("scatter", lambda host, each: scatter_records(host, gathered[: each.size], each, table.records)),
        ):
            times = []
            for _ in range(HOST_TRIALS):
                begun = time.perf_counter()
                work(host, rows[0])
                times.append((time.perf_counter() - begun) * 1e3)
            values[f"host_{move}_{name}_gb_s"] = gb_s(size, statistics.median(times))
    into, out = device.stream("in"), device.stream("out")
    places = [device.upload(np.sort(each)) for each in rows]
    on_device = [device.zeros((each.size, width)) for each in rows]
    mapped = device.runtime.mapped(table.records)
    # What is written back is what is there.
    gather_records(device, mapped, places[1], on_device[1])
    device.synchronize()
    reads = into, lambda: gather_records(into, mapped, places[0], on_device[0])
    writes = out, lambda: scatter_records(out, on_device[1], places[1], mapped)
    (read_ms,), (write_ms,) = streams_ms(device, [reads]), streams_ms(device, [writes])
    both_read_ms, both_write_ms = streams_ms(device, [reads, writes])
    sizes = [each.size * 4 * width for each in rows]
    for name, bytes_moved, ms in (
        ("read", sizes[0], read_ms),
        ("write", sizes[1], write_ms),
        ("both_read", sizes[0], both_read_ms),
        ("both_write", sizes[1], both_write_ms),
    ):
        values[f"direct_{name}_gb_s"] = gb_s(bytes_moved, ms)
    return values


def bars_of(items: dict[str, Any], scale: Scale) -> dict[str, Any]:
    """Whether each bar is met, from the results of the section.

    A scratchpad that was not full when it was timed has not yet had to give rows back: it is marked, and counts in no
    mean.
    """
    fastest = items["host table"]["auto_exchange"]

    def step_ms(*names: str) -> float:
        return items.get(" / ".join(names), {}).get("step_ms", 0.0)

    against: list[dict[str, Any]] = []
    speedups: dict[str, list[float]] = {"static": [], "hybrid": []}
    outside: list[dict[str, Any]] = []
    for locality in scale.localities:
        resident = step_ms(locality.name, "resident")
        note_outside(outside, f"{locality.name}, resident", items.get(f"{locality.name} / resident", {}))
        for share in scale.shares:
            item = items.get(" / ".join((locality.name, "scratchpipe", share, fastest)), {})
            ours, link = item.get("step_ms", 0.0), item.get("floors", {}).get("link_ms")
            if not ours:
                continue
            case, full = f"{locality.name}, {share}", bool(item["full"])
            note_outside(outside, f"{case}, scratchpipe", item)
            for name, other in (("static", (share,)), ("hybrid", ())):
                if full and (theirs := step_ms(locality.name, name, *other)):
                    speedups[name].append(theirs / ours)
            if not resident or link is None:
                continue
            values: dict[str, Any] = {"case": case, "full": full, "over_resident": round(ours / resident, 3)}
            if link < resident:
                met = ours <= MOST_OVER_RESIDENT * resident
                against.append({**values, "bar": f"at most {MOST_OVER_RESIDENT} x resident", "met": met})
            else:
                met = link >= LEAST_LINK_SHARE * ours
                bar = f"at least {LEAST_LINK_SHARE} of the link's floor"
                against.append({**values, "link_share": round(link / ours, 3), "bar": bar, "met": met})
    values = {"against resident or the link": against, "outside Train": outside}
    for name, bar in (("static", LEAST_OVER_STATIC), ("hybrid", LEAST_OVER_HYBRID)):
        if speedups[name]:
            mean = statistics.mean(speedups[name])
            values[f"times {name}"] = {
                "mean": round(mean, 2),
                "cases": len(speedups[name]),
                "bar": f"at least {bar}",
                "met": mean >= bar,
            }
    return values


def note_outside(outside: list[dict[str, Any]], case: str, item: dict[str, Any]) -> None:
    """Add how much of a step of a system was outside Train, where it was timed."""
    if "share_outside_train" in item:
        share = item["share_outside_train"]
        bar, met = f"under {MOST_OUTSIDE_TRAIN:.0%} of a step", share < MOST_OUTSIDE_TRAIN
        outside.append({"case": case, "share": share, "bar": bar, "met": met})
