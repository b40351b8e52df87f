"""Checkpoints whose tables a thread writes while training goes on: they hold the state of one step, bit for bit."""

import threading

import numpy as np
import pytest
from checkpoint_runs import (
    STEPS,
    SYSTEMS,
    Gate,
    bits,
    loaded,
    made_batches,
    made_source,
    make_trainer,
)

from cupyrec.batch import Batch
from cupyrec.errors import OutputError
from cupyrec.saving import changed_rows, checkpoint_writer, safetensors_file
from cupyrec.saving.changed_rows import ChangedRows
from cupyrec.saving.checkpoint_writer import CheckpointWriter, TableSource

# Rows of a block: the thread looks many times at what training changes.
BLOCK_BYTES = 160


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    for module in (safetensors_file, checkpoint_writer):
        monkeypatch.setattr(module, "BLOCK_BYTES", BLOCK_BYTES)
    monkeypatch.setattr("cupyrec.saving.checkpoints.AT_ONCE_BYTES", 0)
    monkeypatch.setattr(changed_rows, "BLOCK_OF_BITS", 4)
    yield
    assert [each.name for each in threading.enumerate() if each.name == "cupyrec-checkpoint"] == []


def states(system, *, device="cpu", steps=STEPS):
    """The bits after each step of training without checkpoints."""
    trainer, found = make_trainer(system, device=device), {}
    trainer.fit(made_source(steps), on_step=lambda step, share: found.setdefault(step.step, None))
    return {step: bits(stopped_after(step, system, device=device, steps=steps)) for step in found}


def stopped_after(step, system, *, device, steps):
    """Not by max_steps, with which `static` pins the rows of those batches alone."""
    trainer = make_trainer(system, device=device)
    trainer.fit(made_source(steps), stop_requested=lambda: trainer.system.steps_done == step)
    return trainer


def train_with_a_pass(trainer, folder, gate, *, begins, opens, **options):
    """Begin after one step, and end after another. Returns the steps of which there are checkpoints."""
    checkpoints = trainer.checkpoints(folder, every=begins, keep=100)

    def on_step(step, share):
        if trainer.system.steps_done == opens:
            gate.open(checkpoints)

    trainer.fit(made_source(), on_step=on_step, checkpoints=checkpoints, **options)
    return checkpoints.folder.steps()


@pytest.mark.parametrize("table", [0, 2, 5])
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_state_is_that_of_one_step_whatever_was_changed_meanwhile(tmp_path, monkeypatch, system, table):
    """table: held in the beginning, in the middle, or with all tables written and nothing of it on the way."""
    exact, trainer = states(system), make_trainer(system)
    gate = Gate(monkeypatch, table=table)
    steps = train_with_a_pass(trainer, tmp_path, gate, begins=3, opens=6)
    assert bits(trainer) == exact[STEPS]
    # Begun after step 3; while it was at work none began after step 6.
    assert steps[0] == 6
    assert steps[-1] == STEPS
    assert (tmp_path / "step-00000006" / "patch.safetensors").exists()
    for step in steps:
        assert bits(loaded(tmp_path / f"step-{step:08}", system)) == exact[step]


@pytest.mark.parametrize("system", SYSTEMS)
def test_on_an_emulated_gpu(tmp_path, monkeypatch, system):
    """There the host table of `resident` rests: the checkpoint is that of the step at which it began."""
    trainer, finished = make_trainer(system, device="gpu"), []
    gate = Gate(monkeypatch, table=5)
    checkpoints = trainer.checkpoints(tmp_path, every=3, keep=100)

    def stop():
        if trainer.system.steps_done == 5 and not finished:
            finished.append(1)
            assert gate.reached.wait(60)
            gate.open(checkpoints)
        return False

    trainer.fit(made_source(), checkpoints=checkpoints, stop_requested=stop, valid=made_source(1), eval_every=4)
    exact = states(system, device="gpu")
    assert bits(trainer) == exact[STEPS]
    steps = checkpoints.folder.steps()
    assert len(steps) >= 2
    assert (3 in steps) == (system == "resident")
    for step in steps:
        assert bits(loaded(tmp_path / f"step-{step:08}", system, device="gpu")) == exact[step]


@pytest.mark.parametrize("system", ["resident", "serial", "scratchpipe"])
def test_going_on_from_it_gives_the_same_bits(tmp_path, monkeypatch, system):
    trainer, again = make_trainer(system), make_trainer(system)
    train_with_a_pass(trainer, tmp_path, Gate(monkeypatch, table=1), begins=2, opens=5)
    again.fit(made_source(), start=again.load_checkpoint(tmp_path / "step-00000005"))
    assert bits(again) == bits(trainer)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("system", ["resident", "scratchpipe"])
def test_training_that_ends_meanwhile_ends_with_a_checkpoint(tmp_path, monkeypatch, system, device):
    trainer = make_trainer(system, device=device)
    gate = Gate(monkeypatch, table=3)
    checkpoints = trainer.checkpoints(tmp_path, every=STEPS - 1)
    end = checkpoints.end
    checkpoints.end = lambda state: (gate._open.set(), end(state))
    trainer.fit(made_source(), checkpoints=checkpoints)
    assert [path.name for path in tmp_path.iterdir()] == [f"step-{STEPS:08}"]
    assert bits(loaded(tmp_path / f"step-{STEPS:08}", system, device=device)) == bits(trainer)


@pytest.mark.parametrize("system", ["resident", "scratchpipe"])
def test_training_that_fails_meanwhile_leaves_the_last_good_one_alone(tmp_path, monkeypatch, system):
    trainer = make_trainer(system)
    trainer.fit(made_source(2), checkpoints=trainer.checkpoints(tmp_path, every=2))
    gate = Gate(monkeypatch, table=0)

    def fail(step, share):
        if step.step == 6:
            gate._open.set()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer.fit(
            made_source(),
            on_step=fail,
            start=trainer.state,
            checkpoints=trainer.checkpoints(tmp_path, every=4),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_an_error_of_the_thread_stops_training_at_the_next_step(tmp_path, monkeypatch):
    trainer = make_trainer("scratchpipe")
    checkpoints = trainer.checkpoints(tmp_path, every=2)

    def full(writer, *_):
        raise OutputError("no space left")

    monkeypatch.setattr(checkpoint_writer.CheckpointWriter, "_write", full)
    told = []

    def on_step(step, share):
        told.append(step.step)
        if step.step == 3:
            checkpoints._writer._thread.join()

    with pytest.raises(OutputError, match="no space left"):
        trainer.fit(made_source(), on_step=on_step, checkpoints=checkpoints)
    assert told == [1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_marked_are_the_rows_of_batches_in_flight_and_of_those_read_later():
    changed = ChangedRows(249)
    first, second, third, fourth = made_batches(4)
    changed.read(first)
    changed.read(second)
    changed.trained()
    changed.begin()
    changed.read(third)
    changed.trained()
    changed.end()
    changed.read(fourth)
    marked = [int(row) for rows in changed.blocks() for row in rows]
    assert marked == sorted({*second.rows.tolist(), *third.rows.tolist()})
    assert changed.count() == len(marked)
    changed.begin()
    assert changed.count() == len({*third.rows.tolist(), *fourth.rows.tolist()})
    changed.forget_batches()
    changed.begin()
    assert changed.count() == 0


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 64, 249])
def test_every_row_has_a_bit_of_its_own(rows):
    for row in {0, rows // 2, rows - 1}:
        changed = ChangedRows(rows)
        changed.begin()
        changed.read(Batch(None, np.array([row]), None, None))
        assert [each.tolist() for each in changed.blocks()] == [[row]]


def test_a_block_is_a_copy_however_the_table_lies(tmp_path):
    """What training changed between the write of a block and its checksum would make the checkpoint a damaged one."""
    for optimizer in ("sgd", "adagrad", "rowwise-adagrad"):
        trainer = make_trainer("resident", optimizer=optimizer)
        writer = CheckpointWriter(tmp_path / optimizer, trainer._model_state)
        for array in trainer._model_state.tables().values():
            for rows in (array, array[:1]):
                blocks = list(TableSource(rows, writer).blocks())
                assert not any(np.shares_memory(block, rows) for block in blocks)
                assert np.array_equal(np.concatenate(blocks), rows)
        writer.give_up()


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_model_that_is_saved_meanwhile_changes_nothing_of_it(tmp_path, monkeypatch, system, device):
    """On a GPU that brings later values to a host table that is to rest."""
    trainer, gate = make_trainer(system, device=device), Gate(monkeypatch, table=0)
    checkpoints = trainer.checkpoints(tmp_path / "all", every=2, keep=100)

    def stop():
        # After a step, also on a GPU, where on_step is told later; not where batches are read.
        between_steps = threading.current_thread() is threading.main_thread() and trainer.state.steps == 4
        if between_steps and not (tmp_path / "by_hand").exists():
            opener = threading.Timer(0.05, gate._open.set)
            opener.start()
            trainer.save_checkpoint(tmp_path / "by_hand")
            opener.join()
            gate.open(checkpoints)
        return False

    trainer.fit(made_source(7), stop_requested=stop, checkpoints=checkpoints)
    first = 2 if (system, device) == ("resident", "gpu") else 5
    assert checkpoints.folder.steps()[0] == first
    for folder, step in ((tmp_path / "by_hand", 4), (tmp_path / "all" / f"step-{first:08}", first)):
        assert bits(loaded(folder, system, device=device)) == bits(stopped_after(step, system, device=device, steps=7))
