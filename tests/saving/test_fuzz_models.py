"""Saved models and checkpoints, spoilt at random: they are refused, or good to go on with."""

import functools
import json
import shutil
import warnings
import zlib

import numpy as np
import pytest
from checkpoint_runs import Gate, made_source, make_trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from spoilt_files import check_read_or_refused

from cupyrec.errors import ModelError
from cupyrec.inspection.inspection import inspect_path
from cupyrec.saving.checkpoint import description_text
from cupyrec.saving.exported_model import export_model
from cupyrec.training.trained_model import load_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_trainer("resident")
    trainer.fit(made_source(3))
    trainer.save(folder / "model")
    trainer.save_checkpoint(folder / "step")
    write_patched(folder / "patched")
    return folder


def write_patched(folder):
    """A checkpoint whose tables are of an earlier step than it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cupyrec.saving.checkpoints.AT_ONCE_BYTES", 0)
        gate = Gate(patch, table=0)
        trainer = make_trainer("resident")
        checkpoints = trainer.checkpoints(folder, every=2)

        def on_step(step, share):
            if trainer.system.steps_done == 3:
                gate.open(checkpoints)

        trainer.fit(made_source(4), checkpoints=checkpoints, on_step=on_step)
    assert (folder / "step-00000003" / "patch.safetensors").exists()


def use_model(folder):
    inspect_path(folder / "model")
    load_model(folder / "model", threads=1).predict(next(made_source(1).batches(4)))


def go_on(folder):
    inspect_path(folder)
    trainer = make_trainer("resident")
    start = trainer.load_checkpoint(folder)
    assert trainer.fit(made_source(4), start=start).steps >= start.steps


def use_checkpoint(folder):
    load_model(folder, threads=1).predict(next(made_source(1).batches(4)))


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
@given(data=st.data())
def test_a_model(whole, file, data):
    check_read_or_refused(data, whole, f"model/{file}", use_model)


@pytest.mark.parametrize("use", [go_on, use_checkpoint])
@pytest.mark.parametrize("file", ["checkpoint.json", "dense.safetensors", "tables-00001.safetensors"])
@settings(max_examples=30)
@given(data=st.data())
def test_a_checkpoint(whole, file, use, data):
    check_read_or_refused(data, whole / "step", file, use)


def spoilt_checksums(folder):
    """As if whoever spoilt a file had known of its checksum."""
    content = json.loads((folder / "checkpoint.json").read_text())
    for name, file in content["files"].items():
        file |= {"bytes": (folder / name).stat().st_size, "crc32": zlib.crc32((folder / name).read_bytes())}
    del content["crc32"], content["format"], content["version"]
    (folder / "checkpoint.json").write_bytes(description_text(content))


@pytest.mark.parametrize("use", [go_on, use_checkpoint])
@pytest.mark.parametrize("file", ["patch.safetensors", "dense.safetensors", "tables-00001.safetensors"])
@settings(max_examples=30)
@given(data=st.data())
def test_a_checkpoint_with_rows_that_changed_whose_checksums_are_right(whole, file, use, data):
    def read(folder):
        spoilt_checksums(folder)
        use(folder)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # any bits may be weights
        check_read_or_refused(data, whole / "patched" / "step-00000003", file, read)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("steps", "3"),
        ("files dense.safetensors crc32", "1\n2"),
        ("files dense.safetensors bytes", 1.5),
        ("state steps", "3"),
        ("state samples", None),
        ("state position batches", "2"),
        ("state seconds", []),
        ("state traffic", dict.fromkeys(("hits", "misses", "evictions", "bytes_in", "bytes_out", "bubbles"), "3")),
        ("state evaluations", [{"step": 2, "metrics": {"samples": "many", "positives": 1}}]),
    ],
)
def test_a_description_of_other_kinds_whose_checksum_is_right(whole, tmp_path, place, value):
    shutil.copytree(whole / "step", tmp_path / "step")
    path = tmp_path / "step" / "checkpoint.json"
    content = json.loads(path.read_text())
    for name in ("crc32", "format", "version"):
        del content[name]
    *parents, last = place.split(" ")
    functools.reduce(lambda values, name: values[name], parents, content)[last] = value
    path.write_bytes(description_text(content))
    with pytest.raises(ModelError, match=r"^[^\n]*checkpoint\.json: damaged: [^\n]*$"):
        go_on(tmp_path / "step")


def test_a_number_in_place_of_a_tensor(whole, tmp_path):
    shutil.copytree(whole / "step", tmp_path / "step")
    path = tmp_path / "step" / "dense.safetensors"
    tensors = load_file(path)
    save_file({name: np.array(1, np.float32) if name == "top.0.bias" else tensors[name] for name in tensors}, path)
    spoilt_checksums(tmp_path / "step")
    with pytest.raises(ModelError, match=r"tensor top\.0\.bias is missing"):
        go_on(tmp_path / "step")


def test_half_a_character_in_a_description(whole, tmp_path):
    """As JSON may have it; there are no bytes of it."""
    shutil.copytree(whole / "model", tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    content = json.loads(path.read_text())
    content["training"] = {"encoding": "\ud800"}
    path.write_text(json.dumps(content))
    export_model(tmp_path / "model", tmp_path / "exported")
    assert inspect_path(tmp_path / "exported", verify=True)["metadata"]["encoding"] == "?"
