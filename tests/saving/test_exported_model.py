"""Models with the names of the DLRM reference, there and back."""

import dataclasses
import json
import os
import tracemalloc

import numpy as np
import pytest
from checkpoint_runs import as_array
from made_batches import CONFIG, made_batch, made_trainer
from safetensors.numpy import load_file, save_file
from synced_files import record_syncs

from cupyrec import load_model
from cupyrec.config import DlrmConfig
from cupyrec.errors import ConfigError, ModelError, OutputError
from cupyrec.folder_lock import LOCK_FILE, FolderLock
from cupyrec.saving import exported_model
from cupyrec.saving.exported_model import export_model, import_model
from cupyrec.saving.open_model import open_model
from cupyrec.saving.reference_names import reference_name
from cupyrec.saving.safetensors_io import read_metadata


@pytest.fixture(scope="module")
def trainer():
    return made_trainer()


@pytest.fixture
def model(trainer, tmp_path):
    trainer.save(tmp_path / "model", {"encoding": "abc"})
    return tmp_path / "model"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LOCK_FILE}


@pytest.mark.parametrize("max_shard_bytes", [10**9, 700, 1])
def test_there_and_back_are_the_same_bits(model, tmp_path, max_shard_bytes):
    files = export_model(model, tmp_path / "out", max_shard_bytes=max_shard_bytes)
    assert [file.name for file in files][-1] == (
        "model.safetensors" if max_shard_bytes == 10**9 else "model.safetensors.index.json"
    )
    assert import_model(tmp_path / "out", tmp_path / "back") == CONFIG
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    opened = open_model(tmp_path / "back")
    assert (opened.steps, opened.encoding) == (3, "abc")
    logits = [load_model(folder, threads=1).predict(made_batch(9)) for folder in (model, tmp_path / "back")]
    assert logits[0].tobytes() == logits[1].tobytes()


def test_what_is_written_can_be_read_by_others(model, tmp_path):
    export_model(model, tmp_path / "out")
    tensors, own = load_file(tmp_path / "out" / "model.safetensors"), open_model(model).tensors
    assert set(tensors) == {reference_name(name) for name in own}
    for name, tensor in own.items():
        np.testing.assert_array_equal(tensors[reference_name(name)], as_array(tensor))
    metadata = read_metadata(tmp_path / "out")
    assert metadata["format"] == "pt"
    assert (metadata["pooling"], metadata["arch_interaction_itself"]) == ("mean", "False")
    assert (metadata["steps"], metadata["encoding"]) == ("3", "abc")


def test_a_checkpoint_is_exported_as_the_model_is(trainer, model, tmp_path):
    trainer.save_checkpoint(tmp_path / "step", {"encoding": "abc"})
    export_model(model, tmp_path / "a")
    export_model(tmp_path / "step", tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


def other_weights(config=CONFIG, **changes):
    """As another program would write them: in order of names, without metadata."""
    rng = np.random.default_rng(3)
    tensors = {
        reference_name(name): rng.normal(size=shape) for name, shape in exported_model.tensor_shapes(config).items()
    }
    return {name: tensor.astype(np.float32) for name, tensor in sorted(tensors.items())} | changes


@pytest.mark.parametrize("pooling", [None, "sum", "mean"])
@pytest.mark.parametrize("self_interaction", [False, True])
def test_weights_from_elsewhere_in_a_file_of_any_name(tmp_path, pooling, self_interaction):
    config = dataclasses.replace(CONFIG, pooling=pooling or "sum", self_interaction=self_interaction)
    save_file(other_weights(config), tmp_path / "dlrm.safetensors")
    assert import_model(tmp_path / "dlrm.safetensors", tmp_path / "model", pooling=pooling) == config
    opened = open_model(tmp_path / "model")
    assert (opened.steps, opened.encoding) == (0, None)
    assert opened.description["training"]["imported_from"] == str(tmp_path / "dlrm.safetensors")
    expected = other_weights(config)
    for name, tensor in opened.tensors.items():
        np.testing.assert_array_equal(as_array(tensor), expected[reference_name(name)])


def test_26_tables_come_in_the_order_of_their_numbers(tmp_path):
    """By name emb_l.10 comes before emb_l.2."""
    config = DlrmConfig(tuple(range(1, 27)), dimension=4, bottom=(4,), top=(1,))
    save_file(other_weights(config), tmp_path / "dlrm.safetensors")
    assert import_model(tmp_path / "dlrm.safetensors", tmp_path / "model").table_rows == tuple(range(1, 27))


def test_pooling_that_contradicts_the_metadata_is_refused(model, tmp_path):
    export_model(model, tmp_path / "out")
    with pytest.raises(ConfigError, match="--pooling mean"):
        import_model(tmp_path / "out", tmp_path / "back", pooling="sum")
    assert import_model(tmp_path / "out", tmp_path / "back", pooling="mean") == CONFIG


@pytest.mark.parametrize("steps", ["x", "-3", "9" * 5000, "³", ""])
def test_steps_of_anybody_are_not_believed(tmp_path, steps):
    save_file(other_weights(), tmp_path / "dlrm.safetensors", metadata={"steps": steps})
    import_model(tmp_path / "dlrm.safetensors", tmp_path / "model")
    assert open_model(tmp_path / "model").steps == 0


def test_pooling_of_anybody_is_checked(tmp_path):
    save_file(other_weights(), tmp_path / "dlrm.safetensors", metadata={"pooling": "max"})
    with pytest.raises(ModelError, match=r"dlrm\.safetensors: pooling must be sum or mean, but is 'max'"):
        import_model(tmp_path / "dlrm.safetensors", tmp_path / "model")


def test_what_does_not_fit_leaves_nothing(tmp_path):
    save_file(other_weights(**{"top_l.0.bias": np.zeros(9, np.float32)}), tmp_path / "dlrm.safetensors")
    with pytest.raises(ModelError, match=r"dlrm\.safetensors: tensor 'top_l\.0\.bias'"):
        import_model(tmp_path / "dlrm.safetensors", tmp_path / "model")
    with pytest.raises(ModelError, match="nowhere: no such file or folder"):
        import_model(tmp_path / "nowhere", tmp_path / "model")
    with pytest.raises(ModelError, match="holds no model"):
        import_model(tmp_path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def write(kind, model, tmp_path, output, **settings):
    if kind == "export":
        return export_model(model, output, **settings)
    if not (tmp_path / "exported").exists():
        export_model(model, tmp_path / "exported")
    return import_model(tmp_path / "exported", output, **settings)


@pytest.mark.parametrize("kind", ["export", "import"])
def test_an_output_that_exists_is_replaced_only_when_told(kind, model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").write_text("")
    write(kind, model, tmp_path, tmp_path / "out", max_shard_bytes=700)
    sharded = content(tmp_path / "out")
    with pytest.raises(OutputError, match="holds a model; choose another --output, or replace it with --overwrite"):
        write(kind, model, tmp_path, tmp_path / "out")
    assert content(tmp_path / "out") == sharded
    write(kind, model, tmp_path, tmp_path / "out", overwrite=True)
    assert "model.safetensors" in content(tmp_path / "out")
    assert "model.safetensors.index.json" not in content(tmp_path / "out")


@pytest.mark.parametrize("kind", ["export", "import"])
def test_one_writes_at_a_time(kind, model, tmp_path):
    (tmp_path / "out").mkdir()
    with FolderLock(tmp_path / "out"), pytest.raises(OutputError, match="another cupyrec is writing to it"):
        write(kind, model, tmp_path, tmp_path / "out")
    assert content(tmp_path / "out") == {}
    write(kind, model, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("kind", ["export", "import"])
def test_what_a_killed_writing_left_is_not_in_the_way(kind, model, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("model.safetensors.partial", "model-00001-of-00003.safetensors.partial", ".model.json.partial"):
        (tmp_path / "out" / name).write_bytes(b"half")
    write(kind, model, tmp_path, tmp_path / "out")
    left = {"model.safetensors"} if kind == "export" else {"model.safetensors", "model.json"}
    assert set(content(tmp_path / "out")) - {".model.json.partial"} == left


@pytest.mark.parametrize("kind", ["export", "import"])
@pytest.mark.parametrize("name", ["notes.txt", "config.toml", "prepared.json", "checkpoint.json"])
def test_a_folder_of_something_else_is_never_written(kind, name, model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(OutputError, match=f"holds {name}; choose a new or empty folder"):
        write(kind, model, tmp_path, tmp_path / "out", overwrite=True)
    assert content(tmp_path / "out") == {name: b"mine"}


def test_a_model_is_never_written_over_what_it_is_made_of(model, tmp_path):
    before = content(model)
    with pytest.raises(OutputError, match="holds the model that is read"):
        export_model(model, model, overwrite=True)
    with pytest.raises(OutputError, match=r"holds (the model|model\.json)"):
        export_model(model, model / ".." / "model", overwrite=True)
    export_model(model, tmp_path / "out")
    exported = content(tmp_path / "out")
    for path in (tmp_path / "out", tmp_path / "out" / "model.safetensors"):
        with pytest.raises(OutputError, match="holds the model that is read"):
            import_model(path, tmp_path / "out", overwrite=True)
    assert content(model) == before
    assert content(tmp_path / "out") == exported


@pytest.mark.parametrize("kind", ["export", "import"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_on_the_way_leaves_nothing(kind, failure, model, tmp_path, monkeypatch):
    if kind == "import":
        export_model(model, tmp_path / "exported")
    fsync, calls = os.fsync, []

    def failing(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise failure
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OutputError if isinstance(failure, OSError) else KeyboardInterrupt):
        write(kind, model, tmp_path, tmp_path / "out", max_shard_bytes=1)
    assert content(tmp_path / "out") == {}


@pytest.mark.parametrize("kind", ["export", "import"])
def test_a_disk_without_room_is_told_before_anything_is_written(kind, model, tmp_path, monkeypatch):
    if kind == "import":
        export_model(model, tmp_path / "exported")
    free = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    with pytest.raises(OutputError, match=r"the model takes .* but 100 B are free"):
        write(kind, model, tmp_path, tmp_path / "below" / "out")
    assert not (tmp_path / "below").exists()


@pytest.mark.parametrize("kind", ["export", "import"])
def test_an_output_that_cannot_be_a_folder(kind, model, tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="cannot be written"):
            write(kind, model, tmp_path, output)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(model, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        export_model(model, tmp_path / "out")


def test_tables_are_streamed(tmp_path):
    """32 MB of tables; what Python allocates on the way are blocks of 8 MB."""
    config = DlrmConfig((500_000, 500_000), dense_features=1, dimension=8, bottom=(8,), top=(1,))
    save_file(
        {
            reference_name(name): np.ones(shape, np.float32)
            for name, shape in exported_model.tensor_shapes(config).items()
        },
        tmp_path / "dlrm.safetensors",
    )
    tracemalloc.start()
    try:
        import_model(tmp_path / "dlrm.safetensors", tmp_path / "model")
        export_model(tmp_path / "model", tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000


def test_the_index_names_all_tensors(model, tmp_path):
    export_model(model, tmp_path / "out", max_shard_bytes=1)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {reference_name(name) for name in open_model(model).tensors}


def test_folders_that_are_made_are_on_the_disk(model, tmp_path, monkeypatch):
    synced = record_syncs(monkeypatch)
    export_model(model, tmp_path / "a" / "b")
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(synced)
