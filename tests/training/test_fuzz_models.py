"""Saved models and checkpoints, spoilt at random: they are refused, or good to go on with."""

import pytest
from checkpoint_runs import made_source, make_trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from spoilt_files import check_read_or_refused

from cupyrec.training.inspection import inspect_path
from cupyrec.training.trained_model import load_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_trainer("resident")
    trainer.fit(made_source(3))
    trainer.save(folder / "model")
    trainer.save_checkpoint(folder / "step")
    return folder


def use_model(folder):
    inspect_path(folder / "model")
    load_model(folder / "model", threads=1).predict(next(made_source(1).batches(4)))


def go_on(folder):
    inspect_path(folder / "step")
    trainer = make_trainer("resident")
    start = trainer.load_checkpoint(folder / "step")
    assert trainer.fit(made_source(4), start=start).steps >= start.steps


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
@given(data=st.data())
def test_a_model(whole, file, data):
    check_read_or_refused(data, whole, f"model/{file}", use_model)


@pytest.mark.parametrize("file", ["checkpoint.json", "dense.safetensors", "tables-00001.safetensors"])
@settings(max_examples=30)
@given(data=st.data())
def test_a_checkpoint(whole, file, data):
    check_read_or_refused(data, whole, f"step/{file}", go_on)
