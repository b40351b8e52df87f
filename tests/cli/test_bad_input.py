"""What a user can get wrong ends in exit code 2 and one line that says what, where and what to do."""

import gzip
import json
import os

import numpy as np
import pytest
from commands import check_one_error_line, run_here, run_process
from criteo_lines import TINY_MODEL, files_in, learnable_text, with_cell, write_learnable

from cupyrec.devices.cpu import CpuDevice
from cupyrec.training.trained_model import load_model

SMALL = [*TINY_MODEL, "--batch-size=32", "--threads=1"]


@pytest.fixture
def data(tmp_path):
    return write_learnable(tmp_path / "data.tsv", 100)


@pytest.fixture
def failing(tmp_path, capsys, monkeypatch):
    """Run `cupyrec train` in tmp_path with an output folder, expect an error, and find nothing left behind."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        before = files_in(tmp_path)
        message = check_one_error_line(run_here(capsys, "train", "--output=runs/new", *arguments))
        assert files_in(tmp_path) == before
        return message

    return run


# What a file holds, and what the message must say of it.
BAD_FILES = {
    "too few columns": ("\t".join(["0"] * 39) + "\n", ["line 1", "40", "39"]),
    "too many columns": (learnable_text(2) + "\t".join(["0"] * 41) + "\n", ["line 3", "40", "41"]),
    "comma separated": (learnable_text(3).replace("\t", ","), ["line 1", "columns"]),
    "no integer": (with_cell(learnable_text(9), 4, 3, "1.5"), ["line 4, column 3", "'1.5'"]),
    "no hexadecimal": (with_cell(learnable_text(9), 9, 40, "wxyz"), ["line 9, column 40", "'wxyz'"]),
    "a label of 2": (with_cell(learnable_text(9), 2, 1, "2"), ["line 2, column 1", "'2'"]),
    "empty": ("", ["empty"]),
    "blank lines alone": ("\n\n\n", ["empty"]),
    "a blank line": (learnable_text(2) + "\n" + learnable_text(1), ["line 3", "found an empty line"]),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_rows_are_named_by_file_line_and_column(failing, tmp_path, what):
    content, parts = BAD_FILES[what]
    (tmp_path / "bad.tsv").write_text(content)
    message = failing("bad.tsv", *SMALL)
    for part in ["bad.tsv", *parts]:
        assert part in message


def test_binary_garbage(failing, tmp_path):
    (tmp_path / "bad.tsv").write_bytes(np.random.default_rng(1).bytes(100_000))
    assert "bad.tsv, line 1" in failing("bad.tsv", *SMALL)
    (tmp_path / "long.tsv").write_bytes(b"\xff" * 3_000_000)
    assert "long.tsv, line 1" in failing("long.tsv", *SMALL)


def test_a_truncated_compressed_file(failing, tmp_path):
    whole = gzip.compress(learnable_text(200).encode(), mtime=0)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    assert "cut.gz" in failing("cut.gz", *SMALL)
    (tmp_path / "text.gz").write_text(learnable_text(5))
    assert "text.gz" in failing("text.gz", *SMALL)


def test_files_that_are_not_there(failing, tmp_path, data):
    (tmp_path / "empty_folder").mkdir()
    assert failing("none.tsv", *SMALL) == "none.tsv: no such file"
    assert "empty_folder" in failing("empty_folder", *SMALL)
    assert "day_*" in failing("day_*", *SMALL)
    assert "none_valid.tsv" in failing("data.tsv", "--valid=none_valid.tsv", *SMALL)
    assert "valid_*" in failing("data.tsv", "--valid=valid_*", *SMALL)
    assert "twice" in failing("data.tsv", "data.tsv", *SMALL)


def test_no_paths_is_an_error_and_never_invented_data(failing):
    assert failing(*SMALL).startswith("no training data")


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.1", "nan", "0.001"])
def test_a_share_that_leaves_a_part_empty(failing, data, share):
    message = failing("data.tsv", "--valid", share, *SMALL)
    assert "share" in message
    assert share in message
    assert share == "0.001" or message.endswith("; leave it out for no validation")


def test_tables_that_do_not_fit_are_refused_before_anything_is_allocated(failing, data, monkeypatch):
    monkeypatch.setattr(CpuDevice, "zeros", lambda *_: pytest.fail("allocated"))
    message = failing("data.tsv", *SMALL, "--hash-rows=1e12")
    for part in ("416 TB", "available", "--hash-rows", "--dimension"):
        assert part in message
    assert "available" in failing("data.tsv", *SMALL, "--batch-size=1e15")


def test_the_memory_is_checked_before_the_lines_are_counted(failing, tmp_path, data):
    whole = gzip.compress(learnable_text(200).encode(), mtime=0)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    assert "available" in failing("cut.gz", "--valid=0.1", "--hash-rows=1e12")


# The line in the file, and what the message must say.
BAD_TOML = {
    "an unknown key": ("batch-sise = 3", ["batch-sise", "did you mean 'batch-size'"]),
    "a text for a number": ('epochs = "many"', ["epochs", "whole number", "'many'"]),
    "a fraction for a whole number": ("batch-size = 1.5", ["batch-size", "whole number", "1.5"]),
    "a boolean for a number": ("threads = true", ["threads", "True"]),
    "a number for a boolean": ("overwrite = 1", ["overwrite", "true or false"]),
    "a table": ("[optimizer]\nname = 'sgd'", ["optimizer", "sgd or adagrad or rowwise-adagrad"]),
    "a list of the wrong length": ("hash-rows = [1, 2]", ["hash-rows", "26"]),
    "a bottom MLP that ends elsewhere": ("dimension = 4\nbottom-mlp = [8, 5]", ["bottom MLP", "4", "8-5"]),
    "no TOML": ("epochs = = 3", ["not a TOML file"]),
    "brackets": ("x = " + "[" * 5000, ["not a TOML file"]),
}


@pytest.mark.parametrize("what", BAD_TOML)
def test_a_bad_configuration_file(failing, tmp_path, data, what):
    content, parts = BAD_TOML[what]
    (tmp_path / "run.toml").write_text(content + "\n")
    message = failing("data.tsv", "--config=run.toml")
    for part in parts:
        assert part in message


def test_a_configuration_file_that_cannot_be_read(failing, tmp_path, data):
    assert failing("data.tsv", "--config=none.toml").startswith("none.toml: cannot be read")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert failing("data.tsv", "--config=binary.toml").startswith("binary.toml: not a TOML file")
    assert failing("data.tsv", "--config=.").startswith(".: cannot be read")


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("--epochs=0", ["epochs", "at least 1"]),
        ("--batch-size=x", ["batch-size", "'x'"]),
        ("--learning-rate=-1", ["learning-rate", "above 0"]),
        ("--learning-rate=inf", ["learning-rate", "number"]),
        ("--pooling=max", ["pooling", "sum or mean"]),
        ("--device=tpu", ["device", "auto or cpu"]),
        ("--top-mlp=8-2", ["top MLP", "end in 1"]),
        ("--hash-rows=0", ["hash-rows", "at least 1"]),
    ],
)
def test_a_bad_value_on_the_command_line(failing, data, option, parts):
    message = failing("data.tsv", *SMALL, option)
    for part in parts:
        assert part in message


def test_an_output_that_cannot_be_written(tmp_path, data, capsys):
    before = files_in(tmp_path)
    for output in (data, data / "below" / "it"):
        message = check_one_error_line(run_here(capsys, "train", data, *SMALL, "--output", output))
        assert message.startswith(f"{output}: cannot be written")
    long = tmp_path / ("x" * 300)
    assert "cannot be written" in check_one_error_line(run_here(capsys, "train", data, *SMALL, "--output", long))
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("option", ["output", "bad-rows", "row-counts", "trace"])
def test_an_empty_name_is_no_file_and_no_folder(failing, data, option):
    assert failing("data.tsv", *SMALL, f"--{option}=").startswith(f"{option} must be a text that is not empty")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--decay-steps=5", "--decay-start-step=1", "--warmup-steps=3"], "the decay would begin at step 1"),
        (["--system=static", "--row-counts=none.npy"], "none.npy: cannot be read"),
        (["--system=static", "--row-counts=data.tsv"], "data.tsv: not a file of row counts"),
        (["--trace=/proc/trace.json"], "/proc/trace.json: the trace cannot be written"),
        (["--lookahead=1"], "lookahead must be"),
    ],
)
def test_wrong_options_are_told_before_the_lines_are_counted(failing, data, monkeypatch, options, message):
    monkeypatch.setattr("cupyrec.datasets.criteo.CriteoFiles.count_lines", lambda *_: pytest.fail("counted"))
    assert failing("data.tsv", *SMALL, "--valid=0.2", *options).startswith(message)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_folder(tmp_path, data, capsys):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    for output in (locked, locked / "below"):
        message = check_one_error_line(run_here(capsys, "train", data, *SMALL, "--output", output))
        assert message.startswith(f"{output}: cannot be written: Permission denied")


def test_an_output_that_holds_a_run(tmp_path, data, capsys):
    arguments = ["train", data, *SMALL, "--max-steps=1", "--output", tmp_path / "run"]
    assert run_here(capsys, *arguments).code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    message = check_one_error_line(run_here(capsys, *arguments))
    assert "holds an earlier run" in message
    assert "--overwrite" in message
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert run_here(capsys, *arguments, "--overwrite", "--seed=9").code == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() != before[tmp_path / "run" / "model.safetensors"]


def test_bad_rows_that_would_replace_the_input(failing, data):
    assert "data.tsv" in failing("data.tsv", *SMALL, "--on-bad-row=skip", "--bad-rows=data.tsv")


def test_nothing_but_bad_rows_is_an_error_even_where_they_are_skipped(tmp_path, capsys):
    (tmp_path / "other.tsv").write_text("a\tb\nc\td\n")
    arguments = [*SMALL, "--on-bad-row=skip", "--output", tmp_path / "run"]
    message = check_one_error_line(run_here(capsys, "train", tmp_path / "other.tsv", *arguments))
    assert message.startswith(f"{tmp_path / 'other.tsv'}: no row of Criteo data in 2 lines")
    assert "the first: expected 40 columns separated by tabs and found 2" in message
    # A file of all rows would stand in the way of the next attempt, as would the folder.
    assert files_in(tmp_path) == ["other.tsv"]


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing(tmp_path, data, capsys):
    arguments = [*SMALL, "--optimizer=sgd", "--learning-rate=1e30", "--output", tmp_path / "run"]
    outcome = run_here(capsys, "train", data, *arguments)
    assert outcome.code == 2
    *progress, error = outcome.err.splitlines()
    assert error.startswith("cupyrec: error: the loss is ")
    for part in ("at step 2 ", "learning rate 1e+30", "too high", "--warmup-steps"):
        assert part in error
    assert all(line.startswith("step 1 ") for line in progress)
    assert files_in(tmp_path) == ["data.tsv"]


def test_a_run_that_diverges_late_leaves_its_metrics_and_no_model(tmp_path, data, capsys):
    arguments = [*SMALL, "--optimizer=sgd", "--learning-rate=1e30", "--log-every=1", "--output", tmp_path / "run"]
    assert run_here(capsys, "train", data, *arguments).code == 2
    assert files_in(tmp_path) == ["data.tsv", "run", "run/config.toml", "run/metrics.jsonl"]


def test_predictions_that_are_not_finite_stop_the_run_too(tmp_path, data, capsys):
    arguments = [*SMALL, "--optimizer=sgd", "--learning-rate=1e30", "--max-steps=1", "--valid=0.1"]
    outcome = run_here(capsys, "train", data, *arguments, "--output", tmp_path / "run")
    assert outcome.code == 2
    assert "learning rate" in outcome.err.splitlines()[-1]
    assert files_in(tmp_path) == ["data.tsv"]


def spoilt_late(tmp_path):
    """2,000 good rows in chunks that are small enough, then a bad one."""
    path = tmp_path / "late.tsv"
    path.write_text(with_cell(learnable_text(2000), 1990, 16, "xyz"))
    return path


def test_a_bad_row_late_in_the_data_loses_no_step(tmp_path, capsys):
    path, output = spoilt_late(tmp_path), tmp_path / "run"
    outcome = run_here(capsys, "train", path, *SMALL, "--output", output)
    assert outcome.code == 2
    error = outcome.err.splitlines()[-1]
    assert error.startswith(f"cupyrec: error: {path}, line 1990, column 16: ")
    assert "'xyz'" in error
    assert error.endswith(f"(the 62 steps trained before are saved in {output})")
    model = load_model(output)
    assert model.description["steps"] == 62
    assert "line 1990" in model.description["training"]["stopped_by"]
    assert (output / "config.toml").exists()
    *_, train_line, end_line = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    assert (train_line["kind"], train_line["step"]) == ("train", 62)
    assert (end_line["kind"], end_line["steps"]) == ("end", 62)
    assert "line 1990" in end_line["stopped_by"]


def test_without_an_output_folder_a_late_bad_row_is_told_plainly(tmp_path, capsys):
    path = spoilt_late(tmp_path)
    outcome = run_here(capsys, "train", path, *SMALL)
    assert outcome.code == 2
    error = outcome.err.splitlines()[-1]
    assert error.startswith(f"cupyrec: error: {path}, line 1990, column 16: ")
    assert "saved" not in error
    assert files_in(tmp_path) == ["late.tsv"]


def test_a_bad_row_in_the_validation_data_loses_no_step(tmp_path, data, capsys):
    valid = tmp_path / "valid.tsv"
    valid.write_text(with_cell(learnable_text(5), 3, 1, "7"))
    outcome = run_here(capsys, "train", data, *SMALL, "--valid", valid, "--output", tmp_path / "run")
    assert outcome.code == 2
    assert f"{valid}, line 3, column 1" in outcome.err.splitlines()[-1]
    assert "4 steps trained before are saved" in outcome.err.splitlines()[-1]
    assert load_model(tmp_path / "run").description["steps"] == 4


def test_a_process_of_its_own_says_the_same(tmp_path, data):
    outcome = run_process("train", data, *SMALL, "--valid=2", cwd=tmp_path)
    assert "share" in check_one_error_line(outcome)
    assert files_in(tmp_path) == ["data.tsv"]
