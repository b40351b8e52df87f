"""`--save best` and `--patience`: the model that is saved, however often the run was stopped, killed or out of room."""

import json
import shutil
import signal

import pytest
from emulated_cuda import EmulatedCuda
from resumable_runs import DATA, SYSTEMS, Stopper, steps_kept, stop_and_go_on, train, what_counts

from cupyrec.errors import ConfigError, OutputError
from cupyrec.evaluation.evaluation import Evaluation
from cupyrec.evaluation.metrics import MetricsResult
from cupyrec.saving import checkpoints
from cupyrec.saving.checkpoint_writer import CheckpointWriter
from cupyrec.saving.open_model import open_model
from cupyrec.training import training_loop

STEPS = 18  # three epochs of six
# AUCs of the evaluations after every second step; the best is not the last, and is equalled once.
AUCS = {2: 0.5, 4: 0.7, 6: 0.6, 8: 0.8, 10: 0.8, 12: 0.75, 14: 0.7, 16: 0.6, 18: 0.5}
BEST = 10
HOW = {"epochs": 3, "eval_every": 2, "save": "best"}


@pytest.fixture
def aucs(monkeypatch):
    """What each step's evaluation is to give; a test may change it."""
    given = dict(AUCS)

    def evaluate(system, source, batch_size, *, stop_requested=None):
        auc = given[system.steps_done]
        return MetricsResult(10, 5, 0.5, auc, 0.6, 0.5, 0.9, 1.0, 0.69)

    monkeypatch.setattr(training_loop, "evaluate", evaluate)
    return given


@pytest.fixture
def options(tmp_path, aucs):
    return DATA["prepared"](tmp_path) | HOW


def up_to(step, folder, options):
    """A run that ends there: its weights are what the best's must be."""
    train(**options | {"save": "last"}, max_steps=step, output=folder)
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("checkpoint_every", [None, 2, 5])
def test_the_model_is_that_of_the_best_evaluation(tmp_path, options, checkpoint_every):
    options["checkpoint_every"] = checkpoint_every
    report = train(**options, output=tmp_path / "run")
    assert (report.model_step, report.result.best.step, report.result.steps) == (BEST, BEST, STEPS)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == up_to(BEST, tmp_path / "short", options)
    description = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (description["steps"], description["training"]["model_step"]) == (BEST, BEST)
    assert description["training"]["steps"] == STEPS
    encoding = json.loads((tmp_path / "prepared" / "prepared.json").read_text())["encoding"]
    assert open_model(tmp_path / "run").encoding == encoding
    end = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (end["kind"], end["steps"], end["model_step"]) == ("end", STEPS, BEST)
    # The newest that were asked for, and the best.
    assert steps_kept(tmp_path / "run") == {None: [BEST], 2: [BEST, 16, 18], 5: [BEST, 15, 18]}[checkpoint_every]


@pytest.mark.parametrize("auc", [0.9, 0.8])
def test_the_last_may_be_the_best(tmp_path, options, aucs, auc):
    aucs[STEPS] = auc
    report = train(**options, output=tmp_path / "run")
    assert report.model_step == STEPS
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == up_to(STEPS, tmp_path / "short", options)


def test_the_evaluation_at_the_end_may_be_the_best(tmp_path, options, aucs):
    aucs[17] = 0.9
    report = train(**options, output=tmp_path / "run", max_steps=17)
    assert report.model_step == 17
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == up_to(17, tmp_path / "short", options)
    # A run that goes on from there has no evaluation there, and the best is one before.
    assert train(**options, output=tmp_path / "run", resume=True, max_steps=STEPS).model_step == BEST


def test_without_an_auc_the_last_is_the_best(tmp_path, options, aucs):
    aucs.update(dict.fromkeys(aucs))
    assert train(**options, output=tmp_path / "run").model_step == STEPS


@pytest.mark.parametrize("stops", [(3,), (7,), (BEST,), (11,), (5, 13, 17)])
@pytest.mark.parametrize("checkpoint_every", [None, 5])
def test_stopped_and_gone_on_with_it_is_the_same(tmp_path, options, stops, checkpoint_every):
    options["checkpoint_every"] = checkpoint_every
    train(**options, output=tmp_path / "whole")
    stop_and_go_on(tmp_path / "again", stops, signal.SIGTERM, **options)
    assert what_counts(tmp_path / "again") == what_counts(tmp_path / "whole")
    assert steps_kept(tmp_path / "again")[0] == BEST


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_with_every_system_and_tables_that_a_thread_writes(tmp_path, monkeypatch, options, system, device):
    monkeypatch.setattr("cupyrec.devices.make_device.why_no_gpu", lambda: "")
    monkeypatch.setattr("cupyrec.devices.make_device.CupyRuntime", lambda: EmulatedCuda("lazy"))
    monkeypatch.setattr(checkpoints, "AT_ONCE_BYTES", 0)
    options |= {"system": system, "device": device, "checkpoint_every": 3, "batch_size": 28, "epochs": 2}
    expected = up_to(8, tmp_path / "short", options)
    for stop in (5, None):
        report = train(Stopper(stop, signal.SIGTERM), **options, output=tmp_path / "run", resume=stop is None)
    assert report.model_step == 8
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == expected


def test_killed_at_any_moment_it_ends_alike(tmp_path, options, monkeypatch):
    """What is on the disk when a checkpoint of the best is about to have its name, or the model to be written."""
    options["checkpoint_every"] = 5
    train(**options, output=tmp_path / "whole")
    copies = []

    def copied(method):
        def copy_first(*args, **settings):
            shutil.copytree(tmp_path / "run", tmp_path / f"copy-{len(copies)}")
            copies.append(tmp_path / f"copy-{len(copies)}")
            return method(*args, **settings)

        return copy_first

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointWriter, "publish", copied(CheckpointWriter.publish))
        patch.setattr("cupyrec.runs.run_saving.write_model", copied(open_model))
        with pytest.raises(TypeError):
            train(**options, output=tmp_path / "run")
    assert len(copies) == 8  # checkpoints of the steps 2, 4, 5, 8, 10, 15 and 18, and the model
    for copy in copies:
        train(**options, output=copy, resume=True)
        assert what_counts(copy) == what_counts(tmp_path / "whole")


def test_an_interrupted_run_saves_the_best_so_far(tmp_path, options):
    report = train(Stopper(7, signal.SIGINT), **options, output=tmp_path / "run")
    assert (report.result.interrupted, report.model_step, report.result.steps) == (True, 4, 7)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == up_to(4, tmp_path / "short", options)
    first = train(Stopper(1, signal.SIGINT), **options, output=tmp_path / "first")
    assert (first.result.interrupted, first.model_step) == (True, 1)


def test_an_earlier_run_stays_until_the_end(tmp_path, options):
    train(**options, output=tmp_path / "run", seed=9)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    report = train(Stopper(7, signal.SIGINT), **options, output=tmp_path / "run", overwrite=True)
    assert report.saved_in == tmp_path / "run" / "unsaved-model"
    assert open_model(report.saved_in).steps == 4
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    train(**options, output=tmp_path / "run", resume=True)
    train(**options, output=tmp_path / "whole")
    assert what_counts(tmp_path / "run") == what_counts(tmp_path / "whole")
    assert steps_kept(tmp_path / "run") == [BEST, 16, 18]
    assert not list((tmp_path / "run").glob("unsaved*"))


def test_a_full_disk_leaves_the_best_so_far(tmp_path, options, monkeypatch):
    publish, seen = CheckpointWriter.publish, []

    def full(writer, dense, content):
        seen.append(content["steps"])
        if content["steps"] == 8:
            raise OutputError("no room")
        publish(writer, dense, content)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointWriter, "publish", full)
        with pytest.raises(OutputError, match=r"no room \(the 8 steps trained before are saved in"):
            train(**options, output=tmp_path / "run", checkpoint_every=5)
    assert seen == [2, 4, 5, 8]
    assert open_model(tmp_path / "run").steps == 8
    train(**options, output=tmp_path / "run", checkpoint_every=5, resume=True)
    train(**options, output=tmp_path / "whole", checkpoint_every=5)
    assert what_counts(tmp_path / "run") == what_counts(tmp_path / "whole")


def test_an_error_in_mid_run_leaves_the_best_so_far(tmp_path, options, aucs):
    del aucs[14]
    with pytest.raises(KeyError):
        train(progress := Stopper(), **options, output=tmp_path / "run")
    assert "of the 14 steps trained before the best, after step 10, is saved in" in progress.messages[-1]
    assert open_model(tmp_path / "run").steps == BEST
    end = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (end["steps"], end["model_step"]) == (14, BEST)


def test_each_checkpoint_that_stays_has_its_best(tmp_path, options, aucs):
    """A run that goes on from an older one, with fewer evaluations, may come to no better one."""
    aucs[14] = 0.9
    options["checkpoint_every"] = 1
    train(**options, output=tmp_path / "run", max_steps=14)
    assert steps_kept(tmp_path / "run") == [BEST, 13, 14]
    report = train(**options | {"eval_every": 16}, output=tmp_path / "run", resume_step=13)
    assert report.model_step == BEST
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == up_to(BEST, tmp_path / "short", options)


def test_the_best_may_be_asked_for_when_a_run_goes_on(tmp_path, options, aucs):
    aucs[11] = 0.1
    options |= {"checkpoint_every": 1, "output": tmp_path / "run"}
    train(**options | {"save": "last"}, max_steps=11)
    train(**options, resume=True, max_steps=12)
    options["save"] = "last"
    assert train(**options, resume=True, max_steps=14).model_step == 14
    with pytest.raises(ConfigError, match=r"evaluation so far was after step 10, of which .* holds no .* --save last$"):
        train(**options | {"save": "best"}, resume=True)


@pytest.mark.parametrize("save", ["last", "best"])
@pytest.mark.parametrize(("patience", "last"), [(1, 6), (2, 12), (3, 14), (4, 16), (5, 18), (50, 18)])
def test_patience_ends_a_run(tmp_path, options, patience, last, save):
    options |= {"patience": patience, "save": save}
    report = train(**options, output=tmp_path / "run")
    assert (report.result.steps, report.result.interrupted) == (last, False)
    assert report.result.out_of_patience == (patience < 50)
    assert json.loads((tmp_path / "run" / "model.json").read_text())["training"]["out_of_patience"] == (patience < 50)
    best = BEST if last > 6 else 4
    assert report.model_step == (best if save == "best" else last)
    assert steps_kept(tmp_path / "run")[-1] == last


@pytest.mark.parametrize("system", SYSTEMS)
def test_patience_is_the_same_when_gone_on_with(tmp_path, options, system):
    options |= {"patience": 3, "system": system, "checkpoint_every": 3}
    traffic = system not in ("serial", "scratchpipe")
    train(**options, output=tmp_path / "whole")
    again = stop_and_go_on(tmp_path / "again", (5, 12, 13), signal.SIGTERM, **options)
    assert (again.result.steps, again.result.out_of_patience) == (14, True)
    assert what_counts(tmp_path / "again", traffic=traffic) == what_counts(tmp_path / "whole", traffic=traffic)
    # It stays ended, until there is more patience.
    again = train(**options, output=tmp_path / "again", resume=True)
    assert (again.result.steps, again.steps_before, again.model_step) == (14, 14, BEST)
    assert what_counts(tmp_path / "again", traffic=traffic) == what_counts(tmp_path / "whole", traffic=traffic)
    assert train(**options | {"patience": 4}, output=tmp_path / "again", resume=True).result.steps == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"save": "best", "valid": None}, "--save best needs data to evaluate on: name them with --valid"),
        ({"save": "best", "output": None}, "--save best needs a folder for the model: name it with --output"),
        (
            {"patience": 2, "save": "last", "eval_every": 0},
            "--patience counts evaluations on the way: give --valid and",
        ),
        ({"patience": 2, "save": "last", "valid": None}, "--patience counts evaluations on the way: give --valid and"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, options, change, message):
    change = {"checkpoint_every": None, "output": str(tmp_path / "run")} | change
    with pytest.raises(ConfigError, match=f"^{message}"):
        train(**options | change)
    assert not (tmp_path / "run").exists()


def test_best_without_evaluations_on_the_way_is_the_last(tmp_path, options):
    said = []
    report = train(**options | {"eval_every": 0, "checkpoint_every": None}, output=tmp_path / "run", said=said)
    assert report.model_step == STEPS
    assert "without effect: --save (needs --eval-every)" in said
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_nothing_is_written_that_was_not_asked_for(tmp_path, options):
    report = train(**options | {"save": "last", "checkpoint_every": None}, output=tmp_path / "run")
    assert (report.model_step, report.result.best) == (STEPS, Evaluation(BEST, report.result.best.metrics))
    assert not (tmp_path / "run" / "checkpoints").exists()
