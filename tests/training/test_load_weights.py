"""Training that begins with the weights of a model, of whatever kind, has those weights and nothing else of it."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from checkpoint_runs import CONFIG, SYSTEMS, as_array, bits, made_source, make_trainer

from cupyrec.errors import ConfigError, ModelError
from cupyrec.saving.exported_model import export_model, import_model
from cupyrec.saving.open_model import open_model
from cupyrec.saving.saved_model import model_tensors, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """model/, checkpoint/ and imported/: the same weights; of sgd/ none is."""
    folder = tmp_path_factory.mktemp("weights")
    trainer = make_trainer("resident")
    trainer.fit(made_source())
    trainer.save(folder / "model")
    trainer.save_checkpoint(folder / "checkpoint")
    export_model(folder / "model", folder / "exported")
    import_model(folder / "exported", folder / "imported", pooling="mean")
    return folder


def begun(folder, system="resident", kind="model", **settings):
    trainer = make_trainer(system, **settings)
    trainer.load_weights(folder / kind)
    return trainer


def built_by_hand(folder, system, device):
    """A fresh trainer whose arrays are set one by one."""
    trainer = make_trainer(system, device=device, seed=3)
    weights = {name: as_array(tensor) for name, tensor in open_model(folder / "model").tensors.items()}
    for name, array in model_tensors(trainer.system.model, trainer.system.table).items():
        if isinstance(array, np.ndarray):
            array[:] = weights[name]
        else:
            trainer.device.upload(weights[name], array)
    return trainer


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_begins_with_the_weights_and_trains_on(folder, system, device):
    expected, trainer = built_by_hand(folder, system, device), begun(folder, system, device=device, seed=8)
    assert bits(trainer) == bits(expected)
    results = [each.fit(made_source(7, first=40), valid=made_source(2)) for each in (expected, trainer)]
    assert bits(trainer) == bits(expected)
    assert results[0].final == results[1].final
    assert trainer.system.steps_done == 7


@pytest.mark.parametrize("kind", ["checkpoint", "imported"])
def test_a_model_is_the_same_in_whatever_form(folder, kind):
    assert bits(begun(folder, kind=kind)) == bits(begun(folder))


@pytest.mark.parametrize("optimizer", ["sgd", "rowwise-adagrad"])
def test_the_optimizer_may_be_another(folder, optimizer):
    trainer = begun(folder, optimizer=optimizer)
    assert trainer.fit(made_source()).steps == 10


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("system", ["resident", "static", "scratchpipe"])
def test_a_trainer_that_has_trained_begins_anew(folder, system, device):
    """Its steps, the optimizer's state, and the rows that it has in device memory are void."""
    fresh, used = begun(folder, system, device=device), make_trainer(system, device=device, seed=8)
    used.fit(made_source(6, first=70), valid=made_source(2))
    used.load_weights(folder / "model")
    assert bits(used) == bits(fresh)
    assert (used.state.steps, used.system.steps_done) == (0, 0)
    assert used.evaluate(made_source(5, first=70)) == fresh.evaluate(made_source(5, first=70))
    for trainer in (fresh, used):
        trainer.fit(made_source(3))
    assert bits(used) == bits(fresh)


def test_a_checkpoint_that_is_loaded_and_gone_on_with_from_the_beginning_keeps_its_optimizer(folder):
    kept, anew = make_trainer("resident"), begun(folder, kind="checkpoint")
    kept.load_checkpoint(folder / "checkpoint")
    assert kept.fit(made_source(3)).steps == 3
    anew.fit(made_source(3))
    assert (kept.system.steps_done, anew.system.steps_done) == (13, 3)
    assert (
        kept.system.table.records[:, CONFIG.dimension :].sum() > anew.system.table.records[:, CONFIG.dimension :].sum()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"table_rows": (150, 9, 91)},
        {"dense_features": 4},
        {"dimension": 8, "bottom": (6, 8)},
        {"bottom": (7, 4)},
        {"top": (6, 1)},
        {"pooling": "sum"},
        {"self_interaction": True},
    ],
)
def test_another_shape_is_refused_before_anything_is_changed(folder, change):
    trainer = make_trainer("resident", config=dataclasses.replace(CONFIG, **change))
    before = bits(trainer)
    with pytest.raises(ModelError, match="made for another model: DlrmConfig"):
        trainer.load_weights(folder / "model")
    assert bits(trainer) == before


def test_what_is_no_model_or_is_damaged_is_refused(folder, tmp_path):
    trainer = make_trainer("resident")
    with pytest.raises(ModelError, match="holds no cupyrec model"):
        trainer.load_weights(tmp_path)
    with pytest.raises(ModelError, match="weights from elsewhere become a model with `cupyrec import`"):
        trainer.load_weights(folder / "exported")
    trainer.save(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"spoi")
    with pytest.raises(ModelError, match="the checksum is"):
        trainer.load_weights(tmp_path)
    with pytest.raises(ConfigError, match="folder must be a path"):
        trainer.load_weights(None)


def test_data_of_another_encoding_are_refused(folder, tmp_path):
    opened = open_model(folder / "model")
    write_model(tmp_path, opened.config, opened.tensors, steps=0, training={"encoding": "0123"})
    trainer = make_trainer("resident")
    trainer.load_weights(tmp_path)
    source = made_source()
    source.encoding = "4567"
    with pytest.raises(ConfigError, match=r"encoding 4567, but the model was trained on .* encoding 0123"):
        trainer.fit(source)
    source.encoding = "0123"
    trainer.fit(source)


def test_tables_are_not_held_twice(tmp_path):
    trainer = make_trainer("resident", config=dataclasses.replace(CONFIG, table_rows=(600_000, 9)), optimizer="sgd")
    trainer.save(tmp_path)
    table_bytes = 4 * CONFIG.dimension * 600_000
    # Checksums are compared in blocks of 1 MB, and no array but that of the tables is so large.
    tracemalloc.start()
    try:
        trainer.load_weights(tmp_path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < table_bytes / 4
