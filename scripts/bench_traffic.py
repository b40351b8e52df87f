"""Rows that each replacement policy moves, as multiples of what the offline optimum moves.

    python scripts/bench_traffic.py --output docs/measured/traffic.json

Traces: 200,000 rows, 1,200 batches of 2,000 lookups, uniform or Zipf (the k-th most used row with probability
proportional to 1/k**a, rows permuted); scratchpads of 10% and 20% of the rows. The optimum is Belady's MIN at the same
scratchpad, which knows all batches and holds none (cupyrec.pipeline.offline_optimum); beside it the same rule with the
pipeline's holds, which is what a policy can hope for. All policies plan with the pipeline's holds. U is the mean of
unique rows a batch; lookahead is measured with K = 4 S/U and 8 S/U, each with a running count of uses and with the
counts of the whole data set known.

Counted is the steady state. It begins after 6 S/U batches, or half the trace where that is less: until then the
scratchpad fills, and the policies come apart. It ends 8 S/U batches before the trace: after that the longest window
runs into the end of the data, and rows without a next use become many. All policies are counted over the same batches.

A count of rows does not depend on the machine: the same seeds give the same figures. The script ends with 1 when a bar
is missed in any trace with any seed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import versions

from cupyrec.pipeline.offline_optimum import offline_misses
from cupyrec.pipeline.plan import Holds, PlanMemory
from cupyrec.pipeline.planner import Planner
from cupyrec.pipeline.stages import PIPELINED

ROWS, BATCHES, LOOKUPS = 200_000, 1_200, 2_000
ZIPF_EXPONENTS = (0.0, 0.6, 0.9, 1.1)
SHARES = (0.1, 0.2)
LONG_TURNOVERS, SETTLING_TURNOVERS = 8, 6
# The most that lookahead may move, as a multiple of the optimum, by (K U / S, whether counts are known).
BARS = {(4, False): 1.3, (8, False): 1.1, (4, True): 1.15, (8, True): 1.07}
OTHERS = ("lru", "lfu", "random")


def make_trace(exponent: float, seed: int) -> list[np.ndarray]:
    """(LOOKUPS,) int64 rows of each batch."""
    random = np.random.default_rng(seed)
    shares = np.arange(1, ROWS + 1) ** -exponent
    below = np.cumsum(shares / shares.sum())
    row_of_rank = random.permutation(ROWS)
    # Rounding may leave the last sum a little below 1.
    ranks = (np.searchsorted(below, random.random(LOOKUPS), side="right") for _ in range(BATCHES))
    return [row_of_rank[np.minimum(each, ROWS - 1)] for each in ranks]


def planner_misses(batches: list[np.ndarray], planner: Planner) -> np.ndarray:
    """(batches,) int64: the rows that each plan brings."""
    memory, misses, shown = PlanMemory(), np.zeros(len(batches), np.int64), 0
    for number in range(len(batches)):
        while planner.may_look:
            if shown == len(batches):
                planner.end()
            else:
                planner.look(batches[shown])
                shown += 1
        plan = planner.plan(memory)
        misses[number] = plan.miss_rows.shape[0]
    return misses


def name_of(turnovers: int, counted: bool) -> str:
    return f"lookahead {turnovers} S/U" + (", counts known" if counted else "")


def measure(exponent: float, share: float, seed: int) -> dict[str, object]:
    """All policies on one trace."""
    lookups = make_trace(exponent, seed)
    batches = [np.unique(each) for each in lookups]
    row_counts = np.bincount(np.concatenate(lookups), minlength=ROWS)
    unique = statistics.mean(each.size for each in batches)
    slots = int(ROWS * share)
    turnover = slots / unique
    steady = slice(
        min(BATCHES // 2, math.ceil(SETTLING_TURNOVERS * turnover)), BATCHES - math.ceil(LONG_TURNOVERS * turnover)
    )
    holds = PIPELINED.holds

    def lookahead(turnovers: int, counted: bool) -> Planner:
        K = math.ceil(turnovers * turnover)
        return Planner(slots, lookahead=K, holds=holds, row_counts=row_counts if counted else None)

    runs: dict[str, Callable[[], np.ndarray]] = {
        "optimum": lambda: offline_misses(batches, slots, ROWS, Holds(0, 0)),
        "optimum with holds": lambda: offline_misses(batches, slots, ROWS, holds),
    }
    for key in BARS:
        runs[name_of(*key)] = lambda key=key: planner_misses(batches, lookahead(*key))
    for name in OTHERS:
        runs[name] = lambda name=name: planner_misses(
            batches, Planner(slots, lookahead=holds.future, holds=holds, replacement=name, seed=seed)
        )
    moved = {name: int(run()[steady].sum()) for name, run in runs.items()}
    return {
        "seed": seed,
        "unique_rows": round(unique, 1),
        "steady_batches": [steady.start, steady.stop],
        "optimum_rows": moved["optimum"],
        "multiples": {name: round(rows / moved["optimum"], 4) for name, rows in moved.items() if name != "optimum"},
    }


def summarise(exponent: float, share: float, runs: list[dict]) -> dict[str, object]:
    """The worst and the median of all seeds, and the bars that were missed."""
    names = runs[0]["multiples"]
    worst = {name: max(run["multiples"][name] for run in runs) for name in names}
    return {
        "trace": "uniform" if exponent == 0 else f"Zipf {exponent}",
        "scratchpad_share": share,
        "worst": worst,
        "median": {name: statistics.median(run["multiples"][name] for run in runs) for name in names},
        "bars_missed": [name_of(*key) for key, bar in BARS.items() if worst[name_of(*key)] > bar],
        "seeds": runs,
    }


def markdown(results: list[dict]) -> str:
    """One line a trace: the worst of all seeds, and the median in brackets."""
    names = list(results[0]["worst"])
    bars = {name_of(*key): f" (at most {bar})" for key, bar in BARS.items()}
    lines = ["| trace | S | " + " | ".join(name + bars.get(name, "") for name in names) + " |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for each in results:
        cells = [f"{each['worst'][name]:.3f} ({each['median'][name]:.3f})" for name in names]
        lines.append(f"| {each['trace']} | {each['scratchpad_share']:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 1, 2, ...; default 5")
    parser.add_argument("--output", type=Path, help="write the JSON here")
    arguments = parser.parse_args()
    results = [
        summarise(exponent, share, [measure(exponent, share, seed) for seed in range(1, arguments.seeds + 1)])
        for exponent in ZIPF_EXPONENTS
        for share in SHARES
    ]
    met = not any(each["bars_missed"] for each in results)
    report = {
        "versions": versions("cupyrec", "numpy", "numba"),
        "rows": ROWS,
        "batches": BATCHES,
        "lookups": LOOKUPS,
        "holds": {"past": PIPELINED.holds.past, "future": PIPELINED.holds.future},
        "bars": {name_of(*key): bar for key, bar in BARS.items()},
        "bars_met": met,
        "results": results,
    }
    print(markdown(results))
    print("Worst of all seeds, median in brackets. Every bar is met." if met else "A BAR IS MISSED; see bars_missed.")
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
