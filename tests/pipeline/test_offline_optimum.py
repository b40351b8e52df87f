"""Belady's MIN against exhaustive search, against the rule written plainly, and against the planner."""

from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_traces import run_planner

from cupyrec.config import REPLACEMENTS
from cupyrec.errors import ConfigError, ScratchpadError
from cupyrec.pipeline.offline_optimum import NEVER_USED, OfflineOptimum, next_uses_of, offline_misses
from cupyrec.pipeline.plan import Holds

ROWS = 12


def dense_traces(*, rows=ROWS, most_batches=16, most_unique=6):
    """Lists of batches of unique rows from 0, in any order."""
    batch = st.lists(st.integers(0, rows - 1), max_size=most_unique, unique=True)
    return st.lists(batch, min_size=1, max_size=most_batches)


def arrays(batches):
    return [np.array(batch, dtype=np.int64) for batch in batches]


def fewest_misses(batches, slots):
    """The least sum of misses over every choice of the rows that stay."""

    @cache
    def from_batch(number, resident):
        if number == len(batches):
            return 0
        rows = frozenset(batches[number])
        others = resident - rows
        missed = len(rows - resident)
        staying = min(len(others), slots - len(rows))
        return missed + min(from_batch(number + 1, rows | set(kept)) for kept in combinations(sorted(others), staying))

    return from_batch(0, frozenset())


def reference_misses(batches, slots, past, future):
    """The rule with holds, from the whole list of batches; returns the misses of each batch."""
    resident, released, misses = {}, 0, []

    def next_use(row, after):
        return next((b for b in range(after + 1, len(batches)) if row in batches[b]), len(batches))

    for b, rows in enumerate(batches):
        missed = len(set(rows) - resident.keys())
        resident |= dict.fromkeys(rows, b)
        released, nearest = max(released, b - past), b + future + 1

        def may_leave(b=b):
            return [r for r, last in resident.items() if last < released and next_use(r, b) >= nearest]  # noqa: B023

        leaving = max(len(resident) - slots, 0)
        while len(may_leave()) < leaving:
            if released < b:
                released += 1
            else:
                nearest -= 1
        for row in sorted(may_leave(), key=lambda row, b=b: -next_use(row, b))[:leaving]:
            del resident[row]
        misses.append(missed)
    return misses


@settings(max_examples=200)
@given(batches=dense_traces(rows=7, most_batches=8, most_unique=4), spare=st.integers(0, 3))
def test_without_holds_no_choice_of_victims_brings_fewer_rows(batches, spare):
    slots = max(1, max(map(len, batches)) + spare)
    assert offline_misses(arrays(batches), slots, ROWS).sum() == fewest_misses(batches, slots)


@settings(max_examples=300)
@given(batches=dense_traces(), spare=st.integers(0, 10), past=st.integers(0, 3), future=st.integers(0, 3))
def test_with_holds_equals_the_rule_written_plainly(batches, spare, past, future):
    slots = max(1, max(map(len, batches)) + spare)
    misses = offline_misses(arrays(batches), slots, ROWS, Holds(past, future))
    assert misses.dtype == np.int64
    assert misses.tolist() == reference_misses(batches, slots, past, future)


@given(batches=dense_traces(), spare=st.integers(0, 8), past=st.integers(0, 3), future=st.integers(0, 2))
def test_equals_the_planner_that_sees_everything(batches, spare, past, future):
    batches = [sorted(batch) for batch in batches]
    slots = max(1, max(map(len, batches)) + spare)
    plans = run_planner(batches, slots, lookahead=len(batches) + future, holds=Holds(past, future))
    misses = offline_misses(arrays(batches), slots, ROWS, Holds(past, future))
    assert misses.tolist() == [len(plan["miss_rows"]) for plan in plans]


@given(
    batches=dense_traces(),
    spare=st.integers(0, 8),
    lookahead=st.integers(2, 6),
    holds=st.sampled_from([Holds(0, 0), Holds(3, 2)]),
    replacement=st.sampled_from(REPLACEMENTS),
)
def test_no_policy_brings_fewer_rows(batches, spare, lookahead, holds, replacement):
    batches = [sorted(batch) for batch in batches]
    slots = max(1, max(map(len, batches)) + spare)
    plans = run_planner(batches, slots, lookahead=lookahead, holds=holds, replacement=replacement)
    assert offline_misses(arrays(batches), slots, ROWS).sum() <= sum(len(plan["miss_rows"]) for plan in plans)


@pytest.mark.parametrize("slots", [60, 300, 900])
def test_many_batches_equal_the_planner_that_sees_everything(slots):
    random = np.random.default_rng(5)
    batches = [np.unique(random.zipf(1.3, 60) % 1_000) for _ in range(400)]
    plans = run_planner(batches, slots, lookahead=400, holds=Holds(3, 2))
    misses = offline_misses(batches, slots, 1_000, Holds(3, 2))
    assert misses.tolist() == [len(plan["miss_rows"]) for plan in plans]


def test_next_uses():
    found = next_uses_of(arrays([[2, 0], [], [0, 1], [2]]), 3)
    assert [each.tolist() for each in found] == [[3, 2], [], [NEVER_USED, NEVER_USED], [NEVER_USED]]


def test_any_number_from_the_number_of_batches_on_means_never():
    optimum = OfflineOptimum(2, 4, 3)
    assert optimum.step(np.array([0, 1]), np.array([3, 2])) == 2
    assert optimum.step(np.array([2]), np.array([NEVER_USED])) == 1
    assert optimum.step(np.array([1]), np.array([99])) == 0


def test_arguments_are_not_modified():
    ids, next_uses = np.array([1, 0]), np.array([NEVER_USED, 1])
    ids.flags.writeable = next_uses.flags.writeable = False
    assert OfflineOptimum(2, 2, 2).step(ids, next_uses) == 2


def test_too_many_rows_for_the_slots():
    with pytest.raises(ScratchpadError, match="3 different rows, but the scratchpad has 2 slots"):
        offline_misses(arrays([[0], [0, 1, 2]]), 2, 3)


@pytest.mark.parametrize(("slots", "rows", "batches"), [(0, 1, 1), (1, -1, 1), (1, 1, -1), (1, 2**31, 1)])
def test_sizes_that_cannot_be(slots, rows, batches):
    with pytest.raises(ConfigError):
        OfflineOptimum(slots, rows, batches)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([([0], [1]), ([3], [9])], "not among those there are"),
        ([([-1], [9])], "not among those there are"),
        ([([0, 0], [9, 9])], "given twice"),
        ([([0], [0])], "not after this batch"),
        ([([0], [2]), ([0], [9])], "another next use"),
        ([([0], [9]), ([0], [9])], "another next use"),
        ([([0], [1]), ([1], [9])], "another next use"),
        ([([0], [9, 9])], "shape"),
        ([([], []), ([], []), ([], []), ([], [])], "there are 3 batches"),
    ],
)
@pytest.mark.parametrize("holds", [Holds(0, 0), Holds(3, 2)])
def test_contradictions_are_refused(steps, reason, holds):
    optimum = OfflineOptimum(3, 3, 3, holds=holds)
    *accepted, refused = [(np.array(ids, np.int64), np.array(next_uses, np.int64)) for ids, next_uses in steps]
    for step in accepted:
        optimum.step(*step)
    with pytest.raises(ValueError, match=reason):
        optimum.step(*refused)
