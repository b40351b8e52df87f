"""The hybrid system: the bits of `resident`, what crosses the link, prediction, what a step allocates."""

import numpy as np
import pytest
from batch_strategies import random_batch
from made_systems import made_system, run, small_config, stage_and_table, weights
from step_memory import MOST_BYTES, bytes_of_a_steady_step

from cupyrec.batch import Batch
from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.errors import DataError
from cupyrec.systems.hybrid import HybridSystem
from cupyrec.systems.resident import ResidentSystem

TABLE_ROWS = (30, 1, 200)
DIMENSION = 3


def make(name="hybrid", pooling="sum", **settings):
    return made_system(name, small_config(TABLE_ROWS, pooling), **settings)


def made_batch(random, samples):
    return random_batch(random, TABLE_ROWS, samples, dense_features=2)


def batches_for(steps, *, samples=8, seed=5):
    """Random batches, one of them without samples in the middle, the last one short."""
    random = np.random.default_rng(seed)
    for step in range(steps):
        if step == steps // 2:
            yield made_batch(random, 0)
        yield made_batch(random, samples if step < steps - 1 else 5)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise-adagrad"])
def test_weights_losses_and_predictions_have_the_bits_of_resident(optimizer, pooling):
    settings = {"probe": made_batch(np.random.default_rng(8), 7), "probe_steps": range(13), "finish_steps": (5,)}
    expected, got = (
        run(make(name, pooling, optimizer=optimizer), batches_for(12), **settings) for name in ("resident", "hybrid")
    )
    assert got == expected
    assert len(got) == 12 + 12 + 1 + 2


def test_on_several_threads_too():
    config, seen = DlrmConfig((500, 3, 40), 2, DIMENSION, (4, DIMENSION), (5, 1), pooling="mean"), []
    batches = [random_batch(np.random.default_rng(seed), config.table_rows, 64, dense_features=2) for seed in range(4)]
    for make_one in (HybridSystem, ResidentSystem):
        stage, table = stage_and_table(config, optimizer="adagrad", threads=3, max_samples=64)
        with stage.device.running():
            seen.append(run(make_one(stage, table), batches, probe=batches[0], probe_steps=(2,)))
    assert seen[0] == seen[1]


def test_a_batch_without_any_lookup_trains_the_dense_part():
    nothing = Batch.from_bags(np.ones((2, 2)), [[[], []]] * 3, [0, 1], TABLE_ROWS)
    hybrid = make()
    records, parameters = hybrid.table.records.copy(), hybrid.model.parameters.copy()
    assert run(hybrid, [nothing]) == run(make("resident"), [nothing])
    np.testing.assert_array_equal(hybrid.table.records, records)
    assert (hybrid.model.parameters != parameters).any()


def test_results_tell_what_crossed_the_link_and_how_long_each_stage_took():
    system = make()
    batches = [batch for batch in batches_for(4) if batch.samples]
    results = list(system.train(batches))
    assert [result.step for result in results] == [1, 2, 3, 4]
    assert [result.samples for result in results] == [8, 8, 8, 5]
    assert [result.learning_rate for result in results] == pytest.approx([0.05 / 3, 0.1 / 3, 0.05, 0.05])
    for batch, result in zip(batches, results, strict=True):
        traffic, link_bytes = result.traffic, batch.samples * 3 * DIMENSION * 4
        assert (traffic.hits, traffic.misses) == (0, len(np.unique(batch.rows)))
        assert (traffic.bytes_in, traffic.bytes_out) == (link_bytes, link_bytes)
        assert (traffic.evictions, traffic.bubbles) == (0, 0)
        assert set(result.stage_ms) == {"Load", "Gather", "Exchange", "Train", "Exchange back", "Update"}
        assert min(result.stage_ms.values()) >= 0


def test_predict_outside_of_training_tells_what_training_sees_and_changes_nothing():
    system = make()
    batch = made_batch(np.random.default_rng(1), 8)
    before = weights(system)
    logits = system.predict(batch).astype(np.float64)
    assert weights(system) == before
    loss = np.mean(np.logaddexp(0, logits) - batch.labels * logits)
    assert next(system.train([batch])).loss == pytest.approx(loss, rel=1e-5)
    assert (system.predict(batch) != logits).any()
    assert system.predict(made_batch(np.random.default_rng(1), 0)).shape == (0,)


def test_predict_between_two_steps_changes_no_training():
    watched, plain = make(), make()
    run(watched, batches_for(5), probe=made_batch(np.random.default_rng(9), 8), probe_steps=range(6))
    run(plain, batches_for(5))
    assert weights(watched) == weights(plain)


def test_stopping_early_leaves_the_last_step_whole():
    stopped = make()
    first_three = list(batches_for(20))[:3]
    assert run(stopped, batches_for(20), stop_after=3) == run(make("resident"), first_three)
    assert stopped.steps_done == 3


def test_what_the_source_raises_comes_after_the_steps_before_it():
    def broken():
        yield from list(batches_for(8))[:3]
        raise DataError("line 4 is bad")

    system, resident = make(), make("resident")
    steps = system.train(broken())
    assert [next(steps).step for _ in range(3)] == [1, 2, 3]
    with pytest.raises(DataError, match="line 4 is bad"):
        next(steps)
    run(resident, list(batches_for(8))[:3])
    assert weights(system) == weights(resident)


def test_more_samples_than_there_is_memory_for():
    system = make(max_samples=8)
    before = weights(system)
    with pytest.raises(ValueError, match="8"):
        next(system.train([made_batch(np.random.default_rng(1), 9)]))
    assert weights(system) == before


def test_steady_state_allocates_no_large_array(monkeypatch):
    peak_bytes, asked = bytes_of_a_steady_step(SystemConfig("hybrid"), monkeypatch)
    assert asked == []
    assert peak_bytes < MOST_BYTES
