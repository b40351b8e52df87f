"""A whole run on a GPU, which is emulated: what it writes down, Ctrl-C, and failures in mid-run."""

import json
import signal

import pytest
from criteo_lines import write_learnable
from emulated_cuda import EmulatedCuda

from cupyrec.errors import DeviceMemoryError, OutputError
from cupyrec.run_config import RunConfig
from cupyrec.runs.run import run_training
from cupyrec.training.trained_model import load_model

SMALL = {
    "bottom-mlp": "8-4",
    "dimension": 4,
    "top-mlp": "8-1",
    "hash-rows": 50,
    "batch-size": 5,
    "threads": 1,
    "learning-rate": 0.05,
    "warmup-steps": 0,
    "device": "gpu",
    "exchange": "staged",
    "scratchpad": 800,
    "lookahead": 3,
}
SYSTEMS = ("resident", "scratchpipe")


class Watcher:
    """Progress that keeps what it is told; on_step is called with each step's number."""

    def __init__(self, on_step=lambda step: None):
        self.steps, self.messages, self.on_step = [], [], on_step

    def update(self, step, samples, loss, fraction_done=None):
        self.steps.append(step)
        self.on_step(step)

    def message(self, line):
        self.messages.append(line)


class ShortCuda(EmulatedCuda):
    """Has no memory any more once it is told so."""

    is_short = False

    def empty(self, shape, dtype):
        if self.is_short:
            raise DeviceMemoryError("no memory is left")
        return super().empty(shape, dtype)


@pytest.fixture(autouse=True)
def runtime(monkeypatch):
    """The GPU that is there."""
    made = ShortCuda("lazy")
    monkeypatch.setattr("cupyrec.devices.make_device.why_no_gpu", lambda: "")
    monkeypatch.setattr("cupyrec.devices.make_device.CupyRuntime", lambda: made)
    return made


@pytest.fixture
def data(tmp_path):
    return write_learnable(tmp_path / "data.tsv", 100)


def train(progress=None, **options):
    values = SMALL | {name.replace("_", "-"): value for name, value in options.items()}
    return run_training(RunConfig.from_values(values), say=lambda line: None, progress=progress or Watcher())


def metrics_lines(folder, kind):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [each for each in records if each["kind"] == kind]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_line_has_the_losses_of_its_own_steps_though_they_come_late(tmp_path, data, system):
    for name, log_every in (("single", 1), ("fives", 5)):
        train(paths=data, valid="0.1", eval_every=7, log_every=log_every, system=system, output=tmp_path / name)
    single, fives = (metrics_lines(tmp_path / name, "train") for name in ("single", "fives"))
    assert [(line["step"], line["samples"]) for line in fives] == [(5, 25), (10, 50), (15, 75), (18, 90)]
    losses = [line["loss"] for line in single]
    expected = [sum(losses[at : at + 5]) / len(losses[at : at + 5]) for at in range(0, 18, 5)]
    assert [line["loss"] for line in fives] == pytest.approx(expected, rel=1e-12)
    assert [line["step"] for line in metrics_lines(tmp_path / "fives", "evaluation")] == [7, 14, 18]


@pytest.mark.parametrize("system", SYSTEMS)
def test_ctrl_c_ends_after_the_step_and_saves(tmp_path, data, system):
    def interrupt_at_3(step):
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    watcher = Watcher(interrupt_at_3)
    report = train(watcher, paths=data, epochs=100, system=system, output=tmp_path / "run")
    steps = report.result.steps
    assert 3 <= steps < 20
    assert report.result.interrupted
    assert watcher.steps == list(range(1, steps + 1))
    train(paths=data, epochs=100, system=system, max_steps=steps, output=tmp_path / "again")
    assert weights(tmp_path / "run") == weights(tmp_path / "again")


@pytest.mark.parametrize("system", SYSTEMS)
def test_memory_that_runs_short_while_evaluating_loses_no_step(tmp_path, data, system, runtime):
    def take_memory(step):
        runtime.is_short = step == 8

    with pytest.raises(DeviceMemoryError) as raised:
        train(Watcher(take_memory), paths=data, valid="0.1", eval_every=8, system=system, output=tmp_path / "run")
    message = str(raised.value)
    assert message.startswith("no memory is left; the memory plan of the GPU is ")
    assert message.endswith(f" (the 8 steps trained before are saved in {tmp_path / 'run'})")
    description = load_model(tmp_path / "run", threads=1).description
    assert description["steps"] == 8
    assert description["training"]["device"] == "gpu, emulated, with 1 CPU thread, fp32"
    runtime.is_short = False
    train(paths=data, max_steps=8, system=system, output=tmp_path / "again")
    assert weights(tmp_path / "run") == weights(tmp_path / "again")


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_failure_of_the_output_loses_no_step(tmp_path, data, system):
    def fail(step):
        if step == 4:
            raise OutputError("oh")

    with pytest.raises(OutputError, match=r"^oh \(the \d+ steps trained before are saved in .*run\)$"):
        train(Watcher(fail), paths=data, system=system, output=tmp_path / "run")
    assert load_model(tmp_path / "run", threads=1).description["steps"] >= 4
