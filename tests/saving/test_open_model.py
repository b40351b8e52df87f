"""Models and checkpoints opened without loading them, and loaded for prediction."""

import json
import re

import numpy as np
import pytest
from checkpoint_runs import as_array
from criteo_lines import learnable_text
from made_batches import CONFIG, made_batch, made_source, made_trainer

from cupyrec import CriteoFiles, DlrmConfig, PreparedData, PrepareOptions, Trainer, load_model, prepare
from cupyrec.errors import ConfigError, ModelError
from cupyrec.evaluation.data_encoding import raw_encoding
from cupyrec.saving.exported_model import export_model
from cupyrec.saving.open_model import open_model, tensor_shapes
from cupyrec.saving.saved_model import model_tensors


@pytest.fixture(scope="module")
def trainer():
    return made_trainer(optimizer="adagrad")


def test_the_shapes_are_those_of_a_model(trainer):
    tensors = model_tensors(trainer.system.model, trainer.system.table)
    assert {name: tensor.shape for name, tensor in tensors.items()} == tensor_shapes(CONFIG)
    assert list(tensors) == list(tensor_shapes(CONFIG))


def test_a_saved_model_and_a_checkpoint_are_the_same_model(trainer, tmp_path):
    trainer.save(tmp_path / "model", {"encoding": "abc"})
    trainer.save_checkpoint(tmp_path / "step-00000003", {"encoding": "abc"})
    saved, checkpoint = open_model(tmp_path / "model"), open_model(tmp_path / "step-00000003")
    assert (saved.config, saved.steps, saved.encoding) == (CONFIG, 3, "abc")
    assert (checkpoint.config, checkpoint.steps, checkpoint.encoding) == (CONFIG, 3, "abc")
    expected = model_tensors(trainer.system.model, trainer.system.table)
    for opened in (saved, checkpoint):
        assert list(opened.tensors) == list(expected)
        for name, tensor in opened.tensors.items():
            assert as_array(tensor).tobytes() == np.ascontiguousarray(expected[name]).tobytes()
    logits = [load_model(tmp_path / name, threads=1).predict(made_batch(9)) for name in ("model", "step-00000003")]
    assert logits[0].tobytes() == logits[1].tobytes()


def test_a_model_that_says_nothing_was_trained_on_raw_ids(trainer, tmp_path):
    trainer.save(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    del description["training"]["encoding"]
    (tmp_path / "model.json").write_text(json.dumps(description))
    assert open_model(tmp_path).encoding == load_model(tmp_path).encoding == raw_encoding(CONFIG)


def test_a_folder_of_checkpoints_is_not_one_of_them(trainer, tmp_path):
    for step in (3, 20):
        trainer.save_checkpoint(tmp_path / "run" / "checkpoints" / f"step-{step:08}")
    (tmp_path / "run" / "checkpoints" / "step-00000020").rename(tmp_path / "run" / "checkpoints" / ".step-00000020.old")
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
        with pytest.raises(ModelError, match=r"holds no model, but checkpoints; name one .* such as .*step-00000003$"):
            open_model(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "model.json", "step/checkpoint.json"])
def test_a_file_of_a_model_is_not_its_folder(trainer, tmp_path, file):
    trainer.save(tmp_path)
    trainer.save_checkpoint(tmp_path / "step")
    path = tmp_path / file
    with pytest.raises(ModelError, match=rf"{re.escape(file)}: a file; name the folder of the model, {path.parent}$"):
        load_model(path)


@pytest.mark.parametrize("steps", ["3", -1, None, True])
def test_steps_that_are_no_number_are_damage(trainer, tmp_path, steps):
    trainer.save(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(description | {"steps": steps}))
    with pytest.raises(ModelError, match=r"damaged: steps is|not of the same model"):
        open_model(tmp_path)


def test_a_checkpoint_cut_short_is_named(trainer, tmp_path):
    trainer.save_checkpoint(tmp_path / "step")
    file = tmp_path / "step" / "tables-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelError, match=r"tables-00001\.safetensors: damaged"):
        open_model(tmp_path / "step")


def test_a_checkpoint_with_one_bit_flipped_is_no_model(trainer, tmp_path):
    trainer.save_checkpoint(tmp_path / "step")
    file = tmp_path / "step" / "tables-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    for use in (open_model, load_model, lambda path: export_model(path, tmp_path / "out")):
        with pytest.raises(
            ModelError, match=r"tables-00001\.safetensors: damaged: its checksum is [0-9a-f]{8}, not [0-9a-f]{8}$"
        ):
            use(tmp_path / "step")
    assert not (tmp_path / "out").exists()


def test_a_model_knows_the_data_that_it_was_trained_on(tmp_path):
    """Without the command: what a Trainer saves can be used on those data, and on no others."""
    (tmp_path / "day_0").write_text(learnable_text(60))
    prepare(PrepareOptions(tmp_path / "day_0", tmp_path / "prepared"))
    data = PreparedData(tmp_path / "prepared")
    raw = CriteoFiles(tmp_path / "day_0", hash_rows=data.table_rows)
    shape = DlrmConfig(data.table_rows, dimension=2, bottom=(2,), top=(1,))
    trainer = Trainer(shape, optimizer="sgd", schedule=0.1, batch_size=20)
    checkpoints = trainer.checkpoints(tmp_path / "checkpoints", every=2)
    trainer.fit(data, checkpoints=checkpoints)
    trainer.save(tmp_path / "model")
    again = Trainer(shape, optimizer="sgd", schedule=0.1, batch_size=20)
    again.load_checkpoint(checkpoints.folder.newest)
    again.save(tmp_path / "again")
    for place in (tmp_path / "model", checkpoints.folder.newest, tmp_path / "again"):
        model = load_model(place)
        assert model.evaluate(data).samples == 60
        with pytest.raises(ConfigError, match="cupyrec prepare"):
            model.evaluate(raw)


def test_all_predictions_in_order_and_the_same_whatever_the_batches(trainer, tmp_path):
    trainer.save(tmp_path)
    source, found = made_source(4), []
    assert load_model(tmp_path, threads=1).predict_all(source, lambda x, y: found.append((x.copy(), y.copy())))
    logits = [load_model(tmp_path, threads=1).predict(made_batch(seed)) for seed in range(4)]
    for seed, (x, y) in enumerate(found):
        assert x.dtype == y.dtype == np.float32
        np.testing.assert_array_equal(x, logits[seed])
        np.testing.assert_array_equal(y, made_batch(seed).labels)


def test_a_stop_ends_the_predictions(trainer, tmp_path):
    trainer.save(tmp_path)
    found = []
    stop = lambda: len(found) == 2  # noqa: E731
    assert not load_model(tmp_path).predict_all(made_source(4), lambda *batch: found.append(batch), stop_requested=stop)
    assert len(found) == 2


def test_data_of_another_encoding_are_refused_before_those_of_other_tables(trainer, tmp_path):
    trainer.save(tmp_path, {"encoding": "abc"})
    model, source = load_model(tmp_path), made_source(1)
    source.encoding = "def"
    for use in (model.evaluate, lambda source: model.predict_all(source, print)):
        with pytest.raises(ConfigError, match="encoding def"):
            use(source)
    source.table_rows = (7, 40, 12)
    with pytest.raises(ConfigError, match="encoding def"):
        model.evaluate(source)
    source.encoding = "abc"
    with pytest.raises(ConfigError, match="table 3 of 3 has 12 rows"):
        model.evaluate(source)
