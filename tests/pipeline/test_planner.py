"""The planner against the reference planner, plan for plan; and what must hold of any plan."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_traces import plans_of, run_planner, traces
from reference_planner import reference_plans

from cupyrec.config import REPLACEMENTS
from cupyrec.errors import ConfigError, ScratchpadError
from cupyrec.pipeline.known_batches import size_with_margin
from cupyrec.pipeline.plan import Holds, PlanMemory
from cupyrec.pipeline.planner import Planner

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


def made_planner(slots=6, *, lookahead=2, holds=HOLDS, **settings):
    return Planner(slots, lookahead=lookahead, holds=holds, **settings)


@given(batches=traces(), spare=st.integers(0, 12), lookahead=st.integers(2, 6))
def test_a_plan_places_every_row(batches, spare, lookahead):
    slots = max(1, max(map(len, batches)) + spare)
    planner, inside = made_planner(slots, lookahead=lookahead), {}
    for batch, plan in zip(batches, plans_of(planner, batches), strict=True):
        for row, slot in zip(plan.evict_rows.tolist(), plan.evict_slots.tolist(), strict=True):
            assert inside.pop(row) == slot
            assert row not in batch
        for row, slot in zip(plan.miss_rows.tolist(), plan.miss_slots.tolist(), strict=True):
            assert row not in inside
            inside[row] = slot
        assert [inside[row] for row in batch] == plan.unique_slots.tolist()
        assert len(set(inside.values())) == len(inside) <= slots
        assert plan.hits + len(plan.miss_rows) == len(batch)


def test_two_runs_give_the_same_plans_and_later_batches_change_no_earlier_plan():
    random = np.random.default_rng(3)
    batches = [np.unique(random.integers(0, 200, 20)).tolist() for _ in range(60)]
    settings = {"slots": 70, "lookahead": 5, "holds": HOLDS}
    whole = run_planner(batches, **settings)
    assert run_planner(batches, **settings) == whole
    assert run_planner(batches[:40], **settings)[:34] == whole[:34]


def test_growing_far_beyond_the_first_memory_changes_nothing():
    random = np.random.default_rng(4)
    batches = [np.unique(random.integers(0, 5000, 3 + 40 * (b % 7))).tolist() for b in range(80)]
    slots, lookahead = 600, 9
    expected = reference_plans(batches, slots, lookahead=lookahead, past=3, future=2)
    assert run_planner(batches, slots, lookahead=lookahead, holds=HOLDS) == expected


def test_memory_is_bounded_by_slots_and_window_whatever_the_rows_and_the_batches():
    planner, memory = made_planner(500, lookahead=4), PlanMemory()
    sizes, random = [], np.random.default_rng(5)
    for _ in range(2000):
        while planner.may_look:
            planner.look(np.unique(random.integers(0, 2**50, 40)))
        planner.plan(memory)
        sizes.append(planner.size_bytes)
    assert sizes[-1] == sizes[200]
    assert sizes[-1] < 200 * (500 + 12 * 40)


def test_what_may_be_looked_at_and_planned():
    planner, memory, rows = made_planner(lookahead=2), PlanMemory(), np.array([1, 5])
    assert planner.may_look
    assert not planner.may_plan
    with pytest.raises(RuntimeError, match="batch 0 is to be planned, but only 0 are known"):
        planner.plan(memory)
    for _ in range(3):
        assert planner.may_look
        assert not planner.may_plan
        planner.look(rows)
    assert planner.may_plan
    assert not planner.may_look
    with pytest.raises(RuntimeError, match="batch 3 is shown, but batch 0 is not planned yet"):
        planner.look(rows)
    planner.plan(memory)
    assert not planner.may_plan
    planner.end()
    assert not planner.may_look
    for batch in (1, 2):
        assert planner.plan(memory).batch == batch
    assert not planner.may_plan


def test_a_batch_larger_than_the_scratchpad():
    planner = made_planner(3)
    planner.look(np.arange(3))
    with pytest.raises(
        ScratchpadError, match=r"4 different rows, the largest .* so far,.*3 slots; .*at least --scratchpad 5,"
    ):
        planner.look(np.arange(4))
    assert planner.looked == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots": 0}, "1 to 2147483646 slots, not 0"),
        ({"slots": 2**31 - 1}, "slots"),
        ({"lookahead": 1}, "at least 2, but is 1"),
        ({"replacement": "fifo"}, "unknown replacement 'fifo'"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        made_planner(**settings)


def test_the_row_whose_next_use_is_furthest_leaves():
    # Slots for 4; no holds: after batch 1, rows 1, 2, 3 are used in 4, 2, 3.
    batches = [[1, 2, 3], [9], [2], [3], [1]]
    plans = run_planner(batches, 4, lookahead=4, holds=Holds(0, 0))
    assert [plan["evict_rows"] for plan in plans] == [[], [], [], [], []]
    plans = run_planner(batches, 3, lookahead=4, holds=Holds(0, 0))
    assert plans[1]["evict_rows"] == [1]
    # Seen from nearer, row 3's next use is as unknown as row 1's: the one used longest ago, or the lower row.
    assert run_planner(batches, 3, lookahead=1, holds=Holds(0, 0))[1]["evict_rows"] == [1]
    assert run_planner([[1, 2], [1], [7], [2], [1]], 2, lookahead=1, holds=Holds(0, 0))[2]["evict_rows"] == [1]


def test_among_rows_without_a_known_use_the_least_used_leaves():
    batches = [[1, 2], [1, 3], [1, 3], [8], [9]]
    plans = run_planner(batches, 3, lookahead=1, holds=Holds(0, 0))
    assert [plan["evict_rows"] for plan in plans[3:]] == [[2], [8]]
    known = np.array([0, 5, 90, 1, 0, 0, 0, 0, 3, 7])
    plans = run_planner(batches, 3, lookahead=1, holds=Holds(0, 0), row_counts=known)
    assert [plan["evict_rows"] for plan in plans[3:]] == [[3], [8]]


def test_held_rows_stay_and_bubbles_are_counted():
    batches = [[b] for b in range(8)]
    plans = run_planner(batches, 4, lookahead=2, holds=HOLDS)
    assert [plan["evict_rows"] for plan in plans] == [[]] * 4 + [[b] for b in range(4)]
    assert [plan["bubbles"] for plan in plans] == [0] * 8
    plans = run_planner(batches, 2, lookahead=2, holds=HOLDS)
    assert [plan["given_up"] for plan in plans] == [-1, -1, 0, 1, 2, 3, 4, 5]
    assert [plan["bubbles"] for plan in plans] == [0, 0, 1, 1, 1, 1, 1, 1]
    # Row 0 comes back in the batch after next: its future hold goes last.
    plans = run_planner([[0], [1], [0]], 1, lookahead=2, holds=HOLDS)
    assert [(plan["evict_rows"], plan["bubbles"]) for plan in plans] == [([], 0), ([0], 2), ([1], 1)]


@pytest.mark.parametrize("seed", range(12))
def test_larger_traces_equal_the_reference(seed):
    """Windows, nodes and the hit map grow while rows are cached, coming, gone and back; nodes are used again."""
    random = np.random.default_rng(seed)
    rows, lookahead = int(random.integers(60, 400)), int(random.integers(2, 12))
    sizes = random.integers(0, min(rows, 60), 40)
    sizes[random.integers(0, 40, 4)] = min(rows, 90)
    hot = random.random(rows) ** int(random.integers(1, 6))
    batches = [sorted(random.choice(rows, size, replace=False, p=hot / hot.sum()).tolist()) for size in sizes]
    slots = int(sizes.max() + random.integers(0, rows // 2))
    settings = {
        "lookahead": lookahead,
        "replacement": REPLACEMENTS[seed % 4] if seed % 3 else "lookahead",
        "row_counts": random.integers(0, 50, rows) if seed % 2 else None,
        "seed": seed,
    }
    expected = reference_plans(batches, slots, past=3, future=2, **settings)
    assert run_planner(batches, slots, holds=HOLDS, **settings) == expected


def test_a_seed_may_be_any_whole_number():
    batches, settings = [[0, 1], [2, 3], [0, 4], [5, 1], [2, 6]], {"lookahead": 2, "replacement": "random"}
    for seed in (5, 2**63 + 5, 2**64 - 1):
        plans = run_planner(batches, 3, holds=HOLDS, seed=seed, **settings)
        assert plans == run_planner(batches, 3, holds=HOLDS, seed=seed + 2**64, **settings)


def test_the_size_for_later_batches_has_a_margin():
    assert [size_with_margin(unique) for unique in (1, 4, 100, 776, 830)] == [2, 5, 130, 970, 1040]
