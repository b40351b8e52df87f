"""Every door of the library says which argument is of no kind that it can use, and what it must be."""

import math
import re

import numpy as np
import pytest
from criteo_lines import learnable_text

import cupyrec
from cupyrec.errors import ConfigError

SHAPE = cupyrec.DlrmConfig((10, 20), dense_features=2, dimension=4, bottom=(8, 4), top=(8, 1))
BATCHES = cupyrec.BatchList(
    [cupyrec.Batch.from_bags(np.zeros((2, 2)), [[[1], [2]], [[3], [4]]], [0, 1], (10, 20))], (10, 20), 2
)


@pytest.fixture(scope="module")
def trainer():
    return cupyrec.Trainer(SHAPE, batch_size=2, threads=1)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text(learnable_text(3))
    return path


def refusal(call):
    with pytest.raises(ConfigError) as raised:
        call()
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("config", 5, "a cupyrec.DlrmConfig"),
        ("system", 5, "a name, or a cupyrec.SystemConfig"),
        ("device", 5, "auto, cpu, gpu, or what make_device gives"),
        ("trace", 5, "a cupyrec.TraceFile, or have its method box"),
        ("trace", "t.json", "a cupyrec.TraceFile, or have its method box"),
    ],
)
def test_trainers(name, value, what):
    arguments = {"config": SHAPE, "threads": 1} | {name: value}
    assert refusal(lambda: cupyrec.Trainer(**arguments)) == f"{name} must be {what}, but is {value!r}"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("start", "what load_checkpoint gave"),
        ("checkpoints", "what the method checkpoints gave"),
        ("on_step", "a function"),
        ("on_evaluation", "a function"),
        ("stop_requested", "a function"),
        ("say", "a function"),
    ],
)
def test_training(trainer, name, what):
    assert refusal(lambda: trainer.fit(BATCHES, **{name: "x"})) == f"{name} must be {what}, but is 'x'"
    assert trainer.system.steps_done == 0


@pytest.mark.parametrize(("value", "what"), [(None, "a NoneType"), ("x", "a str")])
def test_data(trainer, value, what):
    for call in (lambda: trainer.fit(value), lambda: trainer.fit(BATCHES, valid=5), lambda: trainer.evaluate(value)):
        assert refusal(call).startswith("the data must be a source, such as ")
    assert refusal(lambda: trainer.fit(value)).endswith(f"but are {what}")


def test_evaluations_without_data(trainer):
    message = refusal(lambda: trainer.fit(BATCHES, eval_every=5))
    assert message == "eval_every is 5, but there are no data to evaluate on: give them as valid"
    assert trainer.system.steps_done == 0


@pytest.mark.parametrize("value", [5, None])
def test_paths(trainer, data, value):
    for name, call in (
        ("folder", lambda: trainer.save(value)),
        ("folder", lambda: trainer.save_checkpoint(value)),
        ("folder", lambda: trainer.load_checkpoint(value)),
        ("folder", lambda: trainer.checkpoints(value, every=1)),
        ("folder", lambda: cupyrec.load_model(value)),
        ("path", lambda: cupyrec.PreparedData(value)),
        ("path", lambda: cupyrec.TraceFile(value)),
        ("path", lambda: cupyrec.CriteoFiles([value])),
        ("output", lambda: cupyrec.PrepareOptions(data, value)),
    ):
        assert refusal(call) == f"{name} must be a path, but is {value}"
    for call in (
        lambda: cupyrec.CriteoFiles(value),
        lambda: cupyrec.prepare(cupyrec.PrepareOptions(value, data / "p")),
    ):
        assert refusal(call) == f"paths must be a path or several, but is {value}"


def test_paths_that_may_be_left_out(data):
    for name, call in (
        ("bad_rows_path", lambda: cupyrec.CriteoFiles(data, bad_rows_path=5)),
        ("row_counts", lambda: cupyrec.SystemConfig("static", row_counts=5)),
        ("vocabulary", lambda: cupyrec.PrepareOptions(data, "p", vocabulary=5)),
        ("bad_rows", lambda: cupyrec.PrepareOptions(data, "p", on_bad_row="skip", bad_rows=5)),
    ):
        assert refusal(call) == f"{name} must be a path, but is 5"


def test_flags_are_no_texts(data):
    """A text that says no would be true."""
    for name, call in (
        ("labels", lambda: cupyrec.CriteoFiles(data, labels="no")),
        ("shuffle", lambda: cupyrec.PreparedData(data, shuffle="no")),
        ("self_interaction", lambda: cupyrec.DlrmConfig((1,), self_interaction="no")),
    ):
        assert refusal(call) == f"{name} must be True or False, but is 'no'"


@pytest.mark.parametrize("optimizer", [cupyrec.Adagrad, cupyrec.RowwiseAdagrad])
def test_optimizers(optimizer):
    for value in ("a", None, [1], math.nan, math.inf, np.float32(math.inf)):
        assert refusal(lambda value=value: optimizer(value)) == f"eps must be a number, but is {value!r}"
    assert optimizer(np.float32(1e-8)).eps == np.float32(1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cupyrec.prepare("x"), "options must be a cupyrec.PrepareOptions, but is 'x'"),
        (
            lambda: cupyrec.PrepareOptions("a", "b", memory_bytes="8GB"),
            "--memory-bytes must be a whole number from 1 to",
        ),
        (lambda: cupyrec.PrepareOptions("a", "b", dense_columns="a,b"), "dense_columns must be a list of names"),
        (lambda: cupyrec.BatchList(5, (1,), 2), "batches must be a list of batches, but is 5"),
        (lambda: cupyrec.BatchList([], (1,), "a"), "dense_features must be a whole number of at least 1, but is 'a'"),
        (lambda: cupyrec.TraceFile("t.json", most_batches="a"), "most_batches must be a whole number of at least 1"),
        (lambda: cupyrec.load_model("m", threads="a"), "threads must be a whole number of at least 1, but is 'a'"),
        (lambda: cupyrec.RunConfig.from_values(5), "values must be options by their names, but is 5"),
        (lambda: cupyrec.RunConfig.from_values({5: 1}), "the name 5 must be a text, but is 5"),
    ],
)
def test_others(call, message):
    assert re.match(re.escape(message), refusal(call))
