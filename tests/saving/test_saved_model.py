"""Models on disk: bit for bit, all or nothing, readable by others."""

import dataclasses
import json
import os

import numpy as np
import pytest
import safetensors
from checkpoint_runs import as_array
from made_batches import BATCH_SIZE, CONFIG, TABLE_ROWS, made_source
from safetensors.numpy import load_file

from cupyrec import Adagrad, Trainer, load_model
from cupyrec.errors import ModelError, OutputError
from cupyrec.saving.open_model import checked_tensors, open_model
from cupyrec.saving.saved_model import model_tensors, read_model, save_model


def make_trainer(config=CONFIG, **settings):
    return Trainer(config, **({"batch_size": BATCH_SIZE, "threads": 1} | settings))


@pytest.fixture(scope="module")
def trainer():
    """Adagrad: each record is D weights and as many numbers of state."""
    trainer = make_trainer(optimizer=Adagrad())
    trainer.fit(made_source(4))
    return trainer


def tensors_of(trainer):
    named = model_tensors(trainer.system.model, trainer.system.table)
    return {name: np.ascontiguousarray(array) for name, array in named.items()}


def save(trainer, folder, **settings):
    save_model(folder, trainer.system.model, trainer.system.table, steps=trainer.system.steps_done, **settings)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_same(tensors, others):
    assert tensors.keys() == others.keys()
    for name in tensors:
        assert tensors[name].shape == others[name].shape
        assert tensors[name].dtype == others[name].dtype == np.float32
        assert tensors[name].tobytes() == others[name].tobytes()


def test_the_file_has_these_tensors_and_no_optimizer_state(trainer, tmp_path):
    save(trainer, tmp_path)
    assert names(tmp_path) == ["model.json", "model.safetensors"]
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "embedding.0.weight": (7, 4),
        "embedding.1.weight": (40, 4),
        "embedding.2.weight": (11, 4),
        "bottom.0.weight": (6, 3),
        "bottom.0.bias": (6,),
        "bottom.1.weight": (4, 6),
        "bottom.1.bias": (4,),
        "top.0.weight": (5, 10),
        "top.0.bias": (5,),
        "top.1.weight": (1, 5),
        "top.1.bias": (1,),
    }
    check_same(tensors, tensors_of(trainer))
    records = trainer.system.table.records
    assert records.shape == (58, 8)
    assert (records[:, 4:] != 0).any()
    np.testing.assert_array_equal(tensors["embedding.1.weight"], records[7:47, :4])


def test_the_description_says_what_it_is(trainer, tmp_path):
    save(trainer, tmp_path, training={"note": "é"})
    description = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert description["format"] == "cupyrec-model"
    assert description["version"] == 1
    assert description["steps"] == 4
    assert description["training"] == {"note": "é"}
    assert read_model(tmp_path) == (CONFIG, description)
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["model"]) == description["model"]


@pytest.mark.parametrize("max_shard_bytes", [10**9, 700, 1])
def test_a_round_trip_is_exact_in_one_file_or_many(trainer, tmp_path, max_shard_bytes):
    save(trainer, tmp_path, max_shard_bytes=max_shard_bytes)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == {10**9: 1, 700: 3, 1: 11}[max_shard_bytes]
    check_same({name: tensor for shard in shards for name, tensor in load_file(shard).items()}, tensors_of(trainer))
    check_same({name: as_array(tensor) for name, tensor in open_model(tmp_path).tensors.items()}, tensors_of(trainer))


def test_the_same_weights_are_the_same_bytes(trainer, tmp_path):
    for name in ("a", "b"):
        save(trainer, tmp_path / name, training={"name": name})
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("old", "new"), [(1, 10**9), (10**9, 1), (1, 700), (700, 1)])
def test_a_new_model_leaves_no_file_of_the_old_one(trainer, tmp_path, old, new):
    save(make_trainer(dataclasses.replace(CONFIG, top=(9, 7, 1))), tmp_path / "both", max_shard_bytes=old)
    for folder in ("both", "new"):
        save(trainer, tmp_path / folder, max_shard_bytes=new)
    assert content(tmp_path / "both") == content(tmp_path / "new")


@pytest.mark.parametrize("old_shard_bytes", [10**9, 1])
@pytest.mark.parametrize("at", range(3))
def test_a_failure_while_writing_leaves_the_old_model_whole(trainer, tmp_path, monkeypatch, at, old_shard_bytes):
    """Each file reaches the disk by its own fsync: the description's is the first, then those of the shards."""
    save(make_trainer(seed=3), tmp_path, max_shard_bytes=old_shard_bytes)
    before, fsync, calls = content(tmp_path), os.fsync, []

    def failing(descriptor):
        calls.append(descriptor)
        if len(calls) > at:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OutputError, match="No space left on device"):
        save(trainer, tmp_path, max_shard_bytes=1)
    monkeypatch.undo()
    assert content(tmp_path) == before
    check_same(tensors_of(make_trainer(seed=3)), load_tensors(tmp_path))


def load_tensors(folder):
    return {name: tensor for shard in folder.glob("*.safetensors") for name, tensor in load_file(shard).items()}


def test_no_folder_to_write_to(trainer, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="cannot be written"):
            save(trainer, folder)
    assert names(tmp_path) == ["file"]


def change_description(folder, **changes):
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(description | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not a cupyrec model"),
        ({"version": 2}, "format version 2, but this cupyrec reads 1"),
        ({"version": "1\n2"}, r"format version '1\\n2', but"),
        ({"steps": 5}, "not of the same model"),
        ({"model": None}, "damaged"),
        ({"model": {"table_rows": [7, 40, 11], "heads": 3}}, "damaged.*heads"),
        ({"model": {"table_rows": [7, -40, 11]}}, "damaged.*table_rows"),
        ({"model": {"table_rows": [7, 40, 12]}}, "not of the same model"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(trainer, tmp_path, changes, message):
    save(trainer, tmp_path)
    change_description(tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"', "[" * 100_000, "\xff"], ids=range(7))
def test_a_description_that_is_none_is_refused(trainer, tmp_path, text):
    save(trainer, tmp_path)
    (tmp_path / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"model\.json: (damaged|not a cupyrec model)"):
        load_model(tmp_path)


def test_missing_files_are_named(trainer, tmp_path):
    with pytest.raises(ModelError, match=r"none: holds no cupyrec model: model\.json: No such file"):
        load_model(tmp_path / "none")
    save(trainer, tmp_path, max_shard_bytes=700)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match="model-00002-of-00003"):
        load_model(tmp_path)


def test_weights_of_another_shape_are_named(trainer, tmp_path):
    save(trainer, tmp_path)
    tensors = open_model(tmp_path).tensors
    for change, message in (
        ({"table_rows": (*TABLE_ROWS[:2], 12)}, r"embedding\.2\.weight is \(11, 4\) float32, but \(12, 4\) float32"),
        ({"top": (5, 3, 1)}, r"top\.1\.weight"),
        ({"table_rows": (*TABLE_ROWS, 5)}, r"embedding\.3\.weight is missing"),
    ):
        with pytest.raises(ModelError, match=message):
            checked_tensors(tensors, dataclasses.replace(CONFIG, **change), tmp_path)
