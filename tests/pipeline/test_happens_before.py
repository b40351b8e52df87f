"""No order that the board allows can change a value; and every hold and every wait is needed for that."""

from types import SimpleNamespace

import pytest
from happens_before import unordered_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_traces import run_planner, traces

from cupyrec.config import REPLACEMENTS
from cupyrec.pipeline.plan import Holds
from cupyrec.pipeline.stages import (
    COLLECT,
    EXCHANGE,
    INSERT,
    LOAD,
    ONE_AFTER_ANOTHER,
    PIPELINED,
    PLAN,
    TRAIN,
    Board,
    Depth,
)

# Rows that leave when they may and come back as soon as they may; and the same over and over in too few slots.
RETURNING = [[b % 9, (b + 1) % 9 + 10, 30 + b] for b in range(24)]
CROWDED = [[b % 4, 4 + b % 3, 7 + b % 2] for b in range(24)]


def board_for(plans, lookahead, *, depth=PIPELINED, kind=Board):
    board = kind(depth, lookahead)
    for batch, plan in enumerate(plans):
        board.planned(SimpleNamespace(batch=batch, given_up=plan["given_up"]))
    board.ended(len(plans))
    return board


def pairs(batches, slots, *, lookahead=2, known=None, holds=PIPELINED.holds, depth=PIPELINED, kind=Board, **settings):
    known = lookahead if known is None else known
    plans = run_planner(batches, slots, lookahead=known, holds=holds, **settings)
    return unordered_pairs(board_for(plans, lookahead, depth=depth, kind=kind), plans)


@settings(max_examples=300)
@given(
    batches=traces(),
    spare=st.integers(0, 14),
    lookahead=st.integers(2, 7),
    depth=st.sampled_from([PIPELINED, PIPELINED, ONE_AFTER_ANOTHER, Depth(1, 1, 1, 2), Depth(1, 2, 4, 6)]),
    replacement=st.sampled_from(REPLACEMENTS),
)
def test_all_that_touches_a_place_is_ordered_as_one_after_another(batches, spare, lookahead, depth, replacement):
    slots = max(1, max(map(len, batches)) + spare)
    lookahead += depth.holds.future
    found = pairs(batches, slots, lookahead=lookahead, holds=depth.holds, depth=depth, replacement=replacement)
    assert found == []


@pytest.mark.parametrize("slots", [3, 4, 5, 6, 8, 10, 12, 15, 18, 25])
@pytest.mark.parametrize("batches", [RETURNING, CROWDED])
def test_the_traces_below_are_safe_with_all_holds_and_waits(batches, slots):
    assert pairs(batches, slots) == []


@pytest.mark.parametrize(
    ("short", "stages"),
    [
        (Holds(2, 2), {TRAIN, COLLECT, INSERT}),
        (Holds(3, 1), {INSERT, COLLECT}),
        (Holds(0, 2), {TRAIN, COLLECT, INSERT}),
    ],
)
def test_a_hold_less_is_a_race(short, stages):
    """The planner holds a batch less on one side, and the board is as it was.

    It knows no more than it holds: a row that it sees coming back it would spare without being told to.
    """
    slots = range(9, 26)
    found = [pair for each in slots for pair in pairs(RETURNING, each, holds=short, known=short.future)]
    assert found
    assert {stage for pair in found for stage, _ in pair} <= stages


def test_a_hold_more_is_none():
    assert all(pairs(RETURNING, slots, holds=Holds(4, 3), lookahead=3) == [] for slots in range(3, 26))


WAITS = [
    (LOAD, TRAIN),
    (PLAN, LOAD),
    (COLLECT, PLAN),
    (COLLECT, TRAIN),
    (COLLECT, INSERT),
    (EXCHANGE, COLLECT),
    (INSERT, EXCHANGE),
    (TRAIN, INSERT),
]


def test_the_list_of_waits_is_whole():
    board = board_for(run_planner(RETURNING, 25, lookahead=2, holds=PIPELINED.holds), 2)
    stages = (LOAD, PLAN, COLLECT, EXCHANGE, INSERT, TRAIN)
    assert {(stage, other) for stage in stages for other, _ in board.waits_for(stage, 12)} == set(WAITS)


@pytest.mark.parametrize(("stage", "other"), WAITS)
def test_a_wait_less_is_a_race(stage, other):
    class Without(Board):
        def waits_for(self, each, batch):
            return [wait for wait in super().waits_for(each, batch) if (each, wait[0]) != (stage, other)]

    assert any(pairs(RETURNING, slots, kind=Without) for slots in range(9, 26))


@pytest.mark.parametrize(("stage", "other", "less"), [(COLLECT, TRAIN, 1), (COLLECT, INSERT, 1), (LOAD, TRAIN, 3)])
def test_a_wait_for_an_earlier_batch_is_a_race(stage, other, less):
    class Shorter(Board):
        def waits_for(self, each, batch):
            waits = super().waits_for(each, batch)
            return [(to, last - less if (each, to) == (stage, other) else last) for to, last in waits]

    assert any(pairs(RETURNING, slots, kind=Shorter) for slots in range(3, 26))


def test_holds_given_up_must_be_waited_for():
    class Deaf(Board):
        def planned(self, plan):
            pass

    assert any(pairs(CROWDED, slots, kind=Deaf) for slots in range(3, 9))
