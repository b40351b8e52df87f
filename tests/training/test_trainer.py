"""The trainer as a library, on batches of one's own: multi-hot bags, empty bags, mean pooling, three tables."""

import dataclasses
import re

import numpy as np
import pytest
from made_batches import BATCH_SIZE, CONFIG, TABLE_ROWS, WatchedSource, made_batch, made_source, no_samples

from cupyrec import Batch, BatchList, DlrmConfig, Sgd, Trainer, WarmupPolynomialDecay
from cupyrec.config import SystemConfig
from cupyrec.devices.cpu import CpuDevice
from cupyrec.errors import ConfigError, DataError, DivergenceError, MemoryPlanError
from cupyrec.functions import embedding_bag_backward

# Of 58 rows: enough for a batch, not for the batches in flight.
SYSTEMS = {
    "resident": "resident",
    "serial": SystemConfig("serial", "50"),
    "scratchpipe": SystemConfig("scratchpipe", "50"),
}


@pytest.fixture(autouse=True, params=SYSTEMS)
def system(request, monkeypatch):
    """Every test here with each of these systems: the trainer knows none of them."""
    monkeypatch.setitem(DEFAULTS, "system", SYSTEMS[request.param])
    return request.param


DEFAULTS = {"batch_size": BATCH_SIZE, "threads": 1, "seed": 5, "schedule": 0.02}


def make_trainer(**settings):
    return Trainer(CONFIG, **(DEFAULTS | settings))


def weights(trainer):
    return trainer.system.table.records.tobytes() + trainer.system.model.parameters.tobytes()


def test_learns():
    trainer = make_trainer(schedule=0.1)
    before = trainer.evaluate(made_source(8, first=100))
    result = trainer.fit(made_source(30), valid=made_source(8, first=100), epochs=4)
    assert result.final.metrics.auc > max(0.95, before.auc)
    assert result.final.metrics.log_loss < 0.5 * before.log_loss
    assert (result.steps, result.samples, result.interrupted) == (120, 120 * BATCH_SIZE, False)
    assert result.final.step == 120
    assert trainer.evaluate(made_source(8, first=100)) == result.final.metrics


def test_equal_runs_give_equal_weights_and_another_seed_others():
    runs = {}
    for name, seed in (("a", 5), ("again", 5), ("other", 6)):
        trainer = make_trainer(seed=seed)
        trainer.fit(made_source(5))
        runs[name] = weights(trainer)
    assert runs["a"] == runs["again"] != runs["other"]


def test_evaluating_in_the_middle_changes_no_weight():
    plain, watched = make_trainer(), make_trainer()
    plain.fit(made_source(10), epochs=2)
    result = watched.fit(made_source(10), valid=made_source(3, first=50), epochs=2, eval_every=3)
    assert weights(plain) == weights(watched)
    assert result.final.step == 20


@pytest.mark.parametrize(("eval_every", "expected"), [(0, [6]), (2, [2, 4, 6]), (4, [4, 6]), (6, [6]), (9, [6])])
def test_evaluates_every_so_many_steps_and_once_at_the_end(eval_every, expected):
    told = []
    make_trainer().fit(
        made_source(6),
        valid=made_source(2, first=9),
        eval_every=eval_every,
        on_evaluation=lambda e: told.append(e.step),
    )
    assert told == expected


def test_the_best_evaluation_is_the_one_with_the_highest_auc():
    told = []
    result = make_trainer(schedule=0.5).fit(
        made_source(12), valid=made_source(4, first=60), eval_every=1, on_evaluation=told.append
    )
    assert result.best.metrics.auc == max(each.metrics.auc for each in told)
    assert result.best in told
    assert result.final == told[-1]


def test_where_no_auc_is_defined_the_last_evaluation_is_the_best():
    valid = made_batch(3)
    valid.labels[:] = 1
    result = make_trainer().fit(
        made_source(4), valid=BatchList([valid], TABLE_ROWS, CONFIG.dense_features), eval_every=1
    )
    assert result.best == result.final
    assert result.final.metrics.auc is None


def test_epochs_are_the_same_data_again():
    twice, listed = make_trainer(), make_trainer()
    result = twice.fit(made_source(4), epochs=2)
    batches = [made_batch(seed) for seed in (0, 1, 2, 3, 0, 1, 2, 3)]
    listed.fit(BatchList(batches, TABLE_ROWS, CONFIG.dense_features))
    assert result.steps == 8
    assert weights(twice) == weights(listed)


def test_two_calls_go_on_where_the_first_ended():
    once, twice = make_trainer(), make_trainer()
    once.fit(made_source(6))
    steps = []
    for first in (0, 3):
        result = twice.fit(
            made_source(3, first=first), valid=made_source(1, first=70), on_step=lambda step, _: steps.append(step.step)
        )
    assert weights(once) == weights(twice)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert (result.steps, result.final.step) == (3, 6)


def test_a_short_last_batch_and_batches_without_samples():
    plain, mixed = make_trainer(), make_trainer()
    plain.fit(BatchList([made_batch(0), made_batch(1, samples=3)], TABLE_ROWS, CONFIG.dense_features))
    batches = [no_samples(), made_batch(0), no_samples(), no_samples(), made_batch(1, samples=3), no_samples()]
    source = BatchList(batches, TABLE_ROWS, CONFIG.dense_features)
    result = mixed.fit(source, valid=source)
    assert weights(plain) == weights(mixed)
    assert (result.steps, result.samples) == (2, BATCH_SIZE + 3)
    assert result.final.metrics.samples == BATCH_SIZE + 3


def test_an_epoch_without_samples_is_an_error():
    trainer = make_trainer()
    before = weights(trainer)
    for batches in ([], [no_samples()]):
        source = BatchList(batches, TABLE_ROWS, CONFIG.dense_features)
        with pytest.raises(DataError, match=r"epoch 1 of 3 has no samples: the batches of BatchList have none"):
            trainer.fit(source, valid=source, epochs=3)
    assert weights(trainer) == before


def test_a_source_that_does_not_begin_anew_is_an_error_after_the_steps_that_it_gave():
    class OnceOnly(WatchedSource):
        def batches(self, batch_size, *, on_progress=None):
            return self._generators[0] if self._generators else super().batches(batch_size, on_progress=on_progress)

    trainer, plain = make_trainer(), make_trainer()
    with pytest.raises(DataError, match=r"epoch 2 of 3 has no samples: .* OnceOnly .* an iterator that is used up\?$"):
        trainer.fit(OnceOnly([made_batch(seed) for seed in range(4)]), epochs=3)
    plain.fit(made_source(4))
    assert weights(trainer) == weights(plain)
    # Where max_steps ends with the first epoch nobody asks for the second.
    once_only = OnceOnly([made_batch(seed) for seed in range(4)])
    assert make_trainer().fit(once_only, epochs=3, max_steps=4).steps == 4


def test_the_work_done_is_told_after_each_step():
    shares, steps = [], []
    make_trainer(schedule=0.02).fit(
        made_source(3), epochs=2, on_step=lambda step, share: (steps.append(step), shares.append(share))
    )
    assert shares == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert [(step.step, step.samples, step.learning_rate) for step in steps] == [
        (number, BATCH_SIZE, 0.02) for number in range(1, 7)
    ]
    shares.clear()
    make_trainer().fit(made_source(100), max_steps=4, on_step=lambda _, share: shares.append(share))
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1])


def test_max_steps_reads_no_batch_more_and_closes_the_source():
    source = WatchedSource([made_batch(seed) for seed in range(5)])
    result = make_trainer().fit(source, epochs=9, max_steps=7)
    assert result.steps == source.handed_out == 7
    assert source.opened == source.closed == 2


@pytest.mark.parametrize("error", [DataError("spoilt", path="day_0", line=3), ZeroDivisionError(), KeyboardInterrupt()])
def test_what_a_source_raises_comes_through_after_whole_steps(error, system):
    batches = [made_batch(seed) for seed in range(5)]
    source = WatchedSource(batches, fails_after=3, error=error)
    failed, plain = make_trainer(), make_trainer()
    with pytest.raises(type(error)) as raised:
        failed.fit(source)
    assert raised.value is error
    assert source.closed == 1
    steps = failed.system.steps_done
    # An interrupt of the thread that trains, which in a serial run is the one that reads, waits for no step.
    assert steps == 3 or (system == "serial" and isinstance(error, KeyboardInterrupt))
    if steps:
        plain.fit(made_source(steps))
    assert weights(failed) == weights(plain)


def test_the_system_ends_before_the_source_is_closed(monkeypatch):
    """It may read in a thread of its own until then."""
    trainer, ended = make_trainer(), []
    train = trainer.system.train

    def watched(batches, **settings):
        try:
            yield from train(batches, **settings)
        finally:
            ended.append("system")

    class Source(WatchedSource):
        def _generate(self, on_progress):
            try:
                yield from super()._generate(on_progress)
            finally:
                ended.append("source")

    monkeypatch.setattr(trainer.system, "train", watched)
    source = Source([made_batch(seed) for seed in range(200)])
    with pytest.raises(ZeroDivisionError):
        trainer.fit(source, on_step=lambda step, _: 1 / (3 - step.step))
    assert ended == ["system", "source"]


def test_a_stop_before_the_first_step_trains_nothing(system):
    trainer, plain = make_trainer(), make_trainer()
    source = WatchedSource([made_batch(seed) for seed in range(9)])
    result = trainer.fit(source, stop_requested=lambda: True)
    assert (result.steps, result.interrupted) == (0, True)
    assert source.handed_out <= 1
    assert weights(trainer) == weights(plain)


def test_what_the_validation_source_raises_comes_through_too():
    error = DataError("spoilt")
    valid = WatchedSource([made_batch(9)] * 2, fails_after=1, error=error)
    trainer = make_trainer()
    with pytest.raises(DataError, match="spoilt"):
        trainer.fit(made_source(4), valid=valid, eval_every=2)
    assert trainer.system.steps_done == 2
    assert valid.closed == 1


def test_a_stop_is_asked_for_after_each_step_and_leaves_it_whole(system):
    source, asked = WatchedSource([made_batch(seed) for seed in range(9)]), []
    stopped, plain = make_trainer(), make_trainer()

    def stop_requested():
        asked.append(stopped.system.steps_done)
        return stopped.system.steps_done >= 3

    result = stopped.fit(source, valid=made_source(2, first=40), stop_requested=stop_requested)
    assert (result.steps, result.interrupted, result.final) == (3, True, None)
    # Before batches are read as well.
    assert {1, 2, 3} <= set(asked) <= {0, 1, 2, 3}
    # The others have read ahead.
    assert source.handed_out == 3 or system != "resident"
    assert source.closed == 1
    plain.fit(made_source(3))
    assert weights(stopped) == weights(plain)


def test_a_stop_during_an_evaluation_trains_no_step_more():
    trainer = make_trainer()
    valid = WatchedSource([made_batch(seed) for seed in range(40, 60)])
    result = trainer.fit(made_source(9), valid=valid, eval_every=4, stop_requested=lambda: valid.handed_out >= 3)
    assert (result.steps, result.interrupted, result.final) == (4, True, None)
    assert valid.handed_out == 3
    assert valid.closed == 1


def test_a_loss_that_is_not_finite_names_the_step_and_the_causes():
    trainer = make_trainer(optimizer=Sgd(), schedule=1e30)
    source, told = WatchedSource([made_batch(seed) for seed in range(5)]), []
    with pytest.raises(DivergenceError) as raised:
        trainer.fit(source, on_step=lambda step, _: told.append(step.step))
    assert re.search(r"step 2 \(learning rate 1e\+30\).*too high.*warm-up", str(raised.value))
    assert told == [1]
    assert source.closed == 1  # although the error still holds all that was at work


def test_the_schedule_is_followed():
    schedule = WarmupPolynomialDecay(0.1, 2, 3, 2, 0.0, 1.0)
    rates = []
    make_trainer(schedule=schedule).fit(made_source(6), on_step=lambda step, _: rates.append(step.learning_rate))
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.05, 0.0])


@pytest.mark.parametrize(
    ("table_rows", "dense_features", "part"),
    [((7, 40), 3, "2 tables"), ((7, 40, 12), 3, "12"), ((7, 40, 11), 4, "4 dense features")],
)
def test_a_source_for_another_model_is_refused(table_rows, dense_features, part):
    trainer, other = make_trainer(), BatchList([], table_rows, dense_features)
    for call in (
        lambda: trainer.fit(other),
        lambda: trainer.fit(made_source(1), valid=other),
        lambda: trainer.evaluate(other),
    ):
        with pytest.raises(ConfigError, match=part):
            call()
    assert trainer.system.steps_done == 0


def test_a_batch_larger_than_the_memory_is_refused():
    trainer = make_trainer()
    large = BatchList([made_batch(0, samples=BATCH_SIZE + 1)], TABLE_ROWS, CONFIG.dense_features)
    for call in (lambda: trainer.fit(large), lambda: trainer.evaluate(large)):
        with pytest.raises(ConfigError, match=r"17 samples.*16"):
            call()


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"max_steps": 0}, {"max_steps": 1.5}, {"eval_every": -1}], ids=str)
def test_numbers_that_make_no_sense_are_refused(settings):
    trainer = make_trainer()
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} must be a whole number of at least"):
        trainer.fit(made_source(1), **settings)
    assert trainer.system.steps_done == 0


def test_settings_of_the_trainer_that_make_no_sense_are_refused():
    for name, values in {"batch_size": (0, 2.5, "16"), "threads": (0, 1.5), "seed": (-1, "x")}.items():
        for value in values:
            with pytest.raises(ConfigError, match=rf"{name} must be a whole number of at least \d, but is {value!r}"):
                make_trainer(**{name: value})
    with pytest.raises(ConfigError, match=r"the learning rate must be a number, but is '0\.1'"):
        make_trainer(schedule="0.1")
    with pytest.raises(ConfigError, match=r"not the class Sgd: Sgd\(\)"):
        make_trainer(optimizer=Sgd)


def test_a_model_that_does_not_fit_is_refused_before_anything_is_allocated(monkeypatch):
    monkeypatch.setattr(CpuDevice, "zeros", lambda *_: pytest.fail("allocated"))
    with pytest.raises(MemoryPlanError, match="available"):
        Trainer(dataclasses.replace(CONFIG, table_rows=(10**13,)))


def test_weights_are_as_large_as_the_configuration_says():
    trainer = make_trainer()
    assert trainer.system.table.records.shape == (sum(TABLE_ROWS), 8)  # D, the state, padded to 16 bytes
    assert np.isfinite(trainer.system.table.records).all()
    assert trainer.threads == 1


class Foreign:
    """A source of one's own, whose batches nobody has checked."""

    table_rows, dense_features = (5,), 3

    def __init__(self, row):
        self.row = row

    def batches(self, batch_size, *, on_progress=None):
        rows, offsets = np.array([0, self.row]), np.arange(3)
        return [Batch(np.zeros((2, 3), np.float32), rows, offsets, np.zeros(2, np.float32))]


def small_trainer(**options):
    config = DlrmConfig((5,), dense_features=3, dimension=2, bottom=(2,), top=(1,))
    return Trainer(config, batch_size=4, threads=1, **options)


def test_a_row_outside_its_table_from_a_foreign_source_is_refused():
    trainer = small_trainer()
    assert trainer.fit(Foreign(4), valid=Foreign(0)).steps == 1
    with pytest.raises(DataError, match="batch 0, counted from 0: sample 1, feature 0: global row 5 is not"):
        trainer.fit(Foreign(5))
    with pytest.raises(DataError, match="batch 0, counted from 0: sample 1, feature 0: global row -1 is not"):
        trainer.evaluate(Foreign(-1))


def test_an_optimizer_by_name():
    trainer = small_trainer(optimizer="adagrad")
    assert trainer.memory_plan.row_state_bytes == 5 * 2 * 4
    with pytest.raises(ConfigError, match="unknown optimizer 'adam'"):
        small_trainer(optimizer="adam")


@dataclasses.dataclass(frozen=True)
class PlainSgd:
    """An optimizer of one's own, for the CPU, which does what Sgd does."""

    name = "plain-sgd"

    def row_state_width(self, dimension):
        return 0

    def dense_state_size(self, parameters):
        return 0

    def update_rows(self, device, update, *, learning_rate):
        places, D = update.places[: update.plan.unique], update.dY.shape[2]
        dW = np.zeros((update.plan.unique, D), np.float32)
        embedding_bag_backward(device, update.dY, update.offsets, update.plan, dW, mean=update.mean)
        update.records[places, :D] -= np.float32(learning_rate) * dW

    def update_dense(self, device, w, g, state, *, learning_rate):
        w -= np.float32(learning_rate) * g


def test_an_optimizer_of_ones_own(tmp_path):
    trainers = {each.name: make_trainer(optimizer=each) for each in (PlainSgd(), Sgd())}
    for trainer in trainers.values():
        trainer.fit(made_source(5))
    mine, plain = trainers.values()
    np.testing.assert_allclose(mine.system.table.records, plain.system.table.records, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mine.system.model.parameters, plain.system.model.parameters, rtol=1e-5, atol=1e-6)
    mine.save_checkpoint(tmp_path / "step")
    assert make_trainer(optimizer=PlainSgd()).load_checkpoint(tmp_path / "step").steps == 5


def test_what_is_no_data_is_refused():
    trainer = small_trainer()
    for data in ("file.tsv", [made_batch(0)], 0.1):
        for call in (lambda data=data: trainer.fit(data), lambda data=data: trainer.fit(Foreign(1), valid=data)):
            with pytest.raises(ConfigError, match=f"the data must be a source, .* but are a {type(data).__name__}"):
                call()
    assert trainer.system.steps_done == 0


@pytest.mark.parametrize("spoil", [lambda system: system.table.records, lambda system: system.model.parameters])
def test_weights_that_are_not_finite_are_not_saved(spoil, tmp_path):
    trainer = small_trainer()
    spoil(trainer.system)[...] = np.nan
    with pytest.raises(DivergenceError, match="weights are not finite after step 0"):
        trainer.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_predictions_that_are_not_finite_name_the_step():
    trainer = small_trainer()

    def spoil(result, fraction_done):
        trainer.system.model.parameters[...] = np.nan

    with pytest.raises(DivergenceError, match="not finite after step 1; usual causes"):
        trainer.fit(Foreign(1), valid=Foreign(2), on_step=spoil)


class ReusesArrays:
    """Fills the same arrays for each batch, as readers of streams do."""

    table_rows, dense_features = TABLE_ROWS, CONFIG.dense_features

    def __init__(self, batches):
        self._batches = batches

    def batches(self, batch_size, *, on_progress=None):
        names = ("dense", "rows", "offsets", "labels")
        most = {name: max(getattr(batch, name).shape[0] for batch in self._batches) for name in names}
        arrays = {name: np.repeat(getattr(self._batches[0], name)[:1], most[name], axis=0) for name in names}
        for batch in self._batches:
            filled = [arrays[name][: getattr(batch, name).shape[0]] for name in names]
            for array, name in zip(filled, names, strict=True):
                array[:] = getattr(batch, name)
            yield Batch(*filled)


def test_a_source_may_use_its_arrays_again():
    """Batches that wait, or that are known ahead, are not those that come later."""
    batches = [made_batch(seed, samples=5 + seed) for seed in range(11)]
    trained = []
    for source in (BatchList(batches, TABLE_ROWS, CONFIG.dense_features), ReusesArrays(batches)):
        trainer = make_trainer()
        trainer.fit(source)
        trained.append(weights(trainer))
    assert trained[0] == trained[1]


def test_a_trainer_trains_once_at_a_time(tmp_path):
    trainer, refused = make_trainer(), []
    trainer.save_checkpoint(tmp_path / "step")

    def again(result, share):
        for use in (
            lambda: trainer.fit(made_source(1)),
            lambda: trainer.load_weights(tmp_path / "step"),
            lambda: trainer.load_checkpoint(tmp_path / "step"),
        ):
            with pytest.raises(ConfigError, match="is training already"):
                use()
            refused.append(result.step)

    trainer.fit(made_source(2), on_step=again)
    assert refused == [1, 1, 1, 2, 2, 2]
    other = make_trainer()
    other.fit(made_source(2))
    assert weights(trainer) == weights(other)
    with pytest.raises(ConfigError, match="eval_every"):
        trainer.fit(made_source(1), eval_every=1)
    trainer.fit(made_source(1))
