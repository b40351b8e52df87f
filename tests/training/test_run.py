"""A whole run from its configuration, called as a library."""

import gzip
import json
import signal

import pytest
from criteo_lines import files_in, learnable_text, with_cell, write_learnable

from cupyrec.config import RunConfig, read_config_file
from cupyrec.errors import ConfigError, DataError, OutputError
from cupyrec.training import run
from cupyrec.training.run import run_training
from cupyrec.training.trained_model import load_model

SMALL = {
    "bottom-mlp": "8-4",
    "dimension": 4,
    "top-mlp": "8-1",
    "hash-rows": 50,
    "batch-size": 20,
    "threads": 1,
    "learning-rate": 0.05,
    "warmup-steps": 0,
}


class Watcher:
    """Progress that keeps what it is told; on_step is called with each step's number."""

    def __init__(self, on_step=lambda step: None):
        self.steps, self.messages, self.on_step = [], [], on_step

    def update(self, step, samples, loss, fraction_done=None):
        self.steps.append((step, samples, fraction_done))
        self.on_step(step)

    def message(self, line):
        self.messages.append(line)

    def close(self):
        self.steps.append("closed")


def train(progress=None, say=lambda line: None, **options):
    values = SMALL | {name.replace("_", "-"): value for name, value in options.items()}
    return run_training(RunConfig.from_values(values), say=say, progress=progress or Watcher())


@pytest.fixture
def data(tmp_path):
    return write_learnable(tmp_path / "data.tsv", 100)


def metrics_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_reports_how_the_run_went(tmp_path, data):
    watcher = Watcher()
    report = train(watcher, paths=data, valid="0.2", epochs=2, eval_every=4, output=tmp_path / "run")
    assert (report.result.steps, report.result.samples) == (8, 160)
    assert (report.bad_rows, report.saved_in) == ({}, tmp_path / "run")
    assert [step[:2] for step in watcher.steps] == [(step, 20 * step) for step in range(1, 9)]
    assert watcher.steps[-1][2] == 1
    assert [message.split(":")[0] for message in watcher.messages] == ["step 4", "step 8"]


def test_each_loss_is_the_mean_of_the_steps_since_the_last_line(tmp_path, data):
    """Also where evaluations come in between, and for the steps left at the end."""
    train(paths=data, valid="0.2", epochs=2, eval_every=2, log_every=1, output=tmp_path / "single")
    train(paths=data, valid="0.2", epochs=2, eval_every=2, log_every=3, output=tmp_path / "threes")
    losses = [line["loss"] for line in metrics_lines(tmp_path / "single") if line["kind"] == "train"]
    lines = [line for line in metrics_lines(tmp_path / "threes") if line["kind"] == "train"]
    assert [(line["step"], line["samples"]) for line in lines] == [(3, 60), (6, 120), (8, 160)]
    expected = [sum(losses[0:3]) / 3, sum(losses[3:6]) / 3, sum(losses[6:8]) / 2]
    assert [line["loss"] for line in lines] == pytest.approx(expected, rel=1e-12)


def test_validation_by_files_or_by_share_is_the_same(tmp_path, data):
    lines = data.read_text().splitlines(keepends=True)
    (tmp_path / "head.tsv").write_text("".join(lines[:70]))
    (tmp_path / "tail.tsv").write_text("".join(lines[70:]))
    said = []
    by_share = train(paths=data, valid="0.3", output=tmp_path / "share", say=said.append)
    by_files = train(
        paths=tmp_path / "head.tsv", valid=tmp_path / "tail.tsv", output=tmp_path / "files", say=said.append
    )
    assert by_share.result.final == by_files.result.final
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("share", "files")]
    assert weights[0] == weights[1]
    assert f"training on the first 70 lines of {data}, validating on the last 30" in said
    assert f"training on {tmp_path / 'head.tsv'}, validating on {tmp_path / 'tail.tsv'}" in said


def test_a_file_with_the_name_of_a_share_is_a_file(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_learnable(tmp_path / "0.5", 30, first=100)
    assert train(paths=data, valid="0.5").result.final.metrics.samples == 30


def test_many_files_are_counted(tmp_path):
    for day in range(3):
        write_learnable(tmp_path / f"day_{day}", 20, first=20 * day)
    said = []
    assert train(paths=tmp_path, say=said.append).result.samples == 60
    assert "training on 3 files, no validation data (--valid)" in said


def test_compressed_data_train_alike(tmp_path, data):
    (tmp_path / "data.tsv.gz").write_bytes(gzip.compress(data.read_bytes(), mtime=0))
    weights = []
    for name in ("data.tsv", "data.tsv.gz"):
        train(paths=tmp_path / name, output=tmp_path / f"run_{name}")
        weights.append((tmp_path / f"run_{name}" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_bad_rows_go_where_they_are_wanted(tmp_path):
    spoilt = tmp_path / "spoilt.tsv"
    spoilt.write_text(with_cell(learnable_text(50), 3, 1, "9"))
    bad, run = tmp_path / "left_out.tsv", tmp_path / "run"
    report = train(paths=spoilt, valid="0.2", epochs=3, on_bad_row="skip", bad_rows=bad, output=run)
    assert report.bad_rows == {bad: 1}
    assert bad.read_text().startswith(f"{spoilt}\t3\t")
    assert files_in(run) == ["config.toml", "metrics.jsonl", "model.json", "model.safetensors"]


def interrupt_at(step):
    return lambda now: signal.raise_signal(signal.SIGINT) if now == step else None


def test_ctrl_c_ends_after_the_step_and_saves(tmp_path, data):
    before = signal.getsignal(signal.SIGINT)
    report = train(Watcher(interrupt_at(3)), paths=data, valid="0.2", epochs=100, output=tmp_path / "run")
    assert (report.result.steps, report.result.interrupted, report.result.final) == (3, True, None)
    assert load_model(report.saved_in).description["training"]["interrupted"] is True
    assert [line["kind"] for line in metrics_lines(report.saved_in)] == ["train", "end"]
    assert signal.getsignal(signal.SIGINT) == before
    train(paths=data, valid="0.2", max_steps=3, output=tmp_path / "three")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "three")]
    assert weights[0] == weights[1]


def test_a_second_ctrl_c_ends_at_once_and_saves_nothing(tmp_path, data):
    def twice(step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(Watcher(twice), paths=data, epochs=100, output=tmp_path / "run")
    assert files_in(tmp_path) == ["data.tsv"]


def test_ctrl_c_before_training_ends_at_once(tmp_path, data):
    with pytest.raises(KeyboardInterrupt):
        train(say=lambda line: signal.raise_signal(signal.SIGINT), paths=data, output=tmp_path / "run")
    assert files_in(tmp_path) == ["data.tsv"]


def test_a_failure_of_the_output_loses_no_step(tmp_path, data, monkeypatch):
    """Such as a full temporary folder, found out by the evaluation after a day of training."""
    monkeypatch.setattr(
        "cupyrec.training.trainer.evaluate", lambda *_, **__: (_ for _ in ()).throw(OutputError("/tmp: no space left"))
    )
    with pytest.raises(OutputError, match=r"no space left \(the 4 steps trained before are saved in .*run\)"):
        train(paths=data, valid="0.2", output=tmp_path / "run")
    assert load_model(tmp_path / "run").description["steps"] == 4


def test_a_model_that_cannot_be_saved_is_told_and_leaves_the_old_one(tmp_path, data, monkeypatch):
    train(paths=data, output=tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes(), (tmp_path / "run" / "model.json").read_bytes()

    def full(*_):
        raise OutputError("no space left")

    monkeypatch.setattr("cupyrec.training.saved_model.write_sharded", full)
    with pytest.raises(OutputError, match="no space left"):
        train(paths=data, output=tmp_path / "run", overwrite=True, seed=2)
    assert before == (
        (tmp_path / "run" / "model.safetensors").read_bytes(),
        (tmp_path / "run" / "model.json").read_bytes(),
    )


def test_errors_before_training_leave_nothing(tmp_path, data):
    for options, error in (
        ({"paths": ()}, ConfigError),
        ({"paths": tmp_path / "none.tsv"}, DataError),
        ({"paths": data, "valid": "1"}, ConfigError),
        ({"paths": data, "dimension": 5}, ConfigError),
        ({"paths": data, "end_learning_rate": 1.0}, ConfigError),
    ):
        with pytest.raises(error):
            train(**options, output=tmp_path / "a" / "run")
        assert files_in(tmp_path) == ["data.tsv"]


def test_a_name_that_is_not_utf8_is_refused_at_once(tmp_path, data):
    for options in ({"output": tmp_path / "r\udcff"}, {"output": tmp_path / "run", "valid": "v\udcff"}):
        with pytest.raises(ConfigError, match=r"not UTF-8 .*rename it: (output|valid) = "):
            train(paths=data, **options)
    assert files_in(tmp_path) == ["data.tsv"]


def test_names_in_any_script_are_kept(tmp_path):
    data = write_learnable(tmp_path / "données 😀.tsv", 40)
    train(paths=data, output=tmp_path / 'é "😀"')
    again = RunConfig.from_values(read_config_file(tmp_path / 'é "😀"' / "config.toml"))
    assert again.paths == (str(data),)


def test_a_bad_row_keeps_its_place_in_the_error(tmp_path):
    path = tmp_path / "late.tsv"
    path.write_text(with_cell(learnable_text(100), 91, 7, "x"))
    with pytest.raises(DataError) as raised:
        train(paths=path, output=tmp_path / "run")
    error = raised.value
    assert (error.path, error.line, error.column) == (path, 91, 7)
    assert "the 4 steps trained before are saved" in error.reason
    assert load_model(tmp_path / "run").description["steps"] == 4


def test_the_memory_plan_is_printed_before_anything_is_allocated(data, monkeypatch):
    said = []

    class NoTrainer:
        def __init__(self, *_, **__):
            assert any(line.strip().startswith("total ") for line in said)
            raise ZeroDivisionError

    monkeypatch.setattr(run, "Trainer", NoTrainer)
    with pytest.raises(ZeroDivisionError):
        train(paths=data, say=said.append)
