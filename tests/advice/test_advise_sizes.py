"""Advice on the size of the scratchpad, against slow, obvious counting; estimates against the exact figures."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
from usage_traces import (
    batch_of,
    min_moves,
    most_different_rows,
    planner_moves,
    source_of,
    static_moves,
    unique,
    zipf_batches,
)

from cupyrec.advice.policies import POLICIES
from cupyrec.advice.result import PolicyCost, SizeAdvice, recommend
from cupyrec.advice.sample import RowSample
from cupyrec.advice.sizes import Question, advise, sizes_between
from cupyrec.advice.usage import WINDOW_STEPS
from cupyrec.config import REPLACEMENTS
from cupyrec.datasets.source import BatchList
from cupyrec.errors import ConfigError, DataError
from cupyrec.pipeline.known_batches import size_with_margin
from cupyrec.pipeline.plan import PlanMemory
from cupyrec.pipeline.planner import Planner
from cupyrec.pipeline.stages import PIPELINED

RECORD_BYTES, D = 48, 8
ROWS, STEPS, LOOKUPS = 300, 30, 12


@pytest.fixture(scope="module")
def batches():
    return zipf_batches(STEPS, LOOKUPS, ROWS)


def asked(**settings):
    return Question(batch_size=LOOKUPS, record_bytes=RECORD_BYTES, dimension=D, **settings)


def moves_of(batches, policy, slots, lookahead, counts=None):
    if policy == "min":
        return min_moves(batches, slots)
    if policy == "static":
        return static_moves(batches, slots)
    looks = policy == "lookahead"
    return planner_moves(
        batches, slots, lookahead=lookahead if looks else 2, replacement=policy, counts=counts if looks else None
    )


@pytest.mark.parametrize("lookahead", [None, 3])
@pytest.mark.parametrize("counted", [False, True])
def test_costs_are_those_of_slow_counting(batches, lookahead, counted):
    sizes = ["12", "25", "20%", "40%", "100%"]
    advice = advise(source_of(batches, ROWS), asked(sizes=sizes, lookahead=lookahead, row_counts_known=counted))
    counts = np.bincount(np.concatenate(batches), minlength=ROWS) if counted else None
    mean = np.mean([len(batch) for batch in unique(batches)])
    used = sum(len(batch) for batch in unique(batches)[STEPS // 2 :])
    shown = {each.slots: each for each in advice.sizes}
    assert list(shown) == sorted({12, 25, 60, 120, 300, advice.never_bubbles_rows})
    for slots, size in shown.items():
        assert size.lookahead == (lookahead or min(-int(-4 * slots // mean), STEPS))
        for policy in POLICIES:
            misses, evictions, bubbles = moves_of(batches, policy, slots, size.lookahead, counts)
            cost = size.costs[policy]
            assert cost.hit_rate == pytest.approx(1 - misses / used), (slots, policy)
            assert cost.bubble_share == bubbles / (STEPS // 2)
            if policy == "static":
                assert (cost.bytes_in, cost.bytes_out) == (LOOKUPS * D * 4, LOOKUPS * D * 4)
            else:
                assert cost.bytes_in == pytest.approx(misses * RECORD_BYTES / (STEPS // 2))
                assert cost.bytes_out == pytest.approx(evictions * RECORD_BYTES / (STEPS // 2))
    assert [shown[slots].full for slots in (12, 25, 300)] == [True, True, False]


def test_what_is_counted_exactly(batches):
    counts = np.zeros(ROWS, np.int64)
    advice = advise(source_of([*batches, [1, 1, 2]], ROWS), asked(), row_counts=counts)
    every = [*batches, [1, 1, 2]]
    assert (advice.samples, advice.steps, advice.batch_samples) == (STEPS * LOOKUPS + 3, STEPS + 1, LOOKUPS)
    assert advice.lookups_per_step == pytest.approx((STEPS * LOOKUPS + 3) / (STEPS + 1))
    assert advice.unique_rows_per_step == pytest.approx(np.mean([len(batch) for batch in unique(every)]))
    assert advice.most_unique_rows == max(map(len, unique(every)))
    assert (advice.rows, advice.rows_used) == (ROWS, len(set().union(*every)))
    assert advice.never_bubbles_rows == most_different_rows(every, 6)
    assert (advice.sample_rate, advice.counted_steps) == (1.0, STEPS + 1 - STEPS // 2)
    assert counts.tolist() == np.bincount(np.concatenate(every), minlength=ROWS).tolist()


def bubbles_of(batches, slots, replacement):
    planner, waiting, memory = (
        Planner(slots, lookahead=2, holds=PIPELINED.holds, replacement=replacement),
        iter(batches),
        PlanMemory(),
    )
    bubbles = 0
    for _ in batches:
        while planner.may_look:
            rows = next(waiting, None)
            if rows is None:
                planner.end()
            else:
                planner.look(np.array(rows, np.int64))
        bubbles += planner.plan(memory).bubbles
    return bubbles


@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.2])
def test_no_policy_bubbles_at_the_size_that_is_said_never_to(replacement, exponent):
    batches = zipf_batches(60, 20, 200, exponent=exponent, seed=3)
    advice = advise(source_of(batches, 200), Question(batch_size=20, record_bytes=48, dimension=8))
    assert bubbles_of(unique(batches), advice.never_bubbles_rows, replacement) == 0
    # What one step takes is no longer enough when several are under way.
    assert bubbles_of(unique(batches), advice.most_unique_rows, replacement) > 0


def test_one_slot_less_can_bubble():
    """Nothing is used twice within a window, so that all of it must be held."""
    batches = [[5 * step % 60 + i for i in range(5)] for step in range(40)]
    advice = advise(source_of(batches, 60), Question(batch_size=5, record_bytes=48, dimension=8))
    assert advice.never_bubbles_rows == 5 * WINDOW_STEPS == 30
    # Rows of steps to come are held once they are there: with LRU, those of the past and the current step are.
    assert bubbles_of(batches, 4 * 5, "lru") == 0
    assert bubbles_of(batches, 4 * 5 - 1, "lru") > 0


def test_a_sample_tells_nearly_the_same_as_all_rows():
    rows = 100_000
    batches = zipf_batches(100, 2000, rows, exponent=0.9, seed=5)
    question = Question(batch_size=2000, record_bytes=48, dimension=8, sizes=["10%", "15%", "25%"])
    exact = advise(source_of(batches, rows), question)
    estimated = advise(source_of(batches, rows), question, sample=RowSample(most_rows=13_000))
    assert (exact.sample_rate, estimated.sample_rate) == (1.0, 0.25)
    assert estimated.rows_used == pytest.approx(exact.rows_used, rel=0.02)
    for name in ("never_bubbles_rows", "most_unique_rows", "unique_rows_per_step", "steps"):
        assert getattr(estimated, name) == getattr(exact, name)
    for one, other in zip(exact.sizes, estimated.sizes, strict=True):
        assert one.slots == other.slots
        for policy in POLICIES:
            assert other.costs[policy].hit_rate == pytest.approx(one.costs[policy].hit_rate, abs=0.01), policy
            assert other.costs[policy].bytes_per_step == pytest.approx(one.costs[policy].bytes_per_step, rel=0.02)


def test_sizes_that_are_too_small_are_said_to_be(batches):
    most = max(map(len, unique(batches)))
    advice = advise(source_of(batches, ROWS), asked(sizes=["1", str(most - 1), str(most)]))
    assert [size.too_small for size in advice.sizes] == [True, True, False, False]
    assert not advice.recommendation.advice.too_small


def test_stops_after_so_many_steps(batches):
    source = source_of(batches, ROWS)
    shares = []
    advice = advise(source, asked(max_steps=10), on_progress=shares.append)
    assert dataclasses.replace(advice, safe_rows=0) == advise(source_of(batches[:10], ROWS), asked())
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_where_steps_are_left_out_the_size_recommended_has_room_for_larger_ones(batches):
    for sizes in ([], ["1"]):
        advice = advise(source_of(batches, ROWS), asked(max_steps=1, sizes=sizes))
        least = size_with_margin(len(unique(batches)[0]))
        assert advice.safe_rows == least > advice.never_bubbles_rows
        assert advice.recommendation.advice.slots >= least
        assert least in [size.slots for size in advice.sizes]


@pytest.mark.parametrize("calls", [0, 5, STEPS + 3, 6 * STEPS])
def test_stops_when_it_is_asked_to(batches, calls):
    asked_so_far = []

    def stop():
        asked_so_far.append(None)
        return len(asked_so_far) > calls

    assert advise(source_of(batches, ROWS), asked(), stop_requested=stop) is None
    assert len(asked_so_far) == calls + 1


def test_a_size_that_is_none_is_an_error_before_anything_is_read(batches):
    source = source_of(batches, ROWS)
    source.batches = None
    for size in ("many", "", "0%", "0"):
        with pytest.raises(ConfigError):
            advise(source, asked(sizes=["10%", size]))


def test_data_without_lookups_are_an_error():
    with pytest.raises(DataError, match="look up no row"):
        advise(BatchList([], [5], 1), asked())


def test_one_step_is_enough_to_say_something():
    advice = advise(source_of([[3, 4, 4]], 5), asked())
    assert (advice.steps, advice.counted_steps, advice.never_bubbles_rows) == (1, 1, 2)
    assert advice.recommendation.advice.slots == 2


class ManyBatches:
    """Makes each batch when it is asked for, as files do."""

    validated, dense_features = True, 1

    def __init__(self, steps, rows):
        self.steps, self.table_rows = steps, (rows,)

    def batches(self, batch_size, *, on_progress=None):
        random = np.random.default_rng(1)
        for _ in range(self.steps):
            yield batch_of(random.integers(0, self.table_rows[0], batch_size))


def test_memory_depends_neither_on_the_steps_nor_on_the_rows_of_the_tables():
    def peak_bytes(steps, rows):
        tracemalloc.start()
        try:
            question = Question(batch_size=500, record_bytes=48, dimension=8, sizes=["20000"])
            advise(ManyBatches(steps, rows), question, sample=RowSample(most_rows=2000))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    advise(ManyBatches(5, 100), asked())  # compiles, and loads what is loaded once
    few, many, wide = peak_bytes(50, 50_000), peak_bytes(500, 50_000), peak_bytes(50, 2**62)
    # 500 batches of 500 rows would take 2 MB.
    assert many < few + 400_000
    assert wide < few + 1_500_000


def size_of(slots, bytes_in, *, bubbles=False, too_small=False):
    costs = {} if too_small else {"lookahead": PolicyCost(0.5, bytes_in, 0.0)}
    return SizeAdvice(str(slots), slots, slots * 48, 8, costs, never_bubbles=not bubbles, full=True)


def test_recommends_the_smallest_size_that_twice_of_it_improves_little():
    small = [size_of(10, 0, too_small=True), size_of(100, 5000, bubbles=True)]
    sizes = [*small, size_of(200, 1000), size_of(400, 700), size_of(800, 600), size_of(1600, 100)]
    found = recommend(sizes)
    assert (found.advice.slots, found.saved_by_doubling) == (400, pytest.approx(1 / 7))
    # Twice as often doubled, the same as the square root of what it saves.
    found = recommend([*small, size_of(200, 1000), size_of(800, 640)])
    assert (found.advice.slots, found.saved_by_doubling) == (200, pytest.approx(0.2))
    found = recommend([*small, size_of(200, 1000), size_of(400, 100)])
    assert (found.advice.slots, found.saved_by_doubling) == (400, None)
    found = recommend([*small, size_of(200, 0), size_of(400, 0)])
    assert (found.advice.slots, found.saved_by_doubling) == (200, 0.0)


def test_sizes_that_are_tried_when_none_are_given():
    assert sizes_between(4682, 27514) == [4682, 8500, 16000, 28000]
    assert sizes_between(100, 100) == [100]
    assert sizes_between(7, 20) == [7, 12, 20]
    wide = sizes_between(1000, 10**9)
    assert len(wide) == 8
    assert (wide[0], wide[-1]) == (1000, 10**9)


def test_tries_a_size_that_bubbles_and_one_that_holds_all(batches):
    advice = advise(source_of(batches, ROWS), asked())
    first, second, *_, last = advice.sizes
    assert first.slots >= advice.most_unique_rows
    assert not first.never_bubbles
    assert second.slots == advice.never_bubbles_rows
    assert all(each.never_bubbles for each in advice.sizes[1:])
    assert last.slots >= advice.rows_used


def test_becomes_json(batches):
    advice = advise(source_of(batches, ROWS), asked(sizes=["2", "10%"]))
    read = json.loads(json.dumps(advice.as_dict()))
    assert read["steps"] == STEPS
    assert [each["scratchpad"] for each in read["sizes"]] == ["2", "10%", str(advice.never_bubbles_rows)]
    too_small, tenth, _ = read["sizes"]
    assert (too_small["too_small"], too_small["policies"]) == (True, {})
    assert set(tenth["policies"]) == set(POLICIES)
    cost = tenth["policies"]["lru"]
    assert set(cost) == {"hit_rate", "bytes_in", "bytes_out", "bytes_per_step", "bubble_share"}
    assert cost["bytes_per_step"] == cost["bytes_in"] + cost["bytes_out"]
    assert read["recommended"]["scratchpad"] == advice.recommendation.advice.size
