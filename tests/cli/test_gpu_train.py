"""`cupyrec train` on a GPU, which is emulated, and where there is none."""

import json
import re

import numpy as np
import pytest
from commands import check_one_error_line, run_here
from criteo_lines import TINY_MODEL, files_in, write_learnable
from emulated_cuda import EmulatedCuda

from cupyrec.cli import main
from cupyrec.devices import cupy_check
from cupyrec.run_config import read_config_file
from cupyrec.systems import table_memory
from cupyrec.training.trained_model import load_model

OPTIONS = [*TINY_MODEL, "--batch-size=8", "--threads=1", "--valid=0.3", "--max-steps=10", "--learning-rate=0.05"]
# Of 1,300 rows: a batch looks up some 170.
SCRATCHPAD = "--scratchpad=500"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_learnable(tmp_path_factory.mktemp("data") / "day_0", 130)


@pytest.fixture(scope="module")
def on_cpu(data, tmp_path_factory):
    """The folder of the same run on the CPU."""
    folder = tmp_path_factory.mktemp("cpu") / "run"
    with pytest.raises(SystemExit):
        main(["train", str(data), *OPTIONS, "--device=cpu", "--output", str(folder)])
    return folder


@pytest.fixture
def gpu(monkeypatch):
    """As if there were a GPU; call it to set up another."""

    def there_is(**settings):
        monkeypatch.setattr("cupyrec.devices.make_device.why_no_gpu", lambda: "")
        monkeypatch.setattr("cupyrec.devices.make_device.CupyRuntime", lambda: EmulatedCuda(**settings))

    there_is()
    return there_is


def train(capsys, data, *options):
    return run_here(capsys, "train", data, *OPTIONS, *options)


def final_of(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("system", "exchange"),
    [("resident", None), ("hybrid", None), ("static", None), ("serial", "staged"), ("scratchpipe", "staged"),
     ("scratchpipe", "direct"), ("scratchpipe", "auto")],
)  # fmt: skip
def test_trains_as_on_the_cpu_but_for_rounding(capsys, data, gpu, on_cpu, tmp_path, system, exchange):
    options = ["--device=gpu", "--system", system, "--eval-every=4", "--log-every=3"]
    options += [] if system in ("resident", "hybrid") else [SCRATCHPAD]
    options += [] if exchange is None else ["--exchange", exchange]
    outcome = train(capsys, data, *options, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome
    assert f"system {system}, device gpu, emulated, with 1 CPU thread, fp32\n" in outcome.out
    assert re.search(r"^memory plan of the GPU:\n( {2}.*\n)+ {2}total ", outcome.out, re.MULTILINE)
    assert "not used by this system" not in outcome.out
    ours, theirs = final_of(tmp_path / "run"), final_of(on_cpu)
    assert ours["final"]["log_loss"] == pytest.approx(theirs["final"]["log_loss"], rel=1e-4)
    assert ours["device"] == "gpu, emulated, with 1 CPU thread, fp32"
    description = load_model(tmp_path / "run", threads=1).description["training"]
    assert (description["device"], description["threads"]) == (ours["device"], 1)
    if exchange in ("staged", "direct"):
        assert description["system"]["exchange"] == exchange
    evaluated = run_here(capsys, "evaluate", tmp_path / "run", data, "--threads=1", "--json")
    expected = run_here(capsys, "evaluate", on_cpu, data, "--threads=1", "--json")
    assert json.loads(evaluated.out)["log_loss"] == pytest.approx(json.loads(expected.out)["log_loss"], rel=1e-4)


def test_what_was_left_open_is_kept_as_it_was_decided_and_gives_the_same_run(capsys, data, gpu, tmp_path):
    outcome = train(capsys, data, "--precision=tf32", "--no-cuda-graphs", "--output", tmp_path / "run")
    assert outcome.code == 0, outcome
    assert re.search(
        r"^system resident \(auto: it takes .*, and .* of GPU memory are free\), device gpu, emulated.*, tf32$",
        outcome.out,
        re.MULTILINE,
    )
    kept = read_config_file(tmp_path / "run/config.toml")
    assert {name: kept[name] for name in ("system", "device", "precision", "cuda-graphs")} == {
        "system": "resident",
        "device": "gpu",
        "precision": "tf32",
        "cuda-graphs": False,
    }
    again = run_here(capsys, "train", "--config", tmp_path / "run/config.toml", "--output", tmp_path / "again")
    assert again.code == 0, again
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert weights[0] == weights[1]


def test_auto_takes_the_scratchpad_where_the_tables_do_not_fit(capsys, data, gpu, tmp_path, monkeypatch):
    monkeypatch.setattr("cupyrec.training.device_memory_plan.LIBRARY_BYTES", 0)
    gpu(memory_bytes=3_000_000)
    options = ["--hash-rows=5000", SCRATCHPAD, "--lookahead=2", "--exchange=staged"]
    outcome = train(capsys, data, *options, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome
    assert re.search(
        r"^system scratchpipe \(auto: resident would take .*, but 3 MB of GPU memory are free\), device gpu",
        outcome.out,
        re.MULTILINE,
    )
    assert 'system = "scratchpipe"' in (tmp_path / "run/config.toml").read_text()


def test_a_scratchpad_that_does_not_fit_is_refused_with_one_that_does(capsys, data, gpu, tmp_path, monkeypatch):
    monkeypatch.setattr("cupyrec.training.device_memory_plan.LIBRARY_BYTES", 0)
    gpu(memory_bytes=2_000_000)
    options = ["--hash-rows=5000", "--system=scratchpipe", "--lookahead=2", "--exchange=staged"]
    outcome = train(capsys, data, *options, "--scratchpad=100%", "--output", tmp_path / "run")
    message = check_one_error_line(outcome)
    advised = re.search(r"needs .* of GPU memory .*but 2 MB are free; .*\(--scratchpad (\d+)\)$", message)
    assert advised is not None, message
    assert files_in(tmp_path) == []
    assert "memory plan of the GPU:" in outcome.out
    assert train(capsys, data, *options, f"--scratchpad={advised[1]}").code == 0


@pytest.mark.parametrize("lockable", [True, False])
def test_pages_that_cannot_be_locked_are_told_once(capsys, data, gpu, lockable):
    gpu(lockable=lockable)
    outcome = train(capsys, data, "--system=scratchpipe", SCRATCHPAD, "--exchange=direct")
    assert outcome.code == 0, outcome
    said = outcome.out.count(
        "no pages can be locked; going on with ordinary memory and without CUDA graphs, which is slower\n"
    )
    assert said == (0 if lockable else 1)


def test_a_run_that_diverges_saves_nothing(capsys, data, gpu, tmp_path):
    outcome = train(capsys, data, "--optimizer=sgd", "--learning-rate=1e30", "--output", tmp_path / "run")
    assert "the loss is nan at step 2 (learning rate 1e+30)" in check_one_error_line_at_the_end(outcome)
    assert not (tmp_path / "run/model.json").exists()


def check_one_error_line_at_the_end(outcome):
    assert outcome.code == 2, outcome
    return outcome.err.splitlines()[-1].removeprefix("cupyrec: error: ")


def test_without_a_gpu_it_says_why_and_what_to_install(capsys, data, tmp_path, monkeypatch):
    monkeypatch.setattr(cupy_check.importlib.util, "find_spec", lambda name: None)
    message = check_one_error_line(train(capsys, data, "--device=gpu", "--output", tmp_path / "run"))
    assert message == (
        "there is no GPU to use: CuPy is not installed; in a clone of cupyrec: pip install -e '.[cuda12]', or "
        "'.[cuda13]', as the driver allows; --device cpu trains without one"
    )
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("has_cupy", [True, False])
def test_without_a_gpu_auto_takes_the_cpu_and_says_why_where_one_might_be_expected(capsys, data, monkeypatch, has_cupy):
    monkeypatch.setattr("cupyrec.devices.make_device.why_no_gpu", lambda: "the driver is too old")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if has_cupy else None)
    outcome = train(capsys, data)
    assert outcome.code == 0, outcome
    assert "system resident (auto: the CPU trains the tables where they are, in host memory), device cpu" in outcome.out
    assert ("no GPU is used: the driver is too old\n" in outcome.out) == has_cupy


def test_what_is_for_a_gpu_is_refused_or_told_on_the_cpu(capsys, data):
    message = check_one_error_line(train(capsys, data, "--device=cpu", "--precision=tf32"))
    assert message == "the precision tf32 is for a GPU (--device gpu); the CPU multiplies in fp32"
    outcome = train(
        capsys, data, "--device=cpu", "--system=scratchpipe", SCRATCHPAD, "--exchange=direct", "--no-cuda-graphs"
    )
    assert outcome.code == 0, outcome
    assert "not used on the CPU: --exchange, --no-cuda-graphs\n" in outcome.out
    assert "not used by this system" not in outcome.out
    assert "memory plan of the GPU" not in outcome.out


def test_what_a_system_on_a_gpu_does_not_use_is_told(capsys, data, gpu):
    outcome = train(capsys, data, "--device=gpu", "--system=resident", "--exchange=direct", "--scratchpad=500")
    assert outcome.code == 0, outcome
    assert "not used by this system: --scratchpad, --exchange\n" in outcome.out


@pytest.mark.parametrize("option", [(), ("--host-memory=managed",)])
def test_the_host_memory_that_was_chosen_is_told_with_why(capsys, data, gpu, monkeypatch, option):
    monkeypatch.setattr(table_memory, "LEAST_TRIED_BYTES", 0)
    outcome = train(capsys, data, "--device=gpu", "--system=scratchpipe", "--scratchpad=500", *option)
    assert outcome.code == 0, outcome
    told = re.search(
        r"^host memory (ordinary|managed): to read random rows takes the GPU [\d.]+ ms ", outcome.out, re.MULTILINE
    )
    assert bool(told) == (not option)


def test_the_help_shows_the_options_of_a_gpu(capsys):
    shown = run_here(capsys, "train", "--help").out
    for option in ("--device auto|cpu|gpu", "--precision fp32|tf32|bf16", "--exchange auto|staged|direct",
                   "--host-memory auto|ordinary|managed",
                   "--cuda-graphs / --no-cuda-graphs"):  # fmt: skip
        assert option in shown


@pytest.mark.parametrize("system", ["resident", "scratchpipe"])
def test_a_source_that_fails_saves_the_steps_before(capsys, data, gpu, tmp_path, system):
    lines = data.read_text().splitlines(keepends=True)
    lines[35] = "spoilt\n"
    (tmp_path / "day_0").write_text("".join(lines))
    options = ["--system", system, SCRATCHPAD, "--log-every=1", "--output", tmp_path / "run"]
    outcome = train(capsys, tmp_path / "day_0", *options)
    message = check_one_error_line_at_the_end(outcome)
    assert re.search(r"day_0, line 36.*\(the 4 steps trained before are saved in .*run\)$", message)
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in records if each["kind"] == "train"] == [1, 2, 3, 4]
    assert all(np.isfinite(each["loss"]) for each in records if each["kind"] == "train")
    assert load_model(tmp_path / "run", threads=1).description["steps"] == 4
