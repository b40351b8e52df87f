"""`cupyrec advise`."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import check_one_error_line, run_here
from criteo_lines import files_in, learnable_text, with_cell, write_learnable
from test_import import loaded_after

from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.embedding.row_counts import count_rows
from cupyrec.optim.registry import make_optimizer

SMALL = ["--hash-rows=50", "--batch-size=32", "--dimension=4"]
ROWS = 26 * 50


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_learnable(tmp_path / "data.tsv", 640)


def test_prints_one_screen_with_a_command_that_works(data, tmp_path, capsys):
    outcome = run_here(capsys, "advise", "data.tsv", *SMALL)
    assert outcome.code == 0, outcome
    lines = outcome.out.splitlines()
    assert len(lines) <= 24
    assert lines[0].startswith("640 samples, 20 steps; a step looks up 832 rows, ")
    assert {*outcome.err.splitlines()} <= {f"{tenth}0% done" for tenth in range(1, 11)}
    assert files_in(tmp_path) == ["data.tsv"]
    program, *arguments = shlex.split(lines[-1])
    assert program == "cupyrec"
    assert arguments[:3] == ["train", "data.tsv", "--system"]
    for option, value in (("--hash-rows", "50"), ("--batch-size", "32"), ("--dimension", "4")):
        assert arguments[arguments.index(option) + 1] == value
    # Options that it understands; training itself is not what is tested here.
    checked = run_here(capsys, *arguments, "--bottom-mlp=8-5")
    assert "bottom MLP must end in the embedding dimension" in check_one_error_line(checked)


def test_the_command_for_prepared_data_has_no_options_of_raw_files(data, capsys):
    assert run_here(capsys, "prepare", "data.tsv", "--output=prepared").code == 0
    outcome = run_here(capsys, "advise", "prepared", *SMALL, "--on-bad-row=skip")
    assert "not used with prepared data: --hash-rows, --on-bad-row" in outcome.err
    command = shlex.split(outcome.out.splitlines()[-1])
    assert command[:4] == ["cupyrec", "train", "prepared", "--system"]
    assert command[-4:] == ["--batch-size", "32", "--dimension", "4"]
    assert not {"--hash-rows", "--on-bad-row"} & {*command}
    outcome = run_here(capsys, "advise", "prepared", *SMALL, "--shuffle-window=7")
    assert "without effect: --shuffle-window (needs --shuffle)" in outcome.err


@pytest.mark.parametrize("from_file", [False, True])
def test_shuffled_data_are_read_in_the_order_of_the_first_epoch(data, capsys, from_file):
    assert run_here(capsys, "prepare", "data.tsv", "--output=prepared").code == 0
    options = ["--shuffle", "--shuffle-window=200", "--seed=5"]
    if from_file:
        Path("run.toml").write_text("shuffle = true\nshuffle-window = 200\nseed = 5\n")
        options = ["--config=run.toml"]
    found = json.loads(run_here(capsys, "advise", "prepared", *SMALL, "--json", *options).out)
    batches = list(PreparedData("prepared", shuffle=True, shuffle_window=200, seed=5).batches(32))
    unique = [len(np.unique(batch.rows)) for batch in batches]
    in_order = [len(np.unique(batch.rows)) for batch in PreparedData("prepared").batches(32)]
    assert found["unique_rows_per_step"] == np.mean(unique) != np.mean(in_order)
    asked_for = "--config run.toml --system" if from_file else "--shuffle --shuffle-window 200 --seed 5"
    assert asked_for in found["command"]


def test_the_command_says_not_to_shuffle_where_that_was_asked(data, capsys):
    assert run_here(capsys, "prepare", "data.tsv", "--output=prepared").code == 0
    Path("run.toml").write_text("shuffle = true\n")
    outcome = run_here(capsys, "advise", "prepared", *SMALL, "--config=run.toml", "--no-shuffle")
    assert outcome.out.splitlines()[-1].endswith(" --no-shuffle")


def test_raw_files_are_not_shuffled(data, capsys):
    message = check_one_error_line(run_here(capsys, "advise", "data.tsv", *SMALL, "--shuffle"))
    assert message.startswith("raw files cannot be shuffled")


def test_json_has_the_figures_and_nothing_else(data, capsys):
    outcome = run_here(capsys, "advise", "data.tsv", *SMALL, "--json", "--sizes=8, 50% ,64KiB", "--lookahead=5")
    assert outcome.code == 0, outcome
    assert outcome.out.count("\n") == 1
    found = json.loads(outcome.out)
    assert (found["samples"], found["steps"], found["rows"], found["bad_rows"]) == (640, 20, ROWS, 0)
    # 4 weights, 1 number of row-wise Adagrad, padding to 16 bytes.
    assert found["record_bytes"] == 32
    sizes = {each["scratchpad"]: each for each in found["sizes"]}
    assert (sizes["8"]["slots"], sizes["50%"]["slots"], sizes["64KiB"]["slots"]) == (8, 650, ROWS)
    assert sizes["8"]["too_small"]
    assert sizes["50%"]["lookahead"] == 5
    assert shlex.split(found["command"])[:3] == ["cupyrec", "train", "data.tsv"]
    assert "--lookahead 5" in found["command"]
    batches = list(CriteoFiles("data.tsv", hash_rows=50).batches(32))
    unique = [set(batch.rows.tolist()) for batch in batches]
    assert found["most_unique_rows"] == max(map(len, unique))
    assert found["never_bubbles_rows"] == max(len(set().union(*unique[at : at + 6])) for at in range(15))
    assert found["rows_used"] == len(set().union(*unique))


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise-adagrad"])
def test_a_row_takes_what_its_optimizer_asks_for(data, capsys, optimizer):
    found = json.loads(run_here(capsys, "advise", "data.tsv", *SMALL, "--json", f"--optimizer={optimizer}").out)
    width = 4 + make_optimizer(optimizer, eps=1.0).row_state_width(4)
    assert found["record_bytes"] == 16 * -(-width * 4 // 16)


def test_reads_no_more_steps_than_asked_for(data, capsys):
    found = json.loads(run_here(capsys, "advise", "data.tsv", *SMALL, "--json", "--max-steps=3").out)
    assert (found["steps"], found["samples"]) == (3, 96)
    assert "max-steps" not in found["command"]


def test_writes_row_counts_and_a_plot(data, tmp_path, capsys):
    arguments = ["advise", "data.tsv", *SMALL, "--row-counts=counts.npy", "--plot=curves.png"]
    outcome = run_here(capsys, *arguments)
    assert outcome.code == 0, outcome
    assert "--row-counts counts.npy" in outcome.out.splitlines()[-1]
    assert files_in(tmp_path) == ["counts.npy", "curves.png", "data.tsv"]
    expected = count_rows(CriteoFiles("data.tsv", hash_rows=50).batches(100), ROWS)
    assert np.load("counts.npy").tolist() == expected.tolist()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    for file in ("counts.npy", "curves.png"):
        (tmp_path / file).write_text("old")
        assert f"{file}: exists" in check_one_error_line(run_here(capsys, *arguments))
        (tmp_path / file).rename(tmp_path / "kept")
        (tmp_path / "curves.png").unlink(missing_ok=True)
    assert run_here(capsys, *arguments, "--overwrite").code == 0


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_what_was_found_is_told_though_counts_cannot_be_written(data, capsys, monkeypatch, as_json):
    told = run_here(capsys, "advise", "data.tsv", *SMALL, *as_json).out
    monkeypatch.setattr(os, "fsync", lambda _: raise_no_room())
    outcome = run_here(capsys, "advise", "data.tsv", *SMALL, *as_json, "--row-counts=counts.npy")
    assert "counts.npy: cannot be written: No space left on device" in outcome.err
    assert outcome.code == 2
    assert outcome.out[:500] == told[:500]
    assert files_in(data.parent) == ["data.tsv"]


def raise_no_room():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_without_matplotlib_a_plot_is_refused_before_anything_is_read(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(CriteoFiles, "batches", None)
    message = check_one_error_line(run_here(capsys, "advise", "data.tsv", *SMALL, "--plot=curves.png"))
    assert "needs matplotlib" in message
    assert message.endswith("; without --plot the figures are printed all the same")
    assert files_in(tmp_path) == ["data.tsv"]


def test_bad_rows_stop_it_or_are_skipped(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spoilt.tsv").write_text(with_cell(learnable_text(40), 7, 5, "many"))
    arguments = ["advise", "spoilt.tsv", *SMALL, "--row-counts=counts.npy"]
    message = check_one_error_line(run_here(capsys, *arguments))
    assert message.startswith("spoilt.tsv, line 7, column 5: ")
    assert files_in(tmp_path) == ["spoilt.tsv"]
    outcome = run_here(capsys, *arguments, "--on-bad-row=skip", "--bad-rows=bad.tsv")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "skipped 1 bad row, written to bad.tsv"
    assert "--on-bad-row skip" in outcome.out.splitlines()[-2]
    assert (tmp_path / "bad.tsv").read_text().startswith("spoilt.tsv\t7\t")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["data.tsv", "--sizes=10%,many"], ["'many'", "10%"]),
        (["data.tsv", "--sizes="], ["''", "scratchpad"]),
        (["data.tsv", "--sizes=0%"], ["0%"]),
        (["data.tsv", "--sizes=1%,1B"], ["1B", "holds no row"]),
        (["data.tsv", "--batch-size=0"], ["batch-size", "at least 1"]),
        (["data.tsv", "--batch-size=1e15"], ["batch-size", "at most"]),
        (["data.tsv", "--optimizer=adam"], ["optimizer", "sgd"]),
        (["data.tsv", "--hash-rows=1,2"], ["hash-rows", "26"]),
        (["data.tsv", "--lookahead=0"], ["lookahead", "at least 2"]),
        (["data.tsv", "--hash-rows=1e15", "--row-counts=c.npy"], ["--row-counts", "--hash-rows", "available"]),
        (["data.tsv", "--row-counts=data.tsv"], ["would overwrite the input file data.tsv", "--row-counts"]),
        (
            ["data.tsv", "--row-counts=data.tsv", "--overwrite"],
            ["would overwrite the input file data.tsv", "--row-counts"],
        ),
        (["data.tsv", "--plot=p.pdf"], ["p.pdf", "the plot is a PNG"]),
        (["data.tsv", "--lookahead=1"], ["lookahead", "at least 2"]),
        (["data.tsv", "--config=none.toml"], ["none.toml: cannot be read"]),
        (["data.tsv", "--plot=none/p.png"], ["no folder none"]),
        (["data.tsv", "--plot=same.png", "--row-counts=same.png"], ["same.png", "named twice"]),
        (["none.tsv"], ["none.tsv: no such file"]),
        (["empty.tsv"], ["empty.tsv", "empty"]),
        (["other.tsv"], ["other.tsv, line 1"]),
        ([], ["PATH..."]),
        (["data.tsv", "--size=3"], ["--size", "cupyrec advise --help"]),
    ],
)
def test_what_cannot_be_done_is_one_line(data, tmp_path, capsys, arguments, parts):
    (tmp_path / "empty.tsv").touch()
    (tmp_path / "other.tsv").write_text("a\tb\n")
    before = files_in(tmp_path)
    message = check_one_error_line(run_here(capsys, "advise", *arguments))
    for part in parts:
        assert part in message
    assert files_in(tmp_path) == before


def test_a_temporary_folder_that_is_full_or_not_there(data, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "none")
    message = check_one_error_line(run_here(capsys, "advise", "data.tsv", *SMALL))
    assert message.startswith("none: cannot write the temporary file")
    assert "TMPDIR" in message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_nothing(data, tmp_path, capsys, monkeypatch, number):
    stop = "cupyrec.runs.interrupt.StopOnInterrupt.__call__"
    monkeypatch.setattr(stop, lambda self: signal.raise_signal(number) or self.signal is not None)
    outcome = run_here(capsys, "advise", "data.tsv", *SMALL, "--row-counts=c.npy", "--plot=p.png")
    assert (outcome.code, outcome.out) == (128 + number, "")
    assert "no advice" in outcome.err
    assert files_in(tmp_path) == ["data.tsv"]


def test_ctrl_c_ends_it_with_130(tmp_path):
    """In a process of its own, with far more batches than it reads in a moment; the signal comes while it reads."""
    (tmp_path / "tmp").mkdir()
    write_learnable(tmp_path / "one.tsv", 2000)
    (tmp_path / "data.tsv").write_bytes((tmp_path / "one.tsv").read_bytes() * 100)
    (tmp_path / "one.tsv").unlink()
    process = subprocess.Popen(
        [sys.executable, "-m", "cupyrec", "advise", "data.tsv", "--batch-size=16", "--row-counts=c.npy"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
    )
    assert process.stderr is not None
    assert "10% done" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert files_in(tmp_path) == ["data.tsv", "tmp"]


def test_help_loads_nothing_heavy():
    assert loaded_after("import cupyrec.cli; cupyrec.cli.main(['advise', '--help'])") == []


def test_data_without_labels_cannot_be_trained_on_so_there_is_no_advice(data, tmp_path, capsys):
    lines = (line.split("\t", 1)[1] for line in (tmp_path / "data.tsv").read_text().splitlines(keepends=True))
    (tmp_path / "unlabelled.tsv").write_text("".join(lines))
    assert run_here(capsys, "prepare", "unlabelled.tsv", "--no-labels", "--output", "prepared").code == 0
    message = check_one_error_line(run_here(capsys, "advise", "prepared", "--batch-size=32"))
    assert message.endswith("the samples have no labels, so they can be predicted, but not trained on or evaluated")
