"""`cupyrec train --init-from`: a run that begins with the weights and the shape of a model."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import check_one_error_line, run_here
from criteo_lines import TINY_MODEL, files_in, write_learnable
from emulated_cuda import EmulatedCuda
from models_for_tests import prepare_small

from cupyrec import CriteoFiles, PreparedData, PrepareOptions, RowwiseAdagrad, Trainer, prepare
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.run_config import read_config_file
from cupyrec.saving.open_model import open_model

HOW = ["--batch-size=20", "--threads=1", "--learning-rate=0.05", "--warmup-steps=0"]
SHAPE = {"bottom-mlp": [8, 4], "dimension": 4, "top-mlp": [8, 1], "hash-rows": [50], "pooling": "sum"}
SYSTEMS = ("resident", "hybrid", "static", "serial", "scratchpipe")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """day_1, day_2, and day1/, the run on the first, with checkpoints."""
    from cupyrec.cli import main

    folder = tmp_path_factory.mktemp("made")
    write_learnable(folder / "day_1", 100)
    write_learnable(folder / "day_2", 140, first=100)
    with pytest.raises(SystemExit) as end:
        main(["train", str(folder / "day_1"), *TINY_MODEL, *HOW, "--checkpoint-every=3", f"--output={folder / 'day1'}"])
    assert not end.value.code
    return folder


def go_on(capsys, made, output, *arguments, model="day1"):
    """Day 2, with no word of the model's shape."""
    where = [] if output is None else ["--output", output]
    return run_here(capsys, "train", made / "day_2", *HOW, "--init-from", made / model, *where, *arguments)


def weights(folder):
    return {name: tensor.blocks().__next__().tobytes() for name, tensor in open_model(folder).tensors.items()}


def by_library(made, model="day1"):
    data = CriteoFiles(made / "day_2", hash_rows=50)
    shape = open_model(made / model).config
    how = {"schedule": WarmupPolynomialDecay(0.05), "batch_size": 20, "threads": 1}
    trainer = Trainer(shape, optimizer=RowwiseAdagrad(), **how)
    trainer.load_weights(made / model)
    trainer.fit(data)
    return trainer


def test_the_model_is_gone_on_with(made, tmp_path, capsys):
    outcome = go_on(capsys, made, tmp_path / "day2")
    assert outcome.code == 0, outcome
    assert f"beginning with the weights of {made / 'day1'}, of step 5" in outcome.out.splitlines()
    assert "the optimizer begins without a state, so that its first steps are large: give --init-state" in outcome.out
    assert "trained 7 steps, 140 samples" in outcome.out
    by_library(made).save(tmp_path / "library")
    assert weights(tmp_path / "day2") == weights(tmp_path / "library")
    kept = read_config_file(tmp_path / "day2" / "config.toml")
    assert kept["init-from"] == str(made / "day1")
    assert {name: kept[name] for name in SHAPE} == SHAPE
    assert json.loads((tmp_path / "day2" / "model.json").read_text())["steps"] == 7
    # The file of options makes the same again.
    outcome = run_here(capsys, "train", "--config", tmp_path / "day2" / "config.toml", "--output", tmp_path / "again")
    assert outcome.code == 0, outcome
    assert weights(tmp_path / "again") == weights(tmp_path / "day2")
    shown = run_here(capsys, "inspect", tmp_path / "day2")
    assert f"init-from {made / 'day1'}"[:40] in shown.out


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_with_every_system(made, tmp_path, capsys, monkeypatch, system, device):
    monkeypatch.setattr("cupyrec.devices.make_device.why_no_gpu", lambda: "")
    monkeypatch.setattr("cupyrec.devices.make_device.CupyRuntime", lambda: EmulatedCuda("lazy"))
    found = []
    for name, options in {"plain": ["--system=resident"], "other": [f"--system={system}", "--scratchpad=900"]}.items():
        outcome = go_on(capsys, made, tmp_path / name, *options, f"--device={device}", "--exchange=staged")
        assert outcome.code == 0, outcome
        found.append(weights(tmp_path / name))
    if system in ("hybrid", "static"):
        assert (tmp_path / "other" / "model.json").exists()
    else:
        assert found[0] == found[1]


def test_a_checkpoint_does_as_well(made, tmp_path, capsys):
    outcome = go_on(capsys, made, tmp_path / "day2", model="day1/checkpoints/step-00000003")
    assert outcome.code == 0, outcome
    assert "checkpoints/step-00000003, of step 3" in outcome.out
    by_library(made, "day1/checkpoints/step-00000003").save(tmp_path / "library")
    assert weights(tmp_path / "day2") == weights(tmp_path / "library")


@pytest.mark.parametrize("output", [None, "day2"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--dimension=8", "--dimension is 8, but the model {} was made with 4"),
        ("--bottom-mlp=16-4", "--bottom-mlp is 16-4, but the model {} was made with 8-4"),
        ("--bottom-mlp=16-8", "--bottom-mlp is 16-8, but the model {} was made with 8-4"),
        ("--top-mlp=9-1", "--top-mlp is 9-1, but the model {} was made with 8-1"),
        ("--pooling=mean", "--pooling is mean, but the model {} was made with sum"),
        ("--self-interaction", "--self-interaction is on, but the model {} was made with off"),
        ("--hash-rows=60", "--hash-rows is 60, but the model {} was made with 50"),
    ],
)
def test_an_option_that_contradicts_the_model_is_an_error(made, tmp_path, capsys, option, message, output):
    outcome = go_on(capsys, made, output and tmp_path / output, option)
    message = message.format(made / "day1") + "; leave the option out, or begin without --init-from"
    assert check_one_error_line(outcome) == message
    assert files_in(tmp_path) == []


def test_options_that_say_what_the_model_has_are_none(made, tmp_path, capsys):
    rows = ",".join(["50"] * 26)
    outcome = go_on(capsys, made, tmp_path / "day2", *TINY_MODEL, f"--hash-rows={rows}", "--no-self-interaction")
    assert outcome.code == 0, outcome


def test_data_with_other_vocabularies_are_refused_as_evaluate_does(made, tmp_path, capsys):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = prepare_small(tmp_path / "first")
    second = prepare_small(tmp_path / "second", rows=60)
    shape = ["--dimension=4", "--bottom-mlp=8-4", "--top-mlp=8-1"]
    model = tmp_path / "model"
    assert run_here(capsys, "train", first, *HOW, *shape, "--output", model).code == 0
    refused = run_here(capsys, "train", second, *HOW, "--init-from", model, "--output", tmp_path / "day2")
    assert check_one_error_line(refused) == check_one_error_line(run_here(capsys, "evaluate", model, second))
    raw = run_here(capsys, "train", made / "day_2", *HOW, "--init-from", model, "--output", tmp_path / "day2")
    assert "read as raw files, but the model was trained on data prepared with vocabularies" in raw.err
    assert not (tmp_path / "day2").exists()
    # Prepared with its vocabularies they are taken, and the tables are as they are.
    prepare(PrepareOptions(made / "day_2", tmp_path / "third", vocabulary=first, threads=1))
    taken = run_here(capsys, "train", tmp_path / "third", *HOW, "--init-from", model, "--output", tmp_path / "day2")
    assert taken.code == 0, taken
    assert "not used with prepared data" not in taken.out


@pytest.mark.parametrize("model", ["day1", "day1/checkpoints/step-00000003"])
def test_a_run_does_not_replace_the_model_that_it_begins_with(made, tmp_path, capsys, model):
    shutil.copytree(made / "day1", tmp_path / "day1")
    before = {path: path.read_bytes() for path in (tmp_path / "day1").rglob("*") if path.is_file()}
    arguments = ["--init-from", tmp_path / model, "--output", tmp_path / "day1", "--overwrite"]
    outcome = run_here(capsys, "train", made / "day_2", *HOW, *arguments)
    assert "is in the folder of this run; choose another --output" in check_one_error_line(outcome)
    assert {path: path.read_bytes() for path in (tmp_path / "day1").rglob("*") if path.is_file()} == before


def test_damage_is_found_before_an_earlier_run_is_touched(made, tmp_path, capsys):
    shutil.copytree(made / "day1", tmp_path / "model")
    weights_file = tmp_path / "model" / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-4] + b"spoi")
    assert go_on(capsys, made, tmp_path / "day2", "--checkpoint-every=2", "--overwrite").code == 0
    before = files_in(tmp_path / "day2")
    arguments = ["--init-from", tmp_path / "model", "--output", tmp_path / "day2", "--overwrite"]
    outcome = run_here(capsys, "train", made / "day_2", *HOW, *arguments)
    assert "damaged, or changed by a program" in check_one_error_line(outcome)
    assert files_in(tmp_path / "day2") == before


def test_a_resumed_run_does_not_look_at_the_model_again(made, tmp_path, capsys):
    shutil.copytree(made / "day1", tmp_path / "model")
    options = ["--init-from", tmp_path / "model", "--checkpoint-every=2", "--output", tmp_path / "day2"]
    assert run_here(capsys, "train", made / "day_2", *HOW, *options, "--max-steps=3").code == 0
    shutil.rmtree(tmp_path / "model")
    outcome = run_here(capsys, "train", "--resume", "--output", tmp_path / "day2", "--max-steps=7")
    assert outcome.code == 0, outcome
    assert "beginning with" not in outcome.out
    assert go_on(capsys, made, tmp_path / "whole").code == 0
    assert weights(tmp_path / "day2") == weights(tmp_path / "whole")
    assert read_config_file(tmp_path / "day2" / "config.toml")["init-from"] == str(tmp_path / "model")
    # With the very same command too, but not from another model.
    outcome = run_here(capsys, "train", made / "day_2", *HOW, *options, "--resume")
    assert outcome.code == 0, outcome
    outcome = go_on(capsys, made, tmp_path / "day2", "--resume")
    assert f"--init-from is {made / 'day1'}, but the checkpoint" in check_one_error_line(outcome)


def test_resumed_before_its_first_checkpoint_it_begins_from_the_model_again(made, tmp_path, capsys):
    outcome = go_on(capsys, made, tmp_path / "day2", "--resume", "--checkpoint-every=2")
    assert outcome.code == 0, outcome
    assert "training begins anew" in outcome.out
    assert f"beginning with the weights of {made / 'day1'}, of step 5" in outcome.out.splitlines()
    assert "the optimizer begins without a state, so that its first steps are large: give --init-state" in outcome.out
    by_library(made).save(tmp_path / "library")
    assert weights(tmp_path / "day2") == weights(tmp_path / "library")


def test_without_an_output_it_trains_too(made, capsys):
    outcome = go_on(capsys, made, None, "--valid", "0.2")
    assert outcome.code == 0, outcome
    assert "beginning with the weights of" in outcome.out


@pytest.mark.parametrize(
    ("what", "message"),
    [("nothing", "holds no cupyrec model"), ("exported", "become a model with `cupyrec import`"), ("runs", "name one")],
)
def test_what_is_no_model_is_refused(made, tmp_path, capsys, what, message):
    if what == "exported":
        assert run_here(capsys, "export", made / "day1", "--output", tmp_path / what).code == 0
    if what == "runs":
        shutil.copytree(made / "day1" / "checkpoints", tmp_path / what / "checkpoints")
    outcome = run_here(capsys, "train", made / "day_2", *HOW, "--init-from", tmp_path / what)
    assert message in check_one_error_line(outcome)


def test_a_model_of_other_columns_is_refused(made, tmp_path, capsys):
    from cupyrec import DlrmConfig

    Trainer(DlrmConfig((50, 9), dense_features=2, dimension=4, bottom=(8, 4), top=(8, 1)), threads=1).save(tmp_path)
    outcome = run_here(capsys, "train", made / "day_2", *HOW, "--init-from", tmp_path)
    message = "26 tables and 13 dense features, but the model was made for 2 and 2"
    assert message in check_one_error_line(outcome)


def test_it_stands_in_a_file_of_options(made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(made)
    (tmp_path / "run.toml").write_text('paths = ["day_2"]\ninit-from = "day1"\nbatch-size = 20\nthreads = 1\n')
    (tmp_path / "bad.toml").write_text('paths = ["day_2"]\ninit-from = "day1"\ndimension = 16\n')
    assert run_here(capsys, "train", "--config", tmp_path / "run.toml").code == 0
    outcome = run_here(capsys, "train", "--config", tmp_path / "bad.toml")
    assert "--dimension is 16, but the model day1 was made with 4" in check_one_error_line(outcome)


CHECKPOINT = "day1/checkpoints/step-00000003"


def test_what_the_optimizer_remembers_comes_along_where_that_is_asked_for(made, tmp_path, capsys):
    """With its optimizer, and no word of it."""
    outcome = go_on(capsys, made, tmp_path / "day2", "--init-state", model=CHECKPOINT)
    assert outcome.code == 0, outcome
    assert (
        f"beginning with the weights of {made / CHECKPOINT}, of step 3, and what its optimizer remembers" in outcome.out
    )
    assert "without a state" not in outcome.out
    trainer = Trainer(
        open_model(made / "day1").config,
        optimizer=RowwiseAdagrad(),
        schedule=WarmupPolynomialDecay(0.05),
        batch_size=20,
        threads=1,
    )
    trainer.load_weights(made / CHECKPOINT, optimizer_state=True)
    trainer.fit(CriteoFiles(made / "day_2", hash_rows=50))
    trainer.save(tmp_path / "library")
    assert weights(tmp_path / "day2") == weights(tmp_path / "library")
    assert go_on(capsys, made, tmp_path / "without", model=CHECKPOINT).code == 0
    assert weights(tmp_path / "without") != weights(tmp_path / "day2")
    assert read_config_file(tmp_path / "day2" / "config.toml")["init-state"] is True


def test_the_optimizer_of_the_checkpoint_is_taken_and_no_other(made, tmp_path, capsys):
    options = ["--optimizer=adagrad", "--eps=0.01", "--checkpoint-every=3", "--output", tmp_path / "adagrad"]
    assert run_here(capsys, "train", made / "day_1", *TINY_MODEL, *HOW, *options).code == 0
    where = ["--init-from", tmp_path / "adagrad" / "checkpoints" / "step-00000005", "--init-state"]
    assert run_here(capsys, "train", made / "day_2", *HOW, *where, "--output", tmp_path / "day2").code == 0
    sgd = run_here(capsys, "train", made / "day_2", *HOW, "--init-from", where[1], "--optimizer=sgd")
    assert "without a state" not in sgd.out
    kept = read_config_file(tmp_path / "day2" / "config.toml")
    assert (kept["optimizer"], kept["eps"]) == ("adagrad", 0.01)
    for option, message in {
        "--optimizer=sgd": "--optimizer is sgd, but the model {} was made with adagrad",
        "--eps=0.1": "--eps is 0.1, but the model {} was made with 0.01",
    }.items():
        outcome = run_here(capsys, "train", made / "day_2", *HOW, *where, option)
        expected = message.format(where[1]) + "; leave the option out, or begin without --init-from"
        assert check_one_error_line(outcome) == expected


def test_a_model_without_a_state_names_the_checkpoint_that_has_one(made, tmp_path, capsys):
    outcome = go_on(capsys, made, tmp_path / "day2", "--init-state")
    assert check_one_error_line(outcome) == (
        f"--init-state: {made / 'day1'} is a model, which has no state of its optimizer; name a checkpoint with "
        f"--init-from, such as {made / 'day1/checkpoints/step-00000005'}"
    )
    shutil.copytree(made / "day1", tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints"))
    outcome = go_on(capsys, tmp_path, None, "--init-state", model="model")
    assert check_one_error_line(outcome).endswith("name a checkpoint with --init-from")
    assert files_in(tmp_path / "day2") == []


def test_a_state_without_a_model_is_told(made, capsys):
    outcome = run_here(capsys, "train", made / "day_2", *TINY_MODEL, *HOW, "--init-state")
    assert outcome.code == 0, outcome
    assert "without effect: --init-state (needs --init-from)" in outcome.out


SALES = ["--label=clicked", "--dense-columns=price", "--category-columns=user,item"]


def write_sales(path, users, items):
    """Sales of users and items, each pair once."""
    pairs = [(user, item) for user in users for item in items]
    columns = {
        "clicked": [int((user + item) % 3 == 0) for user, item in pairs],
        "price": [float(item % 7) for _, item in pairs],
        "user": [f"u{user}" for user, _ in pairs],
        "item": [item for _, item in pairs],
    }
    pq.write_table(pa.table(columns), path)


def test_the_next_day_has_new_values_and_the_model_goes_on(tmp_path, capsys):
    """Day by day: prepare with what has grown, train on from the checkpoint, evaluate."""
    days = {"one": (range(10), range(8)), "two": (range(5, 14), range(4, 15)), "three": (range(12, 16), range(20))}
    model, before, ids = (
        [*HOW, "--dimension=4", "--bottom-mlp=8-4", "--top-mlp=8-1", "--checkpoint-every=100"],
        None,
        [],
    )
    for day, (users, items) in days.items():
        write_sales(tmp_path / f"{day}.parquet", users, items)
        data, run = tmp_path / "data" / day, tmp_path / "runs" / day
        grown = [] if before is None else ["--vocabulary", tmp_path / "data" / before, "--grow"]
        columns = SALES if before is None else []
        outcome = run_here(capsys, "prepare", tmp_path / f"{day}.parquet", *columns, *grown, "--output", data)
        assert outcome.code == 0, outcome
        begins = model
        if before is not None:
            (checkpoint,) = (tmp_path / "runs" / before / "checkpoints").iterdir()
            begins = [*HOW, "--init-from", checkpoint, "--init-state", "--checkpoint-every=100"]
            # Nothing else than growing: the model does not know what else is in the data, nor does it guess.
            refused = run_here(capsys, "evaluate", tmp_path / "runs" / before, data)
            assert "the vocabularies have grown since the model was trained: table 1 of 2" in check_one_error_line(
                refused
            )
        outcome = run_here(capsys, "train", data, *begins, "--valid=0.1", "--output", run)
        assert outcome.code == 0, outcome
        ids.append(PreparedData(data).table_rows)
        if before is not None:
            more = sum(ids[-1]) - sum(ids[-2])
            assert f"the tables have {more} rows more than there, {sum(ids[-1])} in all" in outcome.out
            assert ids[-1] > ids[-2]
        assert run_here(capsys, "evaluate", run, data).code == 0
        before = day
    # From the first day to the third, past the second.
    past = ["--init-from", tmp_path / "runs" / "one", "--output", tmp_path / "runs" / "past"]
    assert run_here(capsys, "train", tmp_path / "data" / "three", *HOW, *past).code == 0
    first, now = (open_model(tmp_path / "runs" / run).config.table_rows for run in ("one", "past"))
    assert (first, now) == (ids[0], ids[2])
    # Not back again.
    back = run_here(capsys, "train", tmp_path / "data" / "one", *HOW, "--init-from", tmp_path / "runs" / "three")
    assert "other vocabularies" in check_one_error_line(back)
