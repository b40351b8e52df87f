"""Training that goes on from a checkpoint has the bits of training that never stopped."""

import dataclasses
import itertools

import pytest
from checkpoint_runs import BATCH_SIZE, CONFIG, STEPS, SYSTEMS, bits, made_source, make_trainer, shuffled_source

from cupyrec.errors import ConfigError, DivergenceError, ModelError, OutputError
from cupyrec.saving.training_state import Position

EPOCHS = 2
# In the first epoch, at its end, in the second, and at the end of all.
STOPS = (1, 4, STEPS, STEPS + 3, EPOCHS * STEPS)


def watched(trainer, source, *, stop_at=None, **options):
    """Train; returns the result, and all steps and evaluations as they were told."""
    told = []
    result = trainer.fit(
        source,
        valid=made_source(3, first=100),
        epochs=EPOCHS,
        eval_every=4,
        on_step=lambda step, share: told.append((step.step, step.samples, float(step.loss), step.learning_rate, share)),
        on_evaluation=told.append,
        stop_requested=lambda: trainer.system.steps_done == stop_at,
        **options,
    )
    return result, told


def check_bits(folder, system, source, stop_at, **settings):
    whole = make_trainer(system, **settings)
    result, told = watched(whole, source())
    stopped = make_trainer(system, **settings)
    checkpoints = stopped.checkpoints(folder, every=100)
    first, told_before = watched(stopped, source(), stop_at=stop_at, checkpoints=checkpoints)
    assert (first.steps, first.interrupted) == (stop_at, True)
    fresh = make_trainer(system, seed=99, **settings)
    start = fresh.load_checkpoint(folder / f"step-{stop_at:08}")
    again, told_after = watched(fresh, source(), start=start)
    assert bits(fresh) == bits(whole)
    assert told_before + told_after == told
    for name in ("steps", "samples", "final", "best", "interrupted"):
        assert getattr(again, name) == getattr(result, name)


@pytest.mark.parametrize("stop_at", STOPS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_on_the_cpu(tmp_path, system, stop_at):
    check_bits(tmp_path, system, made_source, stop_at)


@pytest.mark.parametrize("stop_at", [4, STEPS + 3])
@pytest.mark.parametrize("system", SYSTEMS)
def test_on_an_emulated_gpu(tmp_path, system, stop_at):
    check_bits(tmp_path, system, made_source, stop_at, device="gpu")


@pytest.mark.parametrize(
    ("optimizer", "system"), list(itertools.product(("sgd", "rowwise-adagrad"), ("resident", "scratchpipe")))
)
def test_with_every_optimizer(tmp_path, optimizer, system):
    check_bits(tmp_path, system, made_source, 7, optimizer=optimizer)


@pytest.mark.parametrize("stop_at", [3, STEPS, STEPS + 6])
@pytest.mark.parametrize("system", ["resident", "static", "scratchpipe"])
def test_with_data_in_another_order_in_each_epoch(tmp_path, system, stop_at):
    check_bits(tmp_path, system, shuffled_source, stop_at)


def test_a_source_that_can_begin_anywhere_is_not_read_from_its_beginning():
    source, read = shuffled_source(), []
    batches = source.batches
    source.batches = lambda *args, **options: (read.append(options), batches(*args, **options))[1]
    trainer = make_trainer("resident")
    trainer.state.position, trainer.state.steps = Position(1, 6), 16
    assert trainer.fit(source, epochs=EPOCHS, start=trainer.state).steps == 20
    assert [(each["epoch"], each["first_batch"]) for each in read] == [(1, 6)]


def test_a_stop_is_seen_while_batches_are_read_again():
    asked = []
    trainer = make_trainer("resident")
    trainer.state.position, trainer.state.steps = Position(0, 8), 8
    source = made_source()
    result = trainer.fit(source, start=trainer.state, stop_requested=lambda: (asked.append(1), len(asked) > 3)[1])
    assert (result.steps, result.interrupted) == (8, True)
    assert len(asked) < 8


@pytest.mark.parametrize("system", SYSTEMS)
def test_any_system_but_static_goes_on_from_any_other(tmp_path, system):
    whole, stopped = make_trainer("resident"), make_trainer("scratchpipe")
    whole.fit(made_source())
    stopped.fit(made_source(), max_steps=5, checkpoints=stopped.checkpoints(tmp_path, every=5))
    other = make_trainer(system)
    other.fit(made_source(), start=other.load_checkpoint(tmp_path / "step-00000005"))
    assert (bits(other) == bits(whole)) == (system != "static")


@pytest.mark.parametrize("end", [{"max_steps": 3}, {"epochs": 1}])
def test_an_end_before_the_start_is_refused(tmp_path, end):
    first, second = make_trainer("serial"), make_trainer("serial")
    first.fit(made_source(), max_steps=STEPS + 1, epochs=2, checkpoints=first.checkpoints(tmp_path, every=100))
    start = second.load_checkpoint(tmp_path / f"step-{STEPS + 1:08}")
    with pytest.raises(ConfigError, match=r"(epochs|max-steps) must be at least \d+, but is .: training is at step "):
        second.fit(made_source(), start=start, **end)


def test_max_steps_count_from_the_beginning(tmp_path):
    first, second = make_trainer("serial"), make_trainer("serial")
    first.fit(made_source(), max_steps=6, checkpoints=first.checkpoints(tmp_path, every=2))
    start = second.load_checkpoint(tmp_path / "step-00000004")
    assert second.fit(made_source(), max_steps=6, start=start).steps == 6
    assert bits(first) == bits(second)
    # Nothing is left to be done.
    assert second.fit(made_source(), max_steps=6, start=second.state).steps == 6
    assert bits(first) == bits(second)


def test_saved_between_two_steps_by_hand(tmp_path):
    whole, trainer, again = make_trainer("scratchpipe"), make_trainer("scratchpipe"), make_trainer("scratchpipe")
    whole.fit(made_source())
    trainer.fit(
        made_source(),
        on_step=lambda step, share: trainer.save_checkpoint(tmp_path / "mine", {"a": 1}) if step.step == 3 else None,
    )
    assert bits(trainer) == bits(whole)
    start = again.load_checkpoint(tmp_path / "mine")
    assert (start.steps, start.samples, start.position) == (3, 3 * BATCH_SIZE, Position(0, 3))
    again.fit(made_source(), start=start)
    assert bits(again) == bits(whole)
    with pytest.raises(OutputError, match="mine: exists"):
        trainer.save_checkpoint(tmp_path / "mine")


@pytest.mark.parametrize("system", ["resident", "static", "scratchpipe"])
def test_a_trainer_on_a_gpu_that_has_predicted_and_trained_takes_over_all(tmp_path, system):
    """What it has of rows in device memory is void."""
    other, used = make_trainer(system, device="gpu"), make_trainer(system, device="gpu", seed=8)
    other.fit(made_source(4), valid=made_source(2))
    other.save_checkpoint(tmp_path / "checkpoint")
    used.fit(made_source(3, first=50), valid=made_source(2))
    used.load_checkpoint(tmp_path / "checkpoint")
    assert used.evaluate(made_source(5, first=70)) == other.evaluate(made_source(5, first=70))
    used.fit(made_source(3))
    other.fit(made_source(3))
    assert bits(used) == bits(other)


def test_the_newest_are_kept(tmp_path):
    trainer = make_trainer("resident")
    trainer.fit(made_source(), checkpoints=trainer.checkpoints(tmp_path, every=2, keep=3))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:08}" for step in (6, 8, 10)]


def test_there_is_one_at_the_end_even_if_none_is_due(tmp_path):
    trainer = make_trainer("resident")
    trainer.fit(made_source(), checkpoints=trainer.checkpoints(tmp_path, every=100))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_what_does_not_fit_is_refused(tmp_path):
    trainer = make_trainer("resident")
    trainer.fit(made_source(), checkpoints=trainer.checkpoints(tmp_path, every=100))
    folder = tmp_path / "step-00000010"
    with pytest.raises(ModelError, match=r"made with the optimizer adagrad eps 1e-10, and not sgd"):
        make_trainer("resident", optimizer="sgd").load_checkpoint(folder)
    other = make_trainer("resident", config=dataclasses.replace(CONFIG, table_rows=(150, 9, 91)))
    with pytest.raises(ModelError, match="made for another model"):
        other.load_checkpoint(folder)
    other = make_trainer("resident")
    checkpoints = other.checkpoints(tmp_path, every=1)
    with pytest.raises(OutputError, match="holds a checkpoint of step 10, but training is at step 0"):
        other.fit(made_source(), checkpoints=checkpoints)
    with pytest.raises(ConfigError, match="keep must be a whole number of at least 1"):
        trainer.checkpoints(tmp_path, every=1, keep=0)


def test_weights_that_are_not_finite_are_never_kept(tmp_path):
    trainer = make_trainer("resident")

    def spoil(step, share):
        if step.step == 5:
            trainer.system.table.records[77, 2] = float("nan")

    with pytest.raises(DivergenceError, match="a table are not finite"):
        trainer.fit(made_source(), on_step=spoil, checkpoints=trainer.checkpoints(tmp_path, every=5, keep=1))
    assert list(tmp_path.iterdir()) == []
