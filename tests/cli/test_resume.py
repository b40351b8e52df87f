"""`cupyrec train --resume` from the command line: what it says, what it takes over, what it refuses."""

import json
import shutil

import pytest
from commands import check_one_error_line, run_here
from criteo_lines import TINY_MODEL, learnable_text

from cupyrec.folder_lock import FolderLock
from cupyrec.run_config import read_config_file

OPTIONS = [*TINY_MODEL, "--batch-size=20", "--threads=1", "--learning-rate=0.05"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data, and a run of 10 steps with checkpoints that was stopped after 7."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "day_0").write_text(learnable_text(100))
    return folder


@pytest.fixture
def run(made, tmp_path, capsys):
    """A run that was to have 10 steps and was given 7."""
    if not (made / "run").exists():
        outcome = train(
            capsys, made / "day_0", *OPTIONS, "--epochs=2", "--checkpoint-every=3", "--max-steps=7", "--output",
            made / "run",
        )  # fmt: skip
        assert outcome.code == 0, outcome
        assert train(capsys, made / "day_0", *OPTIONS, "--epochs=2", "--output", made / "whole").code == 0
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def train(capsys, *arguments):
    return run_here(capsys, "train", *arguments)


def test_the_folder_alone_is_enough(run, made, capsys):
    outcome = train(capsys, "--resume", "--output", run, "--max-steps=10")
    assert outcome.code == 0, outcome
    lines = outcome.out.splitlines()
    assert f"going on from {run / 'checkpoints' / 'step-00000007'}" in lines
    assert lines[-2:] == [f"last checkpoint: {run / 'checkpoints' / 'step-00000010'}", f"saved in {run}"]
    assert "in all: 10 steps, 200 samples" in outcome.out
    assert (run / "model.safetensors").read_bytes() == (made / "whole" / "model.safetensors").read_bytes()
    resolved, before = (read_config_file(each / "config.toml") for each in (run, made / "run"))
    assert resolved == before | {"max-steps": 10, "output": str(run)}


def test_a_file_of_options_goes_on_too(run, made, tmp_path, capsys):
    """The same file, and the same command but for --resume."""
    file = tmp_path / "run.toml"
    file.write_text(f'resume = true\noutput = "{run}"\nmax-steps = 10\n')
    assert train(capsys, "--config", file).code == 0
    assert (run / "model.safetensors").read_bytes() == (made / "whole" / "model.safetensors").read_bytes()


def test_from_an_older_one(run, made, capsys):
    outcome = train(capsys, "--resume-step=6", "--output", run, "--max-steps=10")
    assert outcome.code == 0, outcome
    assert f"going on from {run / 'checkpoints' / 'step-00000006'}" in outcome.out
    assert (run / "model.safetensors").read_bytes() == (made / "whole" / "model.safetensors").read_bytes()


def test_the_summary_says_what_was_trained_before(run, capsys):
    outcome = train(capsys, "--resume", "--output", run, "--max-steps=10")
    assert "trained 3 steps beyond the 7 of the checkpoint\nin all: 10 steps, 200 samples in " in outcome.out
    outcome = train(capsys, "--resume", "--output", run)
    assert outcome.code == 0
    assert (
        "nothing was left to train: the checkpoint is of step 10 and --max-steps is 10\nin all: 10 steps, "
        in outcome.out
    )


def test_an_option_that_leads_elsewhere(run, capsys):
    message = check_one_error_line(train(capsys, "--resume", "--output", run, "--batch-size=10"))
    assert message == (
        f"--batch-size is 10, but the checkpoint {run / 'checkpoints' / 'step-00000007'} was made with 20; "
        "go on with that, or begin another run in another --output"
    )


def test_a_share_is_the_same_however_it_is_written(made, tmp_path, capsys):
    options = [*OPTIONS, "--checkpoint-every=2", "--max-steps=2", "--valid=0.1", "--output", tmp_path / "run"]
    assert train(capsys, made / "day_0", *options).code == 0
    assert train(capsys, "--resume", "--valid=0.10", "--max-steps=3", "--output", tmp_path / "run").code == 0
    message = check_one_error_line(train(capsys, "--resume", "--valid=0.2", "--output", tmp_path / "run"))
    assert message.startswith("--valid is 0.2, but the checkpoint ")


def test_data_that_changed(run, made, tmp_path, capsys):
    (tmp_path / "day_0").write_text(learnable_text(101))
    message = check_one_error_line(train(capsys, tmp_path / "day_0", "--resume", "--output", run))
    size = (made / "day_0").stat().st_size
    assert message == f"{tmp_path / 'day_0'}: has changed since the checkpoint was made (it had {size:,} bytes)"


def test_a_damaged_one(run, capsys):
    path = run / "checkpoints" / "step-00000007" / "tables-00001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    message = check_one_error_line(train(capsys, "--resume", "--output", run))
    assert message.startswith(f"{path}: damaged: its checksum is ")
    assert message.endswith("; an older checkpoint is whole: take it with --resume-step 6")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "--resume needs the folder of the run: name it with --output"),
        (["--resume-step=4"], "--resume-step needs the folder of the run: name it with --output"),
        (["--resume-step=0"], "resume-step must be a whole number of at least 1, but is '0'"),
        (["--keep=0", "data"], "keep must be a whole number of at least 1, but is '0'"),
        (["--checkpoint-every=-1", "data"], "checkpoint-every must be a whole number of at least 0, but is '-1'"),
        (["--checkpoint-every=3", "day_0"], "--checkpoint-every needs a folder for the checkpoints: name it"),
        (["--resume", "--output=none"], "no training data: name Criteo files"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_used(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "day_0").write_text(learnable_text(3))
    assert check_one_error_line(train(capsys, *arguments)).startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["day_0"]


@pytest.mark.parametrize("how", [["--resume"], ["--overwrite"], ["--resume-step=6"], []])
def test_two_runs_on_one_folder(run, made, tmp_path, capsys, how):
    folder = run if how else tmp_path / "new"
    folder.mkdir(exist_ok=True)
    before = sorted(path.name for path in folder.rglob("*") if path.name != ".lock")
    with FolderLock(folder):
        message = check_one_error_line(train(capsys, made / "day_0", *OPTIONS, *how, "--output", folder))
    assert message == f"{folder}: another cupyrec is writing to it; wait for its end, or name another folder"
    assert sorted(path.name for path in folder.rglob("*") if path.name != ".lock") == before


def test_a_run_that_is_there_tells_how_to_go_on(run, made, capsys):
    message = check_one_error_line(train(capsys, made / "day_0", *OPTIONS, "--output", run))
    assert message.endswith("or replace it with --overwrite, or go on with it: --resume")


def test_the_records_go_on(run, capsys):
    assert train(capsys, "--resume", "--output", run, "--max-steps=10", "--log-every=5").code == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # Seven steps were trained before, of which no line was written yet.
    assert [(line["kind"], line.get("step"), line.get("samples")) for line in lines] == [
        ("train", 10, 200),
        ("end", None, 200),
    ]
    assert lines[0]["steps"] == 10


def test_the_help_tells_of_it(capsys):
    text = " ".join(run_here(capsys, "train", "--help").out.split())
    for part in (
        "--checkpoint-every STEPS Write a checkpoint to the output folder",
        "--keep N Checkpoints to keep",
        "--resume / --no-resume Go on from the last checkpoint",
        "--resume-step STEP Go on from the",
    ):
        assert part in text
