"""`cupyrec train` from files to a saved model."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import check_one_error_line, run_here, run_process
from criteo_lines import TINY_MODEL, files_in, learnable_text, with_cell, write_learnable

from cupyrec.option_values import option_name
from cupyrec.run_config import RunConfig, read_config_file
from cupyrec.training.trained_model import load_model

WEIGHTS = "model.safetensors"
# One batch in flight: the steps of a run can be told from its number of rows.
SMALL = [*TINY_MODEL, "--batch-size=32", "--threads=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_learnable(tmp_path_factory.mktemp("data") / "train.tsv", 640)


def metrics_lines(folder):
    content = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert content.endswith("\n")
    return [json.loads(line) for line in content.splitlines()]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """One run in a process of its own, looked at by several tests."""
    folder = tmp_path_factory.mktemp("runs") / "deep" / "run"
    arguments = ["--valid=0.2", "--eval-every=8", "--log-every=6", "--epochs=3", "--learning-rate=0.05"]
    return run_process("train", data, "--output", folder, *SMALL, *arguments), folder


def test_says_what_it_does_in_plain_lines(trained, data):
    outcome, folder = trained
    assert outcome.code == 0, outcome
    for stream in (outcome.out, outcome.err):
        assert not re.search(r"[\r\x1b\b]", stream)
    lines = outcome.out.splitlines()
    # The plan comes before what says that memory was taken.
    heads = [
        "memory plan:",
        f"training on the first 512 lines of {data}, validating on the last 128",
        "system resident",
        "trained 48 steps, 1,536 samples",
        "final (step 48):",
    ]
    found = [next(i for i, line in enumerate(lines) if line.startswith(head)) for head in heads]
    assert found == sorted(found)
    assert any(line.split()[:3] == ["embedding", "tables", "(1,300"] for line in lines)
    assert any(line.startswith("best (step ") or line.startswith("the final figures are the best") for line in lines)
    assert lines[-1] == f"saved in {folder}"
    assert "step 8: AUC " in outcome.err
    assert "step 48  100% done  loss " in outcome.err


def test_writes_whole_json_lines_of_training_evaluation_and_end(trained):
    records = metrics_lines(trained[1])
    assert [(record["kind"], record.get("step")) for record in records] == [
        ("train", 6),
        ("evaluation", 8),
        ("train", 12),
        ("evaluation", 16),
        ("train", 18),
        ("train", 24),
        ("evaluation", 24),
        ("train", 30),
        ("evaluation", 32),
        ("train", 36),
        ("evaluation", 40),
        ("train", 42),
        ("train", 48),
        ("evaluation", 48),
        ("end", None),
    ]
    train_lines = [record for record in records if record["kind"] == "train"]
    assert [line["samples"] for line in train_lines] == [32 * step for step in (6, 12, 18, 24, 30, 36, 42, 48)]
    assert all(line["samples_per_s"] > 0 and line["learning_rate"] == 0.05 for line in train_lines)
    end = records[-1]
    assert (end["steps"], end["samples"], end["interrupted"]) == (48, 1536, False)
    last = next(record for record in reversed(records) if record["kind"] == "evaluation")
    assert end["final"] == {name: value for name, value in last.items() if name != "kind"}
    assert end["best"]["auc"] == max(record["auc"] for record in records if record["kind"] == "evaluation")


def test_learns_what_can_be_learned(trained):
    records = metrics_lines(trained[1])
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    assert records[-1]["final"]["auc"] > 0.95


def test_describes_the_model(trained):
    folder = trained[1]
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert description["model"]["table_rows"] == [50] * 26
    assert (description["model"]["bottom"], description["model"]["top"]) == ([8, 4], [8, 1])
    assert description["steps"] == 48
    assert description["training"]["final"] == metrics_lines(folder)[-1]["final"]
    assert files_in(folder) == ["config.toml", "metrics.jsonl", "model.json", WEIGHTS]


def test_evaluate_finds_what_training_found(trained, data, tmp_path, capsys):
    tail = tmp_path / "tail.tsv"
    tail.write_text("".join(data.read_text().splitlines(keepends=True)[-128:]))
    outcome = run_here(capsys, "evaluate", trained[1], tail, "--batch-size=32", "--threads=1", "--json")
    assert outcome.code == 0, outcome
    final = metrics_lines(trained[1])[-1]["final"]
    assert {"step": 48, **json.loads(outcome.out)} == final


def test_the_saved_configuration_gives_the_same_weights_again(trained, tmp_path, capsys):
    folder = trained[1]
    outcome = run_here(capsys, "train", "--config", folder / "config.toml", "--output", tmp_path / "again")
    assert outcome.code == 0, outcome
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    first, second = (read_config_file(each / "config.toml") for each in (folder, tmp_path / "again"))
    assert second == first | {"output": str(tmp_path / "again")}


def test_a_saved_configuration_with_bad_rows_is_used_again_in_another_folder(tmp_path, capsys, monkeypatch):
    """The file of the bad rows is the first run's, as its output is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spoilt.tsv").write_text(with_cell(learnable_text(40), 5, 3, "1.5"))
    arguments = ["spoilt.tsv", *SMALL, "--on-bad-row=skip", "--bad-rows=bad.tsv"]
    assert run_here(capsys, "train", *arguments, "--output=one").code == 0
    first = (tmp_path / "bad.tsv").read_bytes()
    (tmp_path / "bad.tsv").write_bytes(b"kept\n")
    outcome = run_here(capsys, "train", "--config=one/config.toml", "--output=two")
    assert outcome.code == 0, outcome
    assert (tmp_path / "bad.tsv").read_bytes() == b"kept\n"
    assert (tmp_path / "two" / "bad_rows.tsv").read_bytes() == first
    # Without another folder it is the file's as well.
    message = check_one_error_line(run_here(capsys, "train", "--config=one/config.toml"))
    assert message.startswith("one: holds an earlier run")
    assert run_here(capsys, "train", "--config=one/config.toml", "--output=one", "--overwrite").code == 0
    assert (tmp_path / "bad.tsv").read_bytes() == first


@pytest.mark.parametrize("options", [["--output=run"], ["--output=run", "--bad-rows=bad.tsv"], []])
def test_data_of_bad_rows_alone_leave_nothing_that_hinders_the_second_attempt(tmp_path, capsys, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad_only.tsv").write_text("1\n2\n")
    for _ in range(2):
        outcome = run_here(capsys, "train", "bad_only.tsv", *SMALL, "--on-bad-row=skip", *options)
        assert check_one_error_line_at_the_end(outcome) == (
            "bad_only.tsv: no row of Criteo data in 2 lines (the first: expected 40 columns separated by "
            "tabs and found 1); is this the right file?"
        )
        assert files_in(tmp_path) == ["bad_only.tsv"]


def test_a_run_that_diverges_at_once_leaves_no_bad_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spoilt.tsv").write_text(with_cell(learnable_text(40), 5, 3, "1.5"))
    arguments = [*SMALL, "--on-bad-row=skip", "--output=run", "--optimizer=sgd", "--learning-rate=1e38"]
    assert run_here(capsys, "train", "spoilt.tsv", *arguments).code == 2
    assert files_in(tmp_path) == ["spoilt.tsv"]


def check_one_error_line_at_the_end(outcome):
    assert outcome.code == 2
    return outcome.err.splitlines()[-1].removeprefix("cupyrec: error: ")


def test_another_seed_gives_other_weights(data, tmp_path, capsys):
    weights = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        arguments = [*SMALL, "--max-steps=4", f"--seed={seed}", "--output", tmp_path / name]
        assert run_here(capsys, "train", data, *arguments).code == 0
        weights.append((tmp_path / name / WEIGHTS).read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_the_command_line_wins_over_the_file(data, tmp_path, capsys):
    output = tmp_path / "run"
    file = tmp_path / "run.toml"
    file.write_text(
        f'paths = ["{tmp_path}/none"]\noutput = "{output}"\noverwrite = true\nself_interaction = true\n'
        'max-steps = 9\nbatch-size = 32\nbottom-mlp = "8-4"\ndimension = 4\ntop-mlp = [8, 1]\nhash-rows = 50\n'
    )
    arguments = ["--config", file, "--max-steps=2", "--no-self-interaction", "--threads=1"]
    for _ in range(2):  # overwrite = true lets the second replace the first
        assert run_here(capsys, "train", data, *arguments).code == 0
    resolved = read_config_file(output / "config.toml")
    assert (resolved["max-steps"], resolved["self-interaction"], resolved["paths"]) == (2, False, [str(data)])
    assert resolved["hash-rows"] == [50]
    assert load_model(output).description["steps"] == 2
    outcome = run_here(capsys, "train", data, *arguments, "--no-overwrite")
    assert outcome.code == 2
    assert "holds an earlier run" in outcome.err


def test_the_file_takes_every_option(data, tmp_path, capsys):
    """Each option is set in the file to something that is not its default, and comes out in config.toml."""
    values = {
        "paths": [str(data)],
        "valid": ["0.25"],
        "output": str(tmp_path / "run"),
        "overwrite": True,
        "hash-rows": [20 + table for table in range(26)],
        "on-bad-row": "skip",
        "bad-rows": str(tmp_path / "bad.tsv"),
        "batch-size": 40,
        "epochs": 2,
        "max-steps": 15,
        "dimension": 3,
        "bottom-mlp": [5, 3],
        "top-mlp": [6, 1],
        "pooling": "mean",
        "self-interaction": True,
        "optimizer": "adagrad",
        "learning-rate": 0.015,
        "eps": 1e-6,
        "warmup-steps": 3,
        "decay-start-step": 5,
        "decay-steps": 6,
        "decay-power": 1.5,
        "end-learning-rate": 0.001,
        "eval-every": 4,
        "save": "best",
        "patience": 7,
        "log-every": 2,
        "checkpoint-every": 6,
        "keep": 3,
        "system": "scratchpipe",
        "scratchpad": "1100",
        "replacement": "lfu",
        "row-counts": str(tmp_path / "counts.npy"),
        "trace": str(tmp_path / "trace.json"),
        "exchange": "staged",
        "host-memory": "managed",
        "device": "cpu",
        "precision": "fp32",
        "cuda-graphs": False,
        "threads": 1,
        "seed": 77,
    }
    defaults = {option_name(each.name): each.default for each in dataclasses.fields(RunConfig)}
    # The look-ahead goes with one replacement alone, which is the default; raw files are not shuffled; a model to begin
    # with has test_init_from.py.
    elsewhere = {"lookahead", "shuffle", "shuffle-window", "resume", "resume-step", "init-from", "init-state"}
    left = {"shuffle": False, "shuffle-window": 2**18, "resume": False, "init-state": False}
    assert values.keys() | elsewhere == defaults.keys()
    np.save(tmp_path / "counts.npy", np.arange(sum(values["hash-rows"])))
    # The CPU has one precision alone, which is the default.
    assert [name for name, value in values.items() if value == defaults[name]] == ["precision"]
    file = tmp_path / "all.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    outcome = run_here(capsys, "train", "--config", file)
    assert outcome.code == 0, outcome
    del values["trace"]  # so that the file can be used again
    values["overwrite"] = False  # and replaces nothing that nobody spoke of
    assert read_config_file(tmp_path / "run" / "config.toml") == values | left
    rates = [line["learning_rate"] for line in metrics_lines(tmp_path / "run") if line["kind"] == "train"]
    assert rates[0] == pytest.approx(0.01)  # the second of three steps of warm-up
    assert rates[-1] == pytest.approx(0.001)  # the decay has ended


def test_without_an_output_folder_nothing_is_written(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run_here(capsys, "train", data, *SMALL, "--max-steps=2")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "not saved: no --output was given"
    assert "no validation data" in outcome.out
    assert files_in(tmp_path) == []


def test_a_short_run_has_its_line_of_training(data, tmp_path, capsys):
    assert run_here(capsys, "train", data, *SMALL, "--max-steps=3", "--output", tmp_path / "run").code == 0
    assert [(line["kind"], line.get("step")) for line in metrics_lines(tmp_path / "run")] == [
        ("train", 3),
        ("end", None),
    ]


def test_bad_rows_are_skipped_counted_and_kept(tmp_path, capsys):
    text = learnable_text(100)
    spoilt = with_cell(with_cell(text, 10, 1, "2"), 60, 20, "xyz")
    train, valid, output = tmp_path / "train.tsv", tmp_path / "valid.tsv", tmp_path / "run"
    train.write_text(spoilt)
    valid.write_text(with_cell(learnable_text(40, first=100), 5, 3, "1.5"))
    arguments = [*SMALL, "--valid", valid, "--on-bad-row=skip", "--epochs=2", "--output", output]
    outcome = run_here(capsys, "train", train, *arguments)
    assert outcome.code == 0, outcome
    assert f"skipped 2 bad rows, written to {output / 'bad_rows.tsv'}" in outcome.out
    assert f"skipped 1 bad row, written to {output / 'bad_rows_valid.tsv'}" in outcome.out
    kept = [line.split("\t") for line in (output / "bad_rows.tsv").read_text().splitlines()]
    assert [cells[:2] for cells in kept] == [[str(train), "10"], [str(train), "60"]]
    assert ["\t".join(cells[3:]) for cells in kept] == [spoilt.splitlines()[9], spoilt.splitlines()[59]]
    assert metrics_lines(output)[-1]["samples"] == 2 * 98
    assert metrics_lines(output)[-1]["final"]["samples"] == 39
    # The good rows train as if the bad ones had never been there.
    good = tmp_path / "good.tsv"
    good.write_text("".join(line for i, line in enumerate(text.splitlines(keepends=True), 1) if i not in (10, 60)))
    arguments = [*SMALL, "--epochs=2", "--output", tmp_path / "good"]
    assert run_here(capsys, "train", good, *arguments).code == 0
    assert (tmp_path / "good" / WEIGHTS).read_bytes() == (output / WEIGHTS).read_bytes()


@pytest.mark.parametrize("system", [("resident",), ("scratchpipe", "--scratchpad=90%")], ids=lambda each: each[0])
def test_ctrl_c_stops_after_the_step_and_saves_the_model(data, tmp_path, system):
    """In a process of its own, which would train for hours."""
    output = tmp_path / "run"
    arguments = [*SMALL, "--epochs=1000000", "--log-every=1", "--valid=0.1", "--output", output, "--system", *system]
    process = subprocess.Popen(
        [sys.executable, "-m", "cupyrec", "train", data, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        # The first line of metrics.jsonl: a step is trained, and the handler has been there since before it.
        deadline = time.monotonic() + 300  # with kernels to compile
        while not (output / "metrics.jsonl").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in out + err
    assert re.search(r"^interrupted after [\d,]+ steps", out, re.MULTILINE)
    assert out.splitlines()[-1] == f"saved in {output}"
    end = metrics_lines(output)[-1]
    assert (end["kind"], end["interrupted"]) == ("end", True)
    assert load_model(output).description["steps"] == end["steps"] > 0


needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which is always full")


def train_writing_to(output, data, *, stdout=subprocess.PIPE, stderr=subprocess.PIPE):
    """Train in a process of its own; its exit code and what it left in the pipes."""
    command = [
        sys.executable,
        "-m",
        "cupyrec",
        "train",
        data,
        *SMALL,
        "--valid=0.2",
        "--eval-every=8",
        "--output",
        output,
    ]
    ended = subprocess.run(command, stdout=stdout, stderr=stderr, encoding="utf-8", timeout=300, check=False)
    return ended.returncode, ended.stdout, ended.stderr


@needs_full
def test_standard_output_that_is_full_is_told_before_training(data, tmp_path):
    with open("/dev/full", "w") as full:
        code, _, err = train_writing_to(tmp_path / "run", data, stdout=full)
    message = "cupyrec: error: standard output: cannot be written: No space left on device\n"
    assert (code, err) == (2, message)
    assert files_in(tmp_path) == []


def test_a_reader_that_went_away_ends_the_run_quietly(data, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    code, _, err = train_writing_to(tmp_path / "run", data, stdout=writer)
    os.close(writer)
    assert (code, err) == (1, "")
    assert files_in(tmp_path) == []


@needs_full
def test_standard_error_that_is_full_loses_no_step(data, tmp_path):
    with open("/dev/full", "w") as full:
        code, out, _ = train_writing_to(tmp_path / "run", data, stderr=full)
    assert (code, "Traceback" in out) == (2, False)
    assert load_model(tmp_path / "run").description["steps"] == 8


def test_standard_output_that_fails_after_training_loses_no_model(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cupyrec.cli.train.describe_run", lambda report: (_ for _ in ()).throw(OSError(28, "full")))
    outcome = run_here(capsys, "train", data, *SMALL, "--output", tmp_path / "run")
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1] == "cupyrec: error: full"
    assert load_model(tmp_path / "run").description["steps"] == 20


def test_the_configuration_file_is_not_overwritten_with_bad_rows(data, tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text('on-bad-row = "skip"\noverwrite = true\n')
    outcome = run_here(capsys, "train", data, "--config", file, "--bad-rows", file, *SMALL)
    assert outcome.code == 2
    assert f"would overwrite the input file {file}" in outcome.err
