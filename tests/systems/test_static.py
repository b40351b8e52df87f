"""The static system: agreement with `resident`, which rows are pinned, where their values are, traffic, memory."""

import numpy as np
import pytest
from batch_strategies import random_batch
from hypothesis import given
from hypothesis import strategies as st
from made_systems import made_system, run, small_config, stage_and_table, weights
from step_memory import MOST_BYTES, bytes_of_a_steady_step

from cupyrec.batch import Batch
from cupyrec.config import SystemConfig
from cupyrec.embedding.row_counts import count_rows, write_row_counts
from cupyrec.errors import ConfigError, DataError
from cupyrec.systems.static import StaticSystem

TABLE_ROWS = (30, 1, 9)
R = sum(TABLE_ROWS)
OPTIMIZERS, POOLINGS = ("sgd", "adagrad", "rowwise-adagrad"), ("sum", "mean")
# Differences of 1.3e-7 in weights and 5e-7 in logits were the largest of 360 runs; a step changes a weight by far more.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}


def counts_that_pin(rows):
    """Row counts by which just these rows are pinned."""
    counts = np.zeros(R, np.int64)
    counts[list(rows)] = 1
    return counts


def make(slots=R, counts=None, pooling="sum", **settings):
    stage, table = stage_and_table(small_config(TABLE_ROWS, pooling), **settings)
    return StaticSystem(stage, table, slots=slots, row_counts=counts)


def resident(pooling="sum", **settings):
    return made_system("resident", small_config(TABLE_ROWS, pooling), **settings)


def made_batches(steps, *, seed=5, samples=8, most_lookups=4):
    random = np.random.default_rng(seed)
    return [
        random_batch(random, TABLE_ROWS, samples, dense_features=2, most_lookups=most_lookups) for _ in range(steps)
    ]


def assert_agree(static, expected):
    """All weights are the same to float32 rounding."""
    for got, wanted in (
        (static.table.records, expected.table.records),
        (static.model.parameters, expected.model.parameters),
    ):
        np.testing.assert_allclose(got, wanted, **ROUNDING)


def assert_train_alike(static, expected, batches, *, look_at=()):
    """Train both; losses, weights and what is predicted between the steps agree to float32 rounding.

    look_at: steps after which finish is called, and all weights are compared.
    """
    probe = made_batches(1, seed=99)[0]
    for got, wanted in zip(static.train(batches), expected.train(batches), strict=True):
        assert (got.step, got.samples, got.learning_rate) == (wanted.step, wanted.samples, wanted.learning_rate)
        assert got.loss == pytest.approx(wanted.loss, rel=1e-5)
        np.testing.assert_allclose(static.predict(probe), expected.predict(probe), **ROUNDING)
        if got.step in look_at:
            static.finish()
            assert_agree(static, expected)
    assert_agree(static, expected)
    np.testing.assert_allclose(static.predict(probe), expected.predict(probe), **ROUNDING)


@given(
    optimizer=st.sampled_from(OPTIMIZERS),
    pooling=st.sampled_from(POOLINGS),
    slots=st.integers(1, R + 5),
    pinned=st.sets(st.integers(0, R - 1)),
    seed=st.integers(0, 1000),
)
def test_agrees_with_resident(optimizer, pooling, slots, pinned, seed):
    static = make(slots, counts_that_pin(pinned), pooling, optimizer=optimizer)
    batches = [*made_batches(4, seed=seed), *made_batches(1, samples=0), *made_batches(2, seed=seed + 1, samples=3)]
    assert_train_alike(static, resident(pooling, optimizer=optimizer), batches, look_at=(2, 3))


def test_agrees_on_several_threads():
    batches, settings = made_batches(4, samples=64), {"threads": 3, "max_samples": 64}
    static, expected = make(12, count_rows(batches, R), "mean", **settings), resident("mean", **settings)
    with static._stage.device.running():
        assert_train_alike(static, expected, batches)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("pinned", "most_lookups"),
    [(range(R), 4), ([], 4), (range(0, R, 2), 1)],
    ids=["all rows are pinned", "none is", "bags of one row"],
)
def test_where_no_bag_has_rows_of_both_kinds_the_bits_are_those_of_resident(optimizer, pooling, pinned, most_lookups):
    batches = made_batches(8, most_lookups=most_lookups)
    probe = made_batches(1, seed=99, most_lookups=most_lookups)[0]
    settings = {"probe": probe, "probe_steps": range(9), "finish_steps": (4,)}
    static = make(R + 7, counts_that_pin(pinned), pooling, optimizer=optimizer)
    assert run(static, batches, **settings) == run(resident(pooling, optimizer=optimizer), batches, **settings)


def test_the_mean_of_a_bag_with_rows_of_both_kinds():
    # Of 0, 0 and 1, of 1 alone, of nothing, and of 0 alone; row 0 is pinned.
    bags = [[[0, 0, 1], [1], [], [0]], [[0]] * 4, [[]] * 4]
    batch = Batch.from_bags(np.zeros((4, 2)), bags, [0, 1, 1, 0], TABLE_ROWS)
    static, expected = make(1, counts_that_pin([0]), "mean"), resident("mean")
    before = static.table.records.copy()
    for _ in zip(static.train([batch]), expected.train([batch]), strict=True):
        pass
    np.testing.assert_allclose(static.table.records, expected.table.records, rtol=1e-5)
    assert (static.table.records[[0, 1, 30]] != before[[0, 1, 30]]).any(axis=1).all()


def test_two_runs_give_the_same_bits_and_prediction_changes_nothing():
    batches, probe = made_batches(6), made_batches(1, seed=99)[0]
    plain, again, watched = (make(10, count_rows(batches, R)) for _ in range(3))
    assert run(plain, batches) == run(again, batches)
    run(watched, batches, probe=probe, probe_steps=range(7), finish_steps=(2, 4))
    assert weights(watched) == weights(plain)


def test_between_runs_the_host_table_counts():
    batches = made_batches(6)
    static, expected = make(10, count_rows(batches, R)), resident()
    assert_train_alike(static, expected, batches[:3])
    for system in (static, expected):
        system.table.records[:, :3] *= -1
    assert_train_alike(static, expected, batches[3:])


def test_stopping_early_leaves_the_last_step_whole():
    batches = made_batches(6)
    static, expected = make(10, count_rows(batches, R)), resident()
    run(static, batches, stop_after=3)
    run(expected, batches[:3])
    assert_agree(static, expected)
    assert static.steps_done == 3


def test_what_the_source_raises_comes_after_the_steps_before_it():
    batches = made_batches(3)

    def broken():
        yield from batches
        raise DataError("line 4 is bad")

    static, expected = make(10, count_rows(batches, R)), resident()
    steps = static.train(broken())
    assert [next(steps).step for _ in range(3)] == [1, 2, 3]
    with pytest.raises(DataError, match="line 4 is bad"):
        next(steps)
    run(expected, batches)
    assert_agree(static, expected)


def test_a_step_that_fails_leaves_the_steps_before_it_in_the_host_table(monkeypatch):
    batches = made_batches(3)
    static, expected = make(10, count_rows(batches, R)), resident()
    steps = static.train(batches)
    next(steps), next(steps)
    monkeypatch.setattr(static._stage, "gradient", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(steps)
    run(expected, batches[:2])
    assert_agree(static, expected)


def test_more_samples_than_there_is_memory_for():
    static = make(10, np.arange(R))
    before = weights(static)
    with pytest.raises(ValueError, match="8"):
        next(static.train(made_batches(1, samples=9)))
    assert weights(static) == before


def test_a_run_within_a_run():
    batches = made_batches(4)
    static, expected = make(10, count_rows(batches, R)), resident()
    outer, inner = static.train([batches[0], batches[3]]), static.train(batches[1:3])
    for steps in (outer, inner, inner):
        next(steps)
    inner.close()
    next(outer)
    outer.close()
    run(expected, batches)
    assert_agree(static, expected)


def said_of(batches, slots):
    counts = count_rows(batches, R)
    share = np.sort(counts)[-slots:].sum() / counts.sum()
    return f"static: {slots} of 40 rows pinned, which are {share:.1%} of all lookups"


def test_prepare_counts_the_batches_and_pins_the_most_used():
    said, batches = [], made_batches(5)
    static = make(12)
    static.prepare(lambda: iter(batches), said.append)
    assert said == [said_of(batches, 12)]
    assert_train_alike(static, resident(), batches)


def test_prepare_once_more_pins_other_rows():
    said, one, other = [], made_batches(3), made_batches(3, seed=6, most_lookups=2)
    static, expected = make(4), resident()
    for batches in (one, other):
        static.prepare(lambda batches=batches: batches, said.append)
        assert_train_alike(static, expected, batches)
    assert said == [said_of(one, 4), said_of(other, 4)]
    assert said[0] != said[1]


def test_prepare_between_two_steps_pins_other_rows_at_once():
    batches, probe = made_batches(3), made_batches(1, seed=99)[0]
    static, expected = make(10, None), resident()
    static.prepare(lambda: [], lambda line: None)
    steps, wanted = static.train(batches), expected.train(batches)
    for pinned in batches:
        next(steps), next(wanted)
        static.prepare(lambda pinned=pinned: [pinned], lambda line: None)
        assert_agree(static, expected)
        np.testing.assert_allclose(static.predict(probe), expected.predict(probe), **ROUNDING)
    steps.close()
    assert_agree(static, expected)


def test_counts_that_are_given_are_not_counted_again():
    said, counts = [], np.zeros(R, np.uint32)
    counts[[7, 8, 39]] = 3, 5, 2
    static = make(2, counts)
    static.prepare(lambda: pytest.fail("the batches are read"), said.append)
    assert said == ["static: 2 of 40 rows pinned, which are 80.0% of all lookups"]


def test_no_lookups_pin_nothing():
    said, static = [], make(5)
    static.prepare(lambda: [], said.append)
    assert said == ["static: 0 of 40 rows pinned, which are 0.0% of all lookups"]
    assert_train_alike(static, resident(), made_batches(2))


def test_settings_that_cannot_be_used():
    with pytest.raises(ConfigError, match="call prepare"):
        next(make().train(made_batches(1)))
    with pytest.raises(ConfigError, match="at least 1 slot"):
        make(0)
    with pytest.raises(ConfigError, match=r"\(40,\).*\(39,\)"):
        make(5, np.ones(39, np.int64))


def test_results_tell_hits_misses_and_what_crossed_the_link():
    batches = made_batches(4)
    pinned = [0, 2, 5, 30, 33]
    static = make(9, counts_that_pin(pinned))
    for batch, result in zip(batches, static.train(batches), strict=True):
        traffic, unique = result.traffic, np.unique(batch.rows)
        hits = np.isin(unique, pinned).sum()
        assert (traffic.hits, traffic.misses) == (hits, unique.size - hits)
        assert (traffic.bytes_in, traffic.bytes_out) == (8 * 3 * 3 * 4, 8 * 3 * 3 * 4)
        assert (traffic.evictions, traffic.bubbles) == (0, 0)
        assert set(result.stage_ms) == {"Load", "Gather", "Exchange", "Train", "Exchange back", "Update"}


def test_the_registry_reads_slots_and_counts(tmp_path):
    write_row_counts(tmp_path / "counts.npy", counts_that_pin(range(20)))
    said, system = [], SystemConfig("static", scratchpad="25%", row_counts=tmp_path / "counts.npy")
    made_system(system, small_config(TABLE_ROWS)).prepare(lambda: [], said.append)
    assert said == ["static: 10 of 40 rows pinned, which are 50.0% of all lookups"]


def test_steady_state_allocates_no_large_array(monkeypatch):
    peak_bytes, asked = bytes_of_a_steady_step(SystemConfig("static", scratchpad="10%"), monkeypatch)
    assert asked == []
    assert peak_bytes < MOST_BYTES
