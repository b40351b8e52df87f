"""How many rows lookahead moves, against the offline optimum: bars of scripts/bench_traffic.py on shorter traces."""

import math

import numpy as np
import pytest
from plan_traces import plans_of

from cupyrec.pipeline.offline_optimum import offline_misses
from cupyrec.pipeline.planner import Planner
from cupyrec.pipeline.stages import PIPELINED

ROWS, BATCHES, LOOKUPS, SLOTS = 40_000, 400, 400, 4_000
# The most that may move, as a multiple of the optimum, by K U / S; with the counts of the data set known, and without.
BARS = {4: (1.3, 1.15), 8: (1.1, 1.07)}


def trace(exponent):
    """Lookups of each batch: the k-th most used row with probability proportional to 1/k**exponent."""
    random = np.random.default_rng(11)
    below = np.cumsum(np.arange(1, ROWS + 1) ** -exponent)
    rows = random.permutation(ROWS)
    return [rows[np.searchsorted(below, random.uniform(0, below[-1], LOOKUPS))] for _ in range(BATCHES)]


@pytest.mark.parametrize("exponent", [0.6, 1.1])
def test_lookahead_moves_few_rows_more_than_the_optimum(exponent):
    lookups = trace(exponent)
    batches = [np.unique(each) for each in lookups]
    turnover = SLOTS / np.mean([each.size for each in batches])
    # The steady state: the scratchpad has turned over, and no window has reached the end of the trace.
    steady = slice(math.ceil(6 * turnover), BATCHES - math.ceil(8 * turnover))
    optimum = offline_misses(batches, SLOTS, ROWS)[steady].sum()

    def multiple(**settings):
        planner = Planner(SLOTS, holds=PIPELINED.holds, **settings)
        return sum(plan.miss_rows.shape[0] for plan in list(plans_of(planner, batches))[steady]) / optimum

    counts = np.bincount(np.concatenate(lookups), minlength=ROWS)
    for turnovers, (bar, bar_counted) in BARS.items():
        K = math.ceil(turnovers * turnover)
        running, counted = multiple(lookahead=K), multiple(lookahead=K, row_counts=counts)
        assert 1 <= counted <= bar_counted
        assert 1 <= running <= bar
    # What an age or a count alone comes to: without it, a bar that everything meets would not be noticed.
    least = PIPELINED.holds.future
    assert multiple(lookahead=least, replacement="lru") > 1.4
    assert multiple(lookahead=least, replacement="lfu") > 1.3
