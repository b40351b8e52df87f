"""`cupyrec evaluate`."""

import json
import shutil
import signal

import pytest
from commands import check_one_error_line, run_here
from criteo_lines import TINY_MODEL, files_in, learnable_text, with_cell, write_learnable

from cupyrec.config import DlrmConfig
from cupyrec.training.trainer import Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data.tsv and the model trained on it in run/; tests change only copies."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_learnable(folder / "data.tsv", 300)
    arguments = ["--batch-size=50", "--threads=1", "--learning-rate=0.05", "--epochs=4", f"--output={folder / 'run'}"]
    from cupyrec.cli import main

    with pytest.raises(SystemExit) as end:
        main(["train", str(folder / "data.tsv"), *TINY_MODEL, *arguments])
    assert not end.value.code
    return folder


@pytest.fixture
def model(folder, tmp_path):
    return shutil.copytree(folder / "run", tmp_path / "model")


def test_prints_the_figures_for_people_or_for_programs(folder, capsys):
    shown = run_here(capsys, "evaluate", folder / "run", folder / "data.tsv", "--threads=1")
    printed = run_here(capsys, "evaluate", folder / "run", folder / "data.tsv", "--threads=1", "--json")
    assert (shown.code, printed.code) == (0, 0)
    assert {*shown.err.splitlines(), *printed.err.splitlines()} == {"100% done"}
    metrics = json.loads(printed.out)
    assert metrics["samples"] == 300
    assert metrics["auc"] > 0.9
    lines = {line[:22].strip(): line[22:].split()[0] for line in shown.out.splitlines()}
    assert lines == {
        "AUC": f"{metrics['auc']:.4f}",
        "log loss": f"{metrics['log_loss']:.4f}",
        "normalised entropy": f"{metrics['normalized_entropy']:.4f}",
        "accuracy at 0.5": f"{metrics['accuracy']:.4f}",
        "calibration": f"{metrics['calibration']:.4f}",
    }


def test_the_batch_size_changes_no_more_than_rounding(folder, capsys):
    found = []
    for batch_size in (7, 300):
        arguments = ["--json", "--threads=1", f"--batch-size={batch_size}"]
        found.append(json.loads(run_here(capsys, "evaluate", folder / "run", folder / "data.tsv", *arguments).out))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_more_threads_than_cores_are_told_beside_the_figures(folder, capsys, monkeypatch):
    monkeypatch.setattr("cupyrec.runs.thread_count.usable_cores", lambda: 1)
    outcome = run_here(capsys, "evaluate", folder / "run", folder / "data.tsv", "--threads=2", "--json")
    assert outcome.err.startswith("warning: --threads 2 is more than the 1 usable core, ")
    assert json.loads(outcome.out)["samples"] > 0


def test_figures_that_are_undefined_are_called_so(folder, tmp_path, capsys):
    one_class = tmp_path / "one_class.tsv"
    one_class.write_text("".join(line for line in learnable_text(40).splitlines(keepends=True) if line[0] == "0"))
    outcome = run_here(capsys, "evaluate", folder / "run", one_class)
    assert outcome.code == 0
    assert outcome.out.splitlines()[0].split()[:2] == ["AUC", "undefined"]


def test_bad_rows_stop_it_or_are_skipped(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spoilt.tsv").write_text(with_cell(learnable_text(20), 7, 5, "many"))
    message = check_one_error_line(run_here(capsys, "evaluate", folder / "run", "spoilt.tsv"))
    assert message.startswith("spoilt.tsv, line 7, column 5: ")
    assert files_in(tmp_path) == ["spoilt.tsv"]
    outcome = run_here(capsys, "evaluate", folder / "run", "spoilt.tsv", "--on-bad-row=skip", "--bad-rows=bad.tsv")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "skipped 1 bad row, written to bad.tsv"
    assert (tmp_path / "bad.tsv").read_text().startswith("spoilt.tsv\t7\t")


def test_bad_rows_of_what_comes_to_nothing_do_not_stay(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad_only.tsv").write_text("1\n")
    others = ("predict", ["--output=p.parquet"]), ("evaluate", [])
    for command, options in (*others, ("advise", [])):
        model = [] if command == "advise" else [folder / "run"]
        for _ in range(2):
            outcome = run_here(capsys, command, *model, "bad_only.tsv", "--on-bad-row=skip", *options)
            assert outcome.err.splitlines()[-1].endswith("is this the right file?")
            assert files_in(tmp_path) == ["bad_only.tsv"]


def test_options_that_do_nothing_are_told(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, prepared = folder / "data.tsv", tmp_path / "prepared"
    outcome = run_here(capsys, "prepare", data, "--output", prepared, "--hash-rows=50", "--bad-rows=bad.tsv")
    assert outcome.err.startswith("without effect: --bad-rows (needs --on-bad-row skip)\n")
    for command, *options in (["evaluate"], ["predict", "--output=p", "--overwrite"], ["advise", "--hash-rows=50"]):
        model = [] if command == "advise" else [folder / "run"]
        outcome = run_here(capsys, command, *model, data, *options, "--bad-rows=bad.tsv")
        assert outcome.err.startswith("without effect: --bad-rows (needs --on-bad-row skip)\n"), outcome
        outcome = run_here(capsys, command, *model, prepared, *options, "--bad-rows=bad.tsv")
        assert "without effect: --bad-rows (needs --on-bad-row skip)\nnot used with prepared data: " in outcome.err
        outcome = run_here(capsys, command, *model, prepared, *options, "--bad-rows=bad.tsv", "--on-bad-row=skip")
        hash_rows = "--hash-rows, " if command == "advise" else ""
        assert outcome.err.startswith(f"not used with prepared data: {hash_rows}--on-bad-row, --bad-rows\n"), outcome


def test_bad_rows_replace_nothing_that_should_stay(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spoilt.tsv").write_text(with_cell(learnable_text(20), 7, 5, "many"))
    (tmp_path / "bad_rows.tsv").write_text("old")
    arguments = ["evaluate", model, "spoilt.tsv", "--on-bad-row=skip"]
    assert "bad_rows.tsv: exists" in check_one_error_line(run_here(capsys, *arguments))
    for kept in ("spoilt.tsv", "model/model.json", "model/model.safetensors", "model/config.toml"):
        outcome = run_here(capsys, *arguments, "--overwrite", f"--bad-rows={kept}")
        assert "would overwrite the input file" in check_one_error_line(outcome)
    assert (tmp_path / "bad_rows.tsv").read_text() == "old"
    assert run_here(capsys, *arguments, "--overwrite").code == 0
    assert (tmp_path / "bad_rows.tsv").read_text().startswith("spoilt.tsv\t7\t")


def test_no_paths_is_an_error(model, capsys):
    assert "PATH..." in check_one_error_line(run_here(capsys, "evaluate", model))


def spoil_missing(model):
    shutil.rmtree(model)
    return "holds no cupyrec model"


def spoil_is_a_file(model):
    shutil.rmtree(model)
    model.write_text("no folder")
    return "holds no cupyrec model"


def spoil_no_weights(model):
    (model / "model.safetensors").unlink()
    return "holds no model"


def spoil_json(model):
    (model / "model.json").write_text('{"format": "cupyrec-model", ')
    return "model.json: damaged"


def spoil_json_of_another_program(model):
    (model / "model.json").write_text('{"format": "other"}')
    return "not a cupyrec model"


def spoil_version(model):
    description = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(description | {"version": 99}))
    return "version 99"


def spoil_json_of_another_model(model):
    description = json.loads((model / "model.json").read_text())
    description["model"]["top"] = [16, 1]
    (model / "model.json").write_text(json.dumps(description))
    return "not of the same model"


def spoil_shape(model):
    description = json.loads((model / "model.json").read_text())
    description["model"]["dimension"] = "four"
    (model / "model.json").write_text(json.dumps(description))
    return "damaged"


def spoil_truncated(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return "model.safetensors: damaged"


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_missing,
        spoil_is_a_file,
        spoil_no_weights,
        spoil_json,
        spoil_json_of_another_program,
        spoil_version,
        spoil_json_of_another_model,
        spoil_shape,
        spoil_truncated,
    ],
)
def test_a_folder_that_holds_no_whole_model_is_one_clear_line(folder, model, capsys, spoil):
    expected = spoil(model)
    message = check_one_error_line(run_here(capsys, "evaluate", model, folder / "data.tsv"))
    assert expected in message
    assert str(model) in message


def test_a_model_of_other_tables_is_refused(folder, tmp_path, capsys):
    config = DlrmConfig((5, 6), dense_features=3, dimension=4, bottom=(4,), top=(1,))
    Trainer(config, threads=1, batch_size=8).save(tmp_path / "other")
    message = check_one_error_line(run_here(capsys, "evaluate", tmp_path / "other", folder / "data.tsv"))
    assert "2 tables and 3 dense features" in message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_gives_no_figures(folder, capsys, monkeypatch, number):
    stop = "cupyrec.runs.interrupt.StopOnInterrupt.__call__"
    monkeypatch.setattr(stop, lambda self: signal.raise_signal(number) or self.signal is not None)
    outcome = run_here(capsys, "evaluate", folder / "run", folder / "data.tsv")
    assert (outcome.code, outcome.out) == (128 + number, "")
    assert "no metrics" in outcome.err
