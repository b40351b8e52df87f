"""The planner against the reference planner, plan for plan; and what must hold of any plan."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_traces import plans_of, run_planner, traces
from reference_planner import rank, reference_plans

from cupyrec.errors import ConfigError, ScratchpadError
from cupyrec.pipeline.plan import Holds, PlanMemory
from cupyrec.pipeline.planner import Planner
from cupyrec.pipeline.replacement import KIND_OF, RANKS, REPLACEMENTS, rank_of

HOLDS = Holds(3, 2)


@settings(max_examples=400)
@given(
    batches=traces(),
    spare=st.integers(0, 12),
    lookahead=st.integers(0, 6),
    past=st.integers(0, 3),
    future=st.integers(0, 2),
    replacement=st.sampled_from(REPLACEMENTS),
    counted=st.booleans(),
    seed=st.integers(0, 3),
)
def test_equals_the_reference_plan_for_plan(batches, spare, lookahead, past, future, replacement, counted, seed):
    slots = max(1, max(map(len, batches)) + spare)
    base = min((row for batch in batches for row in batch), default=0)
    counts = np.random.default_rng(seed).integers(0, 200, 40) if counted and base < 2**20 else None
    same = {"lookahead": lookahead + future, "replacement": replacement, "row_counts": counts, "seed": seed}
    expected = reference_plans(batches, slots, past=past, future=future, **same)
    assert run_planner(batches, slots, holds=Holds(past, future), **same) == expected
