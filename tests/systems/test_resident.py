"""The resident system: repeatable bit for bit, results, prediction, what a step allocates."""

import tracemalloc

import numpy as np
import pytest
from batch_strategies import random_batch

from cupyrec.config import DlrmConfig
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.host_table import HostTable
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.registry import make_optimizer
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.systems.resident import ResidentSystem
from cupyrec.systems.step import StepResult
from cupyrec.systems.train_stage import TrainStage

TABLE_ROWS = (40, 1, 300, 7, 2, 11, 1000)
CONFIG = DlrmConfig(TABLE_ROWS, 3, 17, (32, 17), (16, 1), self_interaction=True)
OPTIMIZERS = ("sgd", "adagrad", "rowwise-adagrad")


def make_system(device, *, optimizer="rowwise-adagrad", seed=1, max_samples=64, config=CONFIG, schedule=None):
    made = make_optimizer(optimizer, eps=1e-8)
    model = Dlrm(device, config, max_samples=max_samples, seed=seed)
    state_width = made.row_state_width(config.dimension)
    table = HostTable(device, config.table_rows, config.dimension, state_width=state_width, seed=seed)
    schedule = schedule or WarmupPolynomialDecay(0.05, warmup_steps=5)
    return ResidentSystem(TrainStage(device, model, made, schedule, max_samples=max_samples), table)


def batches_for(steps, *, samples=64, seed=5):
    """Random batches, one of them empty in the middle, the last one short."""
    random = np.random.default_rng(seed)
    for step in range(steps):
        if step == steps // 2:
            yield random_batch(random, TABLE_ROWS, 0)
        yield random_batch(random, TABLE_ROWS, samples if step < steps - 1 else 5)


def trained(*, steps=20, threads=2, **settings):
    """(records, dense parameters, losses) after a run."""
    device = CpuDevice(threads)
    with device.running():
        system = make_system(device, **settings)
        losses = [result.loss for result in system.train(batches_for(steps))]
        system.finish()
    return system.table.records, system.model.parameters, losses


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_runs_give_the_same_bits(optimizer, threads):
    one, other = (trained(optimizer=optimizer, threads=threads) for _ in range(2))
    np.testing.assert_array_equal(one[0].view(np.int32), other[0].view(np.int32))
    np.testing.assert_array_equal(one[1].view(np.int32), other[1].view(np.int32))
    assert one[2] == other[2]
    assert len(one[2]) == 20
    assert np.isfinite(one[0]).all()
    assert np.isfinite(one[1]).all()


def test_another_seed_gives_other_weights():
    one, other = trained(seed=1), trained(seed=2)
    assert (one[0][:, :17] != other[0][:, :17]).mean() > 0.999
    assert (one[1] != other[1]).mean() > 0.999


def test_number_of_threads_changes_rounding_at_most():
    one, three = trained(threads=1), trained(threads=3)
    np.testing.assert_allclose(one[2], three[2], rtol=1e-4)


def test_training_learns_the_batch_by_heart():
    device = CpuDevice(1)
    batch = random_batch(np.random.default_rng(1), TABLE_ROWS, 16)
    losses = [result.loss for result in make_system(device).train([batch] * 60)]
    assert losses[-1] < 0.1 * losses[0]


def test_results_count_steps_samples_and_rates_and_skip_empty_batches():
    device = CpuDevice(1)
    system = make_system(device, schedule=WarmupPolynomialDecay(0.4, warmup_steps=4))
    results = list(system.train(batches_for(6)))
    assert [result.step for result in results] == [1, 2, 3, 4, 5, 6]
    assert [result.samples for result in results] == [64, 64, 64, 64, 64, 5]
    assert [result.learning_rate for result in results] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert system.steps_done == 6
    more = list(system.train(batches_for(1)))
    assert [result.step for result in more] == [7], "a second call goes on counting"
    assert isinstance(more[0], StepResult)


def test_an_empty_batch_changes_nothing():
    system = make_system(CpuDevice(1))
    records, parameters = system.table.records.copy(), system.model.parameters.copy()
    assert list(system.train([random_batch(np.random.default_rng(1), TABLE_ROWS, 0)])) == []
    np.testing.assert_array_equal(system.table.records, records)
    np.testing.assert_array_equal(system.model.parameters, parameters)
    assert system.steps_done == 0


def test_stopping_early_leaves_the_last_step_whole():
    stopped, whole = make_system(CpuDevice(1)), make_system(CpuDevice(1))
    for result in stopped.train(batches_for(20)):
        if result.step == 3:
            break
    batches = batches_for(20)
    for _ in whole.train(next(batches) for _ in range(3)):
        pass
    np.testing.assert_array_equal(stopped.table.records, whole.table.records)
    np.testing.assert_array_equal(stopped.model.parameters, whole.model.parameters)


def test_rows_without_lookups_keep_their_initial_values():
    system = make_system(CpuDevice(1))
    before = system.table.records.copy()
    batches = list(batches_for(3))
    for _ in system.train(batches):
        pass
    used = np.unique(np.concatenate([batch.rows for batch in batches]))
    unused = np.setdiff1d(np.arange(len(before)), used)
    assert unused.size > 100
    np.testing.assert_array_equal(system.table.records[unused], before[unused])
    assert (system.table.records[used] != before[used]).any(axis=1).all()


def test_predict_changes_no_weight_and_tells_what_training_sees():
    system = make_system(CpuDevice(1))
    batch = random_batch(np.random.default_rng(1), TABLE_ROWS, 64)
    records, parameters = system.table.records.copy(), system.model.parameters.copy()
    logits = system.predict(batch).astype(np.float64)
    np.testing.assert_array_equal(system.table.records, records)
    np.testing.assert_array_equal(system.model.parameters, parameters)
    loss = np.mean(np.logaddexp(0, logits) - batch.labels * logits)
    assert next(system.train([batch])).loss == pytest.approx(loss, rel=1e-5)
    assert (system.predict(batch) != logits).any()


def test_predict_between_two_steps_changes_no_training():
    plain, watched = make_system(CpuDevice(1)), make_system(CpuDevice(1))
    for _ in plain.train(batches_for(5)):
        pass
    for _ in watched.train(batches_for(5)):
        watched.predict(random_batch(np.random.default_rng(9), TABLE_ROWS, 30))
    np.testing.assert_array_equal(plain.table.records, watched.table.records)
    np.testing.assert_array_equal(plain.model.parameters, watched.model.parameters)


def test_predict_of_smaller_and_empty_batches():
    system = make_system(CpuDevice(1))
    batch = random_batch(np.random.default_rng(1), TABLE_ROWS, 1)
    assert system.predict(batch).shape == (1,)
    assert system.predict(random_batch(np.random.default_rng(1), TABLE_ROWS, 0)).shape == (0,)


def test_more_samples_than_there_is_memory_for():
    system = make_system(CpuDevice(1), max_samples=8)
    records = system.table.records.copy()
    with pytest.raises(ValueError, match="8"):
        next(system.train([random_batch(np.random.default_rng(1), TABLE_ROWS, 9)]))
    np.testing.assert_array_equal(system.table.records, records)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steady_state_allocates_no_large_array(optimizer, monkeypatch):
    samples, most_bytes, taken = 2048, 64 * 1024, []
    config = DlrmConfig((20_000,) * 7, 3, 17, (32, 17), (16, 1), self_interaction=True)
    random = np.random.default_rng(1)
    batches = [random_batch(random, config.table_rows, samples) for _ in range(4)]
    # The largest batch first: the memory of the plans has then grown to its size.
    batches.sort(key=lambda batch: -batch.lookups)
    assert 4 * samples * 17 > 2 * most_bytes, "one activation is meant to be far larger"
    device = CpuDevice(2)
    with device.running():
        system = make_system(device, optimizer=optimizer, max_samples=samples, config=config)
        empty = device.zeros
        monkeypatch.setattr(device, "zeros", lambda *shape: taken.append(shape) or empty(*shape))
        steps = system.train(batches)
        for _ in range(3):
            next(steps)
        taken.clear()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        next(steps)
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    assert taken == []
    assert peak < most_bytes, f"{peak:,} bytes at the peak"
