"""A whole run from its configuration, called as a library."""

import gzip
import json
import signal

import pytest
from criteo_lines import files_in, learnable_text, with_cell, write_learnable

from cupyrec.config import SystemConfig
from cupyrec.errors import ConfigError, CupyrecError, DataError, DivergenceError, OutputError
from cupyrec.run_config import RunConfig, read_config_file
from cupyrec.runs import run
from cupyrec.runs.run import run_training
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
    assert f"training on the first 70 lines of {data}, validating on the last 30 lines" in said
    assert f"training on {tmp_path / 'head.tsv'}, validating on {tmp_path / 'tail.tsv'}" in said


def test_evaluations_without_validation_data_are_told_and_do_not_end_the_run(tmp_path, data):
    said = []
    assert train(say=said.append, paths=data, eval_every=2).result.steps == 5
    assert "without effect: --eval-every (needs --valid)" in said


def test_a_single_line_is_told_as_one(tmp_path):
    said = []
    train(paths=write_learnable(tmp_path / "data.tsv", 5), valid="0.2", batch_size=4, hash_rows=1, say=said.append)
    assert any(line.endswith("validating on the last 1 line") for line in said)
    assert any("embedding tables (26 rows)" in line for line in said)


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
        "cupyrec.training.training_loop.evaluate",
        lambda *_, **__: (_ for _ in ()).throw(OutputError("/tmp: no space left")),
    )
    with pytest.raises(OutputError, match=r"no space left \(the 4 steps trained before are saved in .*run\)"):
        train(paths=data, valid="0.2", output=tmp_path / "run")
    assert load_model(tmp_path / "run").description["steps"] == 4


def test_a_model_that_cannot_be_saved_is_told_and_leaves_the_old_one(tmp_path, data, monkeypatch):
    train(paths=data, output=tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes(), (tmp_path / "run" / "model.json").read_bytes()

    def full(*_):
        raise OutputError("no space left")

    monkeypatch.setattr("cupyrec.saving.saved_model.write_sharded", full)
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


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fail_at(step, error):
    def fail(now):
        if now == step:
            raise error

    return fail


@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), MemoryError("oh"), OSError(5, "oh")])
def test_an_error_that_is_not_ours_loses_no_step_either(tmp_path, data, error):
    watcher = Watcher(fail_at(3, error))
    with pytest.raises(type(error)) as raised:
        train(watcher, paths=data, output=tmp_path / "run")
    assert raised.value is error
    assert watcher.messages == [f"the 3 steps trained before are saved in {tmp_path / 'run'}"]
    assert load_model(tmp_path / "run").description["steps"] == 3


def test_a_single_step_is_told_as_one(tmp_path, data):
    with pytest.raises(ConfigError, match=r"^oh \(the 1 step trained before is saved in .*run\)$"):
        train(Watcher(fail_at(1, ConfigError("oh"))), paths=data, output=tmp_path / "run")


@pytest.mark.parametrize("error", [ConfigError("oh"), CupyrecError("oh")])
def test_any_error_of_ours_says_what_was_saved(tmp_path, data, error):
    with pytest.raises(type(error), match=r"^oh \(the 2 steps trained before are saved in .*run\)$"):
        train(Watcher(fail_at(2, error)), paths=data, output=tmp_path / "run")
    assert load_model(tmp_path / "run").description["training"]["stopped_by"] == "oh"


def test_an_error_is_told_even_where_the_steps_cannot_be_saved(tmp_path, data, monkeypatch):
    monkeypatch.setattr(
        "cupyrec.saving.saved_model.write_sharded", lambda *_: (_ for _ in ()).throw(OutputError("no space left"))
    )
    with pytest.raises(ConfigError, match=r"^oh \(the 2 steps trained before could not be saved: no space left\)$"):
        train(Watcher(fail_at(2, ConfigError("oh"))), paths=data, output=tmp_path / "run")
    goes_on = r"^oh \(the 3 .* no space left; the checkpoint of step 2 is whole: go on with --resume\)$"
    with pytest.raises(ConfigError, match=goes_on):
        train(Watcher(fail_at(3, ConfigError("oh"))), paths=data, output=tmp_path / "other", checkpoint_every=2)


def test_a_file_deleted_between_two_epochs_loses_no_step(tmp_path, data):
    rest = write_learnable(tmp_path / "rest.tsv", 20)
    # The last step of an epoch comes when all is read.
    with pytest.raises(
        DataError, match=r"rest\.tsv: cannot be read: No such file .*the 6 steps trained before are saved"
    ):
        train(
            Watcher(lambda step: rest.unlink() if step == 6 else None),
            paths=[data, rest],
            epochs=2,
            output=tmp_path / "r",
        )
    assert load_model(tmp_path / "r").description["steps"] == 6


def test_the_configuration_kept_is_the_one_used(tmp_path, data):
    train(paths=data, output=tmp_path / "run", threads=2)
    kept = read_config_file(tmp_path / "run" / "config.toml")
    assert {name: kept[name] for name in ("system", "device", "threads", "bottom-mlp")} == {
        "system": "resident",
        "device": "cpu",
        "threads": 2,
        "bottom-mlp": [8, 4],
    }
    assert "bad-rows" not in kept
    assert load_model(tmp_path / "run").description["training"]["threads"] == 2


def test_the_system_of_the_memory_plan_is_trained(data, monkeypatch):
    """What is free on a GPU may change between the plan and the training."""
    chosen = SystemConfig("scratchpipe", "60%"), "auto: it was chosen once"
    monkeypatch.setattr("cupyrec.runs.run_checks.resolve_system", lambda *_: chosen)
    said = []
    report = train(say=said.append, paths=data, max_steps=1)
    assert report.result.system["name"] == "scratchpipe"
    assert any(line.startswith("system scratchpipe (auto: it was chosen once), device cpu") for line in said)


def test_what_was_left_open_is_kept_as_it_was_decided(tmp_path, data, monkeypatch):
    monkeypatch.setattr("cupyrec.devices.cpu.usable_cores", lambda: 3)
    left_open = {name: value for name, value in SMALL.items() if name not in ("threads", "bottom-mlp")}
    config = RunConfig.from_values(left_open | {"paths": data, "max-steps": 1, "output": tmp_path / "run"})
    run_training(config, say=lambda line: None, progress=Watcher())
    kept = read_config_file(tmp_path / "run" / "config.toml")
    assert (kept["threads"], kept["bottom-mlp"]) == (3, [512, 256, 64, 4])
    assert (kept["system"], kept["device"]) == ("resident", "cpu")


def test_a_run_that_diverges_leaves_the_earlier_one_whole(tmp_path):
    data, output = tmp_path / "data.tsv", tmp_path / "run"
    data.write_text(with_cell(learnable_text(100), 3, 1, "9"))
    skip = {"paths": data, "output": output, "on_bad_row": "skip", "log_every": 1}
    train(**skip)
    before = contents(output)
    with pytest.raises(DivergenceError) as raised:
        train(**skip, overwrite=True, optimizer="sgd", learning_rate=1e30)
    assert "saved" not in str(raised.value)
    after = contents(output)
    assert {name: after[name] for name in before} == before
    assert sorted(after.keys() - before.keys()) == [
        "unsaved-bad_rows.tsv",
        "unsaved-config.toml",
        "unsaved-metrics.jsonl",
    ]


def test_overwriting_leaves_nothing_of_the_earlier_run(tmp_path, data):
    spoilt, output = tmp_path / "spoilt.tsv", tmp_path / "run"
    spoilt.write_text(with_cell(learnable_text(100), 3, 1, "9"))
    assert train(paths=spoilt, output=output, on_bad_row="skip").bad_rows == {output / "bad_rows.tsv": 1}
    options = {"overwrite": True, "on_bad_row": "skip", "log_every": 1}
    assert train(paths=spoilt, output=output, **options).bad_rows == {output / "bad_rows.tsv": 1}
    assert (output / "bad_rows.tsv").read_text().startswith(f"{spoilt}\t3\t")
    train(paths=data, output=output, **options)
    train(paths=data, output=tmp_path / "fresh", **options)
    assert files_in(output) == files_in(tmp_path / "fresh")
    kinds = [[line["kind"] for line in metrics_lines(folder)] for folder in (output, tmp_path / "fresh")]
    assert kinds[0] == kinds[1] == ["train"] * 5 + ["end"]


def test_a_model_larger_than_the_disk_is_refused_before_training(tmp_path, data, monkeypatch):
    (tmp_path / "run").mkdir()
    wanted = []
    monkeypatch.setattr(
        "cupyrec.saving.run_folder.RunFolder.check_space", lambda folder, size, what: wanted.append(size)
    )
    train(paths=data, output=tmp_path / "run")
    parameters = 13 * 8 + 8 + 8 * 4 + 4 + (4 + 27 * 26 // 2) * 8 + 8 + 8 + 1
    assert wanted == [4 * (26 * 50 * 4 + parameters)]
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": wanted[0] - 1}))
    with pytest.raises(OutputError, match=r"the model takes 32\.8 kB, but 32\.8 kB are free"):
        train(paths=data, output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "checkpoints"),
    [({}, 3), ({"keep": 4}, 5), ({"max_steps": 5}, 3), ({"max_steps": 4}, 2), ({"checkpoint_every": 100}, 3)],
)
def test_the_disk_must_hold_the_checkpoints_that_are_kept_one_more_and_the_model(
    tmp_path, data, monkeypatch, options, checkpoints
):
    """The oldest goes when the newest is whole."""
    options = {"paths": data, "output": tmp_path / "run", "checkpoint_every": 2} | options
    model_bytes = 4 * (26 * 50 * 4 + 13 * 8 + 8 + 8 * 4 + 4 + (4 + 27 * 26 // 2) * 8 + 8 + 8 + 1)
    checkpoint_bytes = model_bytes + 4 * 26 * 50  # of rowwise-adagrad
    free = model_bytes + checkpoints * checkpoint_bytes
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free - 1}))
    message = rf"the model with {checkpoints} checkpoints \(--keep {options.get('keep', 2)}\) takes .* are free "
    with pytest.raises(OutputError, match=message):
        train(**options)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free}))
    train(**options)


def test_of_a_run_that_goes_on_some_checkpoints_are_on_the_disk(tmp_path, data, monkeypatch):
    options = {"paths": data, "output": tmp_path / "run", "checkpoint_every": 2}
    train(max_steps=3, **options)
    wanted = []
    monkeypatch.setattr("cupyrec.saving.run_folder.RunFolder.check_space", lambda *args: wanted.append(args[2]))
    train(max_steps=4, resume=True, **options)
    train(max_steps=5, resume=True, keep=4, **options)
    assert wanted == ["the model with 1 checkpoint (--keep 2)", "the model with 1 checkpoint (--keep 4)"]


def under(folder, before):
    """Of the files under a folder, those that are there beside `before`; all of these are as they were."""
    now = contents_under(folder)
    assert {name: now[name] for name in before} == before
    return sorted(now.keys() - before.keys())


def contents_under(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


LEFT_BESIDE = [f"unsaved-{name}" for name in ("config.toml", "metrics.jsonl")]
LEFT_BESIDE += [f"unsaved-model/{name}" for name in ("model.json", "model.safetensors")]


def test_an_error_leaves_the_earlier_run_whole_and_what_was_trained_beside_it(tmp_path, data):
    output = tmp_path / "run"
    train(paths=data, output=output, checkpoint_every=2)
    before = contents_under(output)
    kept = rf"^oh \(the 2 steps trained before are saved in {output}/unsaved-model; the earlier run in {output} stays"
    with pytest.raises(ConfigError, match=kept):
        train(Watcher(fail_at(2, ConfigError("oh"))), paths=data, output=output, overwrite=True, seed=2)
    assert under(output, before) == LEFT_BESIDE
    assert load_model(output).description["steps"] == 5
    assert load_model(output / "unsaved-model").description["training"]["stopped_by"] == "oh"
    # The next run takes the place of both.
    train(paths=data, output=output, overwrite=True, seed=2)
    assert files_in(output) == ["config.toml", "metrics.jsonl", "model.json", "model.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_earlier_run_whole_and_what_was_trained_beside_it(tmp_path, data, number):
    output = tmp_path / "run"
    train(paths=data, output=output, checkpoint_every=2)
    before = contents_under(output)
    stop = Watcher(lambda now: signal.raise_signal(number) if now == 3 else None)
    report = train(stop, paths=data, output=output, overwrite=True, seed=2)
    assert (report.saved_in, report.stays) == (output / "unsaved-model", output)
    assert under(output, before) == LEFT_BESIDE
    assert load_model(report.saved_in).description["steps"] == 3
    # Another that diverges at once leaves nothing of it beside the earlier run, which it would not belong to.
    with pytest.raises(DivergenceError):
        train(paths=data, output=output, overwrite=True, optimizer="sgd", learning_rate=1e30)
    assert not (output / "unsaved-model").exists()
    under(output, before)


def test_the_kept_configuration_lets_nothing_be_replaced(tmp_path, data):
    """Used for another folder it would replace a run that nobody spoke of."""
    for _ in range(2):
        train(paths=data, output=tmp_path / "run", overwrite=True, max_steps=2)
    assert "overwrite" in (text := (tmp_path / "run" / "config.toml").read_text())
    assert "overwrite = false" in text
