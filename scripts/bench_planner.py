"""What planning costs at the paper's size: 8 tables x 10,000,000 rows, 20 lookups a bag, batch 2048, 8,000,000 slots.

    python scripts/bench_planner.py --output docs/measured/planner.json

For uniform and Zipf 0.9 rows, and K = 4 and K = 4 S/U: the milliseconds per batch of Planner.look and Planner.plan, of
the coalescing before and of finding the slots of the lookups after, each on one thread. Batches are made when they are
shown. Times are medians over the batches that follow once every slot is filled, so that each miss evicts, and a tenth
of S/U batches more has been planned.

The floor beside them is what planning must touch, at the rate at which this thread reaches random cache lines of
64 bytes with prefetching, measured in the same run over as much memory as the planner takes:
    for each unique row   its cell of the hit map and its node when it is shown, its node when it is planned and
                          when it is released: 4 lines
    for each miss         its row number, and the node number of its slot: 2 lines
    for each row evicted  its node, its row number, its cell of the hit map: 3 lines
Neighbours in lists come on top of that and are not counted. Arrays that are walked in order are left out.

The step that planning should not delay is that of shape B of bench_train.py: the same batches and model over tables of
1,000,000 rows (40 GB of weights would be too much for one such machine). Its time is taken from the file that
bench_train.py has written, if there is one; it names the processor, which may be another one.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from machine import processor_name, versions

from cupyrec.batch import Batch
from cupyrec.devices.cpu import CpuStream
from cupyrec.devices.numba_kernel import cpu_kernel, prefetch
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.pipeline.plan import PlanMemory
from cupyrec.pipeline.planner import Planner
from cupyrec.pipeline.stage_work import place_lookups
from cupyrec.pipeline.stages import PIPELINED

TABLES, TABLE_ROWS, BAG_LOOKUPS, BATCH_SIZE, SLOTS = 8, 10_000_000, 20, 2048, 8_000_000
LOOKUPS = TABLES * BAG_LOOKUPS * BATCH_SIZE
TRACES = {"uniform": 0.0, "Zipf 0.9": 0.9}
SHORT_LOOKAHEAD, TURNOVERS = 4, 4
SETTLING_TURNOVERS, STEADY_BATCHES = 0.1, 40
LINE_BYTES, AHEAD = 64, 16
LINES_A_ROW, LINES_A_MISS, LINES_AN_EVICTION = 4, 2, 3
TRAIN_STEP_FILE = Path(__file__).parents[1] / "docs/measured/train_cpu.json"


def make_batches(exponent: float) -> Iterator[Batch]:
    """Batches without end; the k-th most used row of a table is used with a probability proportional to k**-exponent.

    Ranks are drawn from the continuous density x**-exponent on 1 .. rows + 1 and rounded down.
    """
    random = np.random.default_rng(1)
    row_of_rank = random.permutation(TABLE_ROWS)
    power = 1 - exponent
    starts = np.repeat(np.arange(TABLES) * TABLE_ROWS, LOOKUPS // TABLES)
    offsets = np.arange(0, LOOKUPS + 1, BAG_LOOKUPS)
    dense, labels = np.zeros((BATCH_SIZE, 1), np.float32), np.zeros(BATCH_SIZE, np.float32)
    while True:
        ranks = (random.random(LOOKUPS) * ((TABLE_ROWS + 1) ** power - 1) + 1) ** (1 / power) - 1
        rows = starts + row_of_rank[np.minimum(ranks.astype(np.int64), TABLE_ROWS - 1)]
        yield Batch(dense=dense, rows=rows, offsets=offsets, labels=labels)


class Clock:
    """Milliseconds of calls, by name, from when it is told to keep them."""

    def __init__(self) -> None:
        self.keeps = False
        self.times: dict[str, list[float]] = {}

    def call(self, name, function, *arguments):
        begun = time.perf_counter()
        result = function(*arguments)
        if self.keeps:
            self.times.setdefault(name, []).append((time.perf_counter() - begun) * 1e3)
        return result


@cpu_kernel
def _touch(lines, order):
    """Read and write one number of each line named."""
    for i in range(order.shape[0]):
        if i + AHEAD < order.shape[0]:
            prefetch(lines, (order[i + AHEAD], 0))
        lines[order[i], 0] += 1


def line_ns(size_bytes: int) -> float:
    """Nanoseconds that one thread takes for a random line out of so many bytes."""
    lines = np.zeros((size_bytes // LINE_BYTES, LINE_BYTES // 8), np.int64)
    lines[:] = 0  # so that the pages are there
    order = np.random.default_rng(2).integers(0, len(lines), 2_000_000)
    _touch(lines, order)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        _touch(lines, order)
        times.append(time.perf_counter() - begun)
    return statistics.median(times) / len(order) * 1e9


def measure(trace: str, lookahead: int) -> dict[str, object]:
    """All figures of one trace and K."""
    stream, clock, memory = CpuStream(), Clock(), PlanMemory()
    coalescer = Coalescer(stream, (TABLE_ROWS,) * TABLES)
    planner = Planner(SLOTS, lookahead=lookahead, holds=PIPELINED.holds)
    batches, slots_of_lookups = make_batches(TRACES[trace]), np.empty(LOOKUPS, np.int32)
    filled, first_counted, unique, missed, evicted = 0, 0, [], [], []
    while len(missed) < STEADY_BATCHES:
        while planner.may_look:
            coalesced = clock.call("coalesce", coalescer.plan, next(batches))
            clock.call("look", planner.look, coalesced.unique_rows)
        plan = clock.call("plan", planner.plan, memory)
        slots = np.arange(coalesced.unique, dtype=np.int32)
        clock.call("slots of lookups", place_lookups, stream, coalesced, slots, slots_of_lookups)
        if clock.keeps:
            unique.append(plan.unique_slots.size)
            missed.append(plan.miss_rows.size)
            evicted.append(plan.evict_rows.size)
        filled += plan.miss_rows.size - plan.evict_rows.size
        if filled == SLOTS and not first_counted:
            first_counted = planner.planned + math.ceil(SETTLING_TURNOVERS * SLOTS / plan.unique_slots.size)
        clock.keeps = 0 < first_counted <= planner.planned
    medians = {name: round(statistics.median(times), 2) for name, times in clock.times.items()}
    planning = [sum(pair) for pair in zip(clock.times["look"], clock.times["plan"], strict=True)]
    means = [statistics.mean(each) for each in (unique, missed, evicted)]
    lines = sum(count * mean for count, mean in zip((LINES_A_ROW, LINES_A_MISS, LINES_AN_EVICTION), means, strict=True))
    size_bytes = planner.size_bytes
    del planner  # its memory is needed
    ns = line_ns(size_bytes)
    floor_ms = lines * ns / 1e6
    return {
        "trace": trace,
        "lookahead": lookahead,
        "first_batch_counted": first_counted,
        "unique_rows": round(means[0]),
        "missed_rows": round(means[1]),
        "evicted_rows": round(means[2]),
        "median_ms": medians,
        "look_and_plan_ms": round(statistics.median(planning), 2),
        "look_and_plan_fastest_ms": round(min(planning), 2),
        "planner_bytes": size_bytes,
        "line_ns": round(ns, 2),
        "floor_bytes": round(lines * LINE_BYTES),
        "floor_ms": round(floor_ms, 2),
        "look_and_plan_over_floor": round(statistics.median(planning) / floor_ms, 2),
    }


def train_step() -> dict[str, object] | None:
    """Of shape B, as bench_train.py has measured it, and on which processor: it may be another one."""
    if not TRAIN_STEP_FILE.exists():
        return None
    measured = json.loads(TRAIN_STEP_FILE.read_text(encoding="utf-8"))
    step_ms = next((each["median_ms"]["cupyrec"] for each in measured["shapes"] if each["shape"] == "B"), None)
    return {"shape": "B", "median_ms": step_ms, "machine": measured["machine"]}


def long_lookahead(trace: str) -> int:
    """K = 4 S/U, U from three batches."""
    batches = make_batches(TRACES[trace])
    unique = statistics.mean(np.unique(next(batches).rows).size for _ in range(3))
    return math.ceil(TURNOVERS * SLOTS / unique)


def markdown(results: list[dict]) -> str:
    head = (
        "trace",
        "K",
        "U",
        "misses",
        "coalesce ms",
        "look ms",
        "plan ms",
        "look + plan ms",
        "floor ms",
        "over floor",
    )
    lines = ["| " + " | ".join((*head, "slots of lookups ms", "planner GB")) + " |", "|---" * (len(head) + 2) + "|"]
    for each in results:
        ms = each["median_ms"]
        cells = (
            each["trace"], each["lookahead"], each["unique_rows"], each["missed_rows"], ms["coalesce"], ms["look"],
            ms["plan"], each["look_and_plan_ms"], each["floor_ms"], each["look_and_plan_over_floor"],
            ms["slots of lookups"], round(each["planner_bytes"] / 1e9, 2),
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", action="append", choices=sorted(TRACES), help="default: all")
    parser.add_argument("--output", type=Path, help="write the JSON here")
    arguments = parser.parse_args()
    results = [
        measure(trace, lookahead)
        for trace in arguments.trace or TRACES
        for lookahead in (SHORT_LOOKAHEAD, long_lookahead(trace))
    ]
    report = {
        "machine": {"cpu": processor_name(), "threads": 1},
        "versions": versions("cupyrec", "numpy", "numba"),
        "tables": TABLES,
        "table_rows": TABLE_ROWS,
        "lookups": LOOKUPS,
        "batch_size": BATCH_SIZE,
        "slots": SLOTS,
        "steady_batches": STEADY_BATCHES,
        "train_step": train_step(),
        "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "results": results,
    }
    print(markdown(results))
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
