"""Whole runs that are stopped and gone on with end as one that was never stopped."""

import json
import shutil
import signal

import pytest
from criteo_lines import files_in
from emulated_cuda import EmulatedCuda
from resumable_runs import DATA, SYSTEMS, Stopper, steps_kept, stop_and_go_on, train, what_counts

from cupyrec.errors import ConfigError, DivergenceError
from cupyrec.saving import checkpoints

EPOCHS, STEPS = 3, 18  # of 6 each
# Where an evaluation is due, in the first epoch, at its end, and in the last.
STOPS = (1, 4, 6, 15)
HOW = {"epochs": EPOCHS, "eval_every": 4}


def runs_alike(tmp_path, stops=STOPS, number=signal.SIGINT, **options):
    """The report of the one that was never stopped."""
    whole = train(output=tmp_path / "whole", **options)
    again = stop_and_go_on(tmp_path / "again", stops, number, **options)
    check_same(tmp_path, options.get("system"))
    assert list(again.bad_rows.values()) == list(whole.bad_rows.values())
    assert (again.result.final, again.result.best) == (whole.result.final, whole.result.best)
    assert steps_kept(tmp_path / "again") == steps_kept(tmp_path / "whole")
    return whole


def check_same(tmp_path, system=None):
    traffic = system not in ("serial", "scratchpipe")
    assert what_counts(tmp_path / "again", traffic=traffic) == what_counts(tmp_path / "whole", traffic=traffic)


@pytest.fixture(params=DATA)
def data(request, tmp_path):
    return DATA[request.param](tmp_path)


@pytest.mark.parametrize("system", SYSTEMS)
def test_with_every_system_on_all_data(tmp_path, data, system):
    report = runs_alike(tmp_path, **data, **HOW, system=system)
    assert report.result.steps == STEPS
    assert steps_kept(tmp_path / "whole") == [16, 18]
    for path in report.bad_rows:
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_with_every_optimizer(tmp_path, system, optimizer):
    runs_alike(tmp_path, (3, 11), **DATA["shuffled"](tmp_path), **HOW, system=system, optimizer=optimizer)


@pytest.mark.parametrize("system", SYSTEMS)
def test_with_tables_that_a_thread_writes(tmp_path, monkeypatch, system):
    monkeypatch.setattr(checkpoints, "AT_ONCE_BYTES", 0)
    options = DATA["shuffled"](tmp_path) | HOW | {"system": system, "checkpoint_every": 5}
    train(output=tmp_path / "whole", **options)
    stop_and_go_on(tmp_path / "again", (4, 15), **options)
    check_same(tmp_path, system)
    assert steps_kept(tmp_path / "again")[-1] == STEPS


@pytest.mark.parametrize("system", SYSTEMS)
def test_on_an_emulated_gpu(tmp_path, monkeypatch, system):
    monkeypatch.setattr("cupyrec.devices.make_device.why_no_gpu", lambda: "")
    monkeypatch.setattr("cupyrec.devices.make_device.CupyRuntime", lambda: EmulatedCuda("lazy"))
    options = DATA["shuffled"](tmp_path) | {"epochs": 2, "eval_every": 4, "device": "gpu", "batch_size": 28}
    runs_alike(tmp_path, (3,), **options, system=system)


def test_sigterm_ends_after_the_step_and_saves_both(tmp_path):
    options = DATA["prepared"](tmp_path) | HOW
    report = train(Stopper(5, signal.SIGTERM), output=tmp_path / "run", **options)
    assert (report.stopped_by, report.result.steps, report.result.interrupted) == (signal.SIGTERM, 5, True)
    assert report.checkpoint == tmp_path / "run" / "checkpoints" / "step-00000005"
    assert report.saved_in == tmp_path / "run"
    runs_alike(tmp_path, (5,), signal.SIGTERM, **options)


def test_up_to_some_steps_and_on(tmp_path):
    options = DATA["raw_files"](tmp_path) | HOW | {"output": tmp_path / "again"}
    train(**options, max_steps=7)
    train(**options, max_steps=13, resume=True)
    train(**options, resume=True)
    train(**(options | {"output": tmp_path / "whole"}))
    check_same(tmp_path)


def test_where_rows_are_and_how_they_move_may_be_another(tmp_path):
    options = DATA["raw_files"](tmp_path) | HOW
    train(**options, max_steps=7, output=tmp_path / "again")
    train(**options, resume=True, output=tmp_path / "again", host_memory="managed")
    train(**options, output=tmp_path / "whole")
    check_same(tmp_path)


def test_from_an_older_checkpoint(tmp_path):
    options = DATA["shuffled"](tmp_path) | HOW | {"keep": 20}
    train(**options, output=tmp_path / "whole")
    train(**options, output=tmp_path / "again")
    for step in (8, 2):
        train(**options, output=tmp_path / "again", resume_step=step)
        check_same(tmp_path)
        assert steps_kept(tmp_path / "again") == list(range(2, STEPS + 1, 2))


@pytest.mark.parametrize("change", [{}, {"max_steps": STEPS}])
def test_with_nothing_left_to_be_done(tmp_path, change):
    options = DATA["raw_files"](tmp_path) | HOW | {"output": tmp_path / "run"}
    first = train(**options)
    before = what_counts(tmp_path / "run")
    again = train(**(options | change), resume=True)
    assert (again.result.steps, again.result.interrupted) == (STEPS, False)
    assert what_counts(tmp_path / "run") == before
    assert again.result.final == first.result.final
    assert steps_kept(tmp_path / "run") == [16, 18]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": 17}, "max-steps must be at least 18, but is 17: training is at step 18, in epoch 3"),
        ({"epochs": 2}, "epochs must be at least 3, but is 2: training is at step 18, in epoch 3"),
    ],
)
def test_an_end_before_the_checkpoint_is_refused_and_nothing_changes(tmp_path, change, message):
    """config.toml would say what does not give these weights."""
    options = DATA["prepared"](tmp_path) | HOW | {"output": tmp_path / "run"}
    train(**options)
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(ConfigError, match=message):
        train(**(options | change), resume=True)
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_more_epochs_than_before(tmp_path):
    options = DATA["shuffled"](tmp_path) | {"eval_every": 4}
    train(**options, epochs=1, output=tmp_path / "again")
    train(**options, epochs=3, output=tmp_path / "again", resume=True)
    train(**options, epochs=3, output=tmp_path / "whole")
    check_same(tmp_path)


def test_keeping_one(tmp_path):
    options = DATA["prepared"](tmp_path) | HOW | {"keep": 1}
    runs_alike(tmp_path, (3,), **options)
    assert steps_kept(tmp_path / "whole") == [18]


def test_resume_where_there_is_nothing_begins_anew(tmp_path):
    said = []
    options = DATA["prepared"](tmp_path) | HOW | {"output": tmp_path / "run", "resume": True}
    train(said=said, **options)
    assert f"{tmp_path / 'run'} holds no checkpoint to go on from: training begins anew" in said
    assert steps_kept(tmp_path / "run") == [16, 18]


def test_what_a_killed_run_left_before_its_first_checkpoint_does_not_count(tmp_path):
    options = DATA["raw_files"](tmp_path) | HOW
    train(**options, output=tmp_path / "whole")
    run = tmp_path / "run"
    (run / "checkpoints" / ".step-00000002.partial").mkdir(parents=True)
    (run / "checkpoints" / ".step-00000002.partial" / "dense.safetensors").write_bytes(b"half")
    for name in ("metrics.jsonl", "config.toml", "bad_rows.tsv", ".config.toml.partial", "model.safetensors.partial"):
        (run / name).write_text('{"kind": "tra')
    train(**options, output=run, resume=True)
    assert what_counts(run) == what_counts(tmp_path / "whole")
    assert list(run.rglob("*partial")) == []


def test_what_came_after_the_checkpoint_is_taken_back(tmp_path):
    """As after a kill: lines of metrics.jsonl, one of them torn, and a checkpoint in the making."""
    options = DATA["raw_files"](tmp_path) | HOW
    train(**options, output=tmp_path / "whole")
    run = tmp_path / "run"
    train(Stopper(9), **options, output=run)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 12}\n{"kind": "tra')
    for name in (".step-00000010.partial", ".step-00000004.old"):
        (run / "checkpoints" / name).mkdir()
        (run / "checkpoints" / name / "dense.safetensors").write_bytes(b"half")
    # Even where no more checkpoints are wanted.
    train(**options | {"checkpoint_every": 0}, output=run, resume=True)
    assert what_counts(run) == what_counts(tmp_path / "whole")
    assert steps_kept(run) == [8, 9]


@pytest.mark.parametrize("kept", [100, 0, None])
def test_metrics_that_lost_lines_keep_nobody_from_going_on(tmp_path, kept):
    options = DATA["raw_files"](tmp_path) | HOW | {"output": tmp_path / "run"}
    train(Stopper(9), **options)
    metrics = tmp_path / "run" / "metrics.jsonl"
    before = metrics.read_bytes()
    metrics.write_bytes(before[:kept])
    if kept is None:
        metrics.unlink()
    said = []
    assert train(**options, resume=True, said=said).result.steps == STEPS
    assert any("metrics.jsonl: has" in line and "when the checkpoint was made" in line for line in said)
    # What is left of them stays, in whole lines.
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"][-3:] == [12, 15, 18]


@pytest.mark.parametrize("stop", [1, 9])
def test_files_of_others_are_not_replaced_by_going_on(tmp_path, stop):
    """Before the first checkpoint and after."""
    options = DATA["raw_files"](tmp_path) | HOW | {"output": tmp_path / "run", "bad_rows": tmp_path / "mine.tsv"}
    train(Stopper(stop), **options, overwrite=True)
    for path in (tmp_path / "run" / "checkpoints").iterdir() if stop == 1 else ():
        shutil.rmtree(path)
    if stop == 1:
        for name in ("model.json", "model.safetensors"):
            (tmp_path / "run" / name).unlink()
    (tmp_path / "other.tsv").write_text("of another")
    for change in ({"bad_rows": tmp_path / "other.tsv"}, {"trace": tmp_path / "other.tsv"}):
        with pytest.raises(ConfigError, match=r"other\.tsv: exists; name another file"):
            train(**options | change, resume=True)
    assert (tmp_path / "other.tsv").read_text() == "of another"
    report = train(**options, resume=True)
    assert list(report.bad_rows) == [tmp_path / "mine.tsv"]


def test_what_others_put_beside_the_checkpoints_stays_and_hinders_nobody(tmp_path):
    options = DATA["prepared"](tmp_path) | HOW | {"output": tmp_path / "run"}
    train(**options)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "notes.txt").write_text("of another")
    (folder / ".step-00000003.partial").write_text("a file")
    train(**options, overwrite=True, seed=2)
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "step-00000016", "step-00000018"]
    assert not list((tmp_path / "run").glob("unsaved*"))
    train(**options, resume=True, seed=2)


def test_the_trace_is_written_again(tmp_path):
    options = DATA["prepared"](tmp_path) | HOW | {"output": tmp_path / "run", "trace": tmp_path / "trace.json"}
    train(Stopper(9), **options)
    before = (tmp_path / "trace.json").read_text()
    train(**options, resume=True)
    assert (tmp_path / "trace.json").read_text() not in ("", before)


def test_an_overwriting_run_that_was_stopped_is_gone_on_with(tmp_path):
    options = DATA["prepared"](tmp_path) | HOW | {"output": tmp_path / "run"}
    train(**options, seed=2)
    before, checkpoints = what_counts(tmp_path / "run"), steps_kept(tmp_path / "run")
    for step, change in ((5, {"overwrite": True}), (9, {"resume": True})):
        report = train(Stopper(step), **options, **change)
        assert report.saved_in == tmp_path / "run" / "unsaved-model"
        assert report.checkpoint == tmp_path / "run" / "unsaved-checkpoints" / f"step-{step:08}"
        # The earlier one is there until the end.
        assert (what_counts(tmp_path / "run"), steps_kept(tmp_path / "run")) == (before, checkpoints)
    train(**options, resume=True)
    train(**options | {"output": tmp_path / "whole"})
    assert what_counts(tmp_path / "run") == what_counts(tmp_path / "whole")
    assert files_in(tmp_path / "run") == files_in(tmp_path / "whole")


def test_divergence_leaves_the_checkpoint_before(tmp_path):
    options = DATA["prepared"](tmp_path) | HOW | {"output": tmp_path / "run", "log_every": 1}
    train(Stopper(5), **options)
    with pytest.raises(DivergenceError, match=r"the loss is nan \(.*step-00000006 is from before: it can be evaluated"):
        train(Spoiler(8), **options, resume=True)
    assert steps_kept(tmp_path / "run") == [5, 6]
    train(**options, resume=True)
    train(**options | {"output": tmp_path / "whole"})
    assert what_counts(tmp_path / "run") == what_counts(tmp_path / "whole")


class Spoiler(Stopper):
    """Progress in which a step is found to have diverged."""

    def __init__(self, step):
        super().__init__()
        self._step = step

    def update(self, step, samples, loss, fraction_done=None):
        if step == self._step:
            raise DivergenceError("the loss is nan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": True}, "--resume needs a folder for the checkpoints: name it with --output"),
        ({"resume_step": 3}, "--resume-step needs a folder for the checkpoints"),
        ({"checkpoint_every": 3}, "--checkpoint-every needs a folder for the checkpoints"),
        ({"resume": True, "overwrite": True, "output": "run"}, "--resume goes on with a run and --overwrite begins"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.tsv").write_text("")
    with pytest.raises(ConfigError, match=message):
        train(paths="data.tsv", **{"checkpoint_every": 0} | options)
    assert [path.name for path in tmp_path.iterdir()] == ["data.tsv"]
