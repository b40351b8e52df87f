"""Traces for planners: lists of batches of unique rows; and a planner run over one."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from cupyrec.pipeline.plan import PlanMemory
from cupyrec.pipeline.planner import Planner


@st.composite
def traces(draw: st.DrawFn, *, most_batches: int = 14, most_rows: int = 24) -> list[list[int]]:
    """Batches of 0 or more rows out of few, so that rows leave and come back; rows from 0, or beyond 2**31."""
    rows = draw(st.integers(1, most_rows))
    first = draw(st.sampled_from([0, 0, 2**31 - 3, 2**45]))
    most = draw(st.integers(1, min(rows, 8)))
    batch = st.lists(st.integers(0, rows - 1), max_size=most, unique=True).map(sorted)
    drawn = draw(st.lists(batch, min_size=1, max_size=most_batches))
    return [[first + row for row in each] for each in drawn]


def run_planner(batches, slots, **settings):
    """The plans of all batches, as lists by the names of their fields."""
    planner = Planner(slots, **settings)
    return [
        {
            "unique_slots": plan.unique_slots.tolist(),
            "miss_rows": plan.miss_rows.tolist(),
            "miss_slots": plan.miss_slots.tolist(),
            "evict_rows": plan.evict_rows.tolist(),
            "evict_slots": plan.evict_slots.tolist(),
            "given_up": plan.given_up,
            "bubbles": plan.bubbles,
        }
        for plan in plans_of(planner, batches)
    ]


def plans_of(planner, batches):
    """Show the planner all it may see before each plan; yield the plans, each in memory of its own."""
    waiting = iter(batches)
    for _ in batches:
        while planner.may_look:
            rows = next(waiting, None)
            if rows is None:
                planner.end()
            else:
                planner.look(np.array(rows, dtype=np.int64))
        yield planner.plan(PlanMemory())
