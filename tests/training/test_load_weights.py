"""Training that begins with the weights of a model, of whatever kind, has those weights and nothing else of it."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from batch_strategies import random_batch
from checkpoint_runs import (
    BATCH_SIZE,
    CONFIG,
    DENSE_FEATURES,
    SYSTEMS,
    TABLE_ROWS,
    Gate,
    as_array,
    bits,
    made_source,
    make_trainer,
)

from cupyrec import Adagrad
from cupyrec.datasets.source import BatchList
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


GROWN_ROWS = (170, 9, 200)
GROWN = dataclasses.replace(CONFIG, table_rows=GROWN_ROWS)


class Data(BatchList):
    """Batches of tables that have grown, as the encoding says."""

    def __init__(self, count, *, first=0, encoding="now", earlier=()):
        batches = [
            random_batch(np.random.default_rng(seed), GROWN_ROWS, BATCH_SIZE, dense_features=DENSE_FEATURES)
            for seed in range(first, first + count)
        ]
        super().__init__(batches, GROWN_ROWS, DENSE_FEATURES)
        self.encoding, self.earlier_encodings = encoding, dict.fromkeys(earlier, TABLE_ROWS)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_tables_that_have_grown_have_the_weights_and_new_rows(folder, system, device):
    """In every system the model's rows come first, and those after them are as in a new table."""
    fresh, trainer = (make_trainer(system, device=device, config=GROWN) for _ in range(2))
    trainer.fit(Data(6, first=30))  # what it had by then is void
    trainer.load_weights(folder / "model", grow=True)
    weights = {name: as_array(tensor) for name, tensor in open_model(folder / "model").tensors.items()}
    fresh.system.finish()
    trainer.system.finish()
    for table, rows in enumerate(TABLE_ROWS):
        found = trainer.system.table.weights_of(table)
        assert np.array_equal(found[:rows], weights[f"embedding.{table}.weight"])
        assert np.array_equal(found[rows:], fresh.system.table.weights_of(table)[rows:])
    assert not trainer.system.table.records[:, CONFIG.dimension :].any()
    # What it trains on is what it was given, in host and device memory alike.
    again = make_trainer("resident", config=GROWN, device=device, seed=77)
    trainer.save_checkpoint(folder / f"grown-{system}-{device}")
    again.load_checkpoint(folder / f"grown-{system}-{device}")
    for each in (trainer, again):
        each.fit(Data(5))
    if system in ("resident", "serial", "scratchpipe"):
        assert bits(trainer) == bits(again)


def test_tables_grow_only_where_that_is_asked_for_and_only_to_more_rows(folder):
    trainer = make_trainer("resident", config=GROWN)
    before = bits(trainer)
    with pytest.raises(
        ModelError, match=r"another model: .*; where data were prepared with --grow, load_weights takes"
    ):
        trainer.load_weights(folder / "model")
    for rows in ((170, 8, 200), (149, 9, 200), (170, 9)):
        fewer = make_trainer("resident", config=dataclasses.replace(CONFIG, table_rows=rows))
        with pytest.raises(ModelError, match="made for another model: DlrmConfig"):
            fewer.load_weights(folder / "model", grow=True)
    wider = make_trainer("resident", config=dataclasses.replace(GROWN, top=(6, 1)))
    with pytest.raises(ModelError, match="made for another model: DlrmConfig"):
        wider.load_weights(folder / "model", grow=True)
    assert bits(trainer) == before


def test_data_must_have_grown_from_those_of_the_weights(tmp_path):
    source = made_source()
    source.encoding = "then"
    small = make_trainer("resident")
    small.fit(source)
    small.save(tmp_path / "model")

    def begin():
        trainer = make_trainer("resident", config=GROWN)
        trainer.load_weights(tmp_path / "model", grow=True)
        return trainer

    trainer = begin()
    with pytest.raises(ConfigError, match="other vocabularies"):
        trainer.fit(Data(3))
    with pytest.raises(ConfigError, match="other vocabularies"):
        trainer.fit(Data(3, earlier=["before"]))
    assert trainer.fit(Data(3, earlier=["before", "then"])).steps == 3
    # From then on the model is one of the new encoding.
    trainer.save(tmp_path / "grown")
    assert open_model(tmp_path / "grown").encoding == "now"
    with pytest.raises(ConfigError, match="other vocabularies"):
        trainer.fit(Data(3, encoding="then"))
    # Validation data have the encoding of the training data, whether they say how it came about or not.
    valid = Data(2, first=20)
    assert begin().fit(Data(3, earlier=["then"]), valid=valid).final.metrics.samples == 2 * BATCH_SIZE
    with pytest.raises(ConfigError, match="the vocabularies have grown since the model was trained: table 1 of 3 has "
                                          "170 rows, and 150 in the model"):  # fmt: skip
        small.fit(Data(3, earlier=["then"]))


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("config", [CONFIG, GROWN])
@pytest.mark.parametrize("optimizer", ["adagrad", "rowwise-adagrad", "sgd"])
def test_what_the_optimizer_remembers_is_taken_over(tmp_path, optimizer, config, device):
    first = make_trainer("scratchpipe", optimizer=optimizer)
    first.fit(made_source())
    first.save_checkpoint(tmp_path / "checkpoint")
    trainer = make_trainer("scratchpipe", optimizer=optimizer, config=config, device=device)
    trainer.load_weights(tmp_path / "checkpoint", grow=True, optimizer_state=True)
    assert trainer.system.steps_done == trainer.state.steps == 0
    for table, rows in enumerate(TABLE_ROWS):
        found, before = (each.system.table.records_of(table) for each in (trainer, first))
        assert np.array_equal(found[:rows], before)
        assert not found[rows:, CONFIG.dimension :].any()
    now, then = trainer._model_state.dense(), first._model_state.dense()
    assert {name: array.tobytes() for name, array in now.items()} == {name: a.tobytes() for name, a in then.items()}
    if config == CONFIG:
        # The steps after it are those of a run that goes on from there.
        for each in (first, trainer):
            each.fit(made_source(4, first=50))
        if device == "cpu":
            assert bits(trainer)[1:] == bits(first)[1:]


def test_changed_rows_beside_the_tables_of_a_checkpoint_count_with_their_state(tmp_path, monkeypatch):
    """Of a checkpoint that was written while training went on."""
    monkeypatch.setattr("cupyrec.saving.checkpoints.AT_ONCE_BYTES", 0)
    gate = Gate(monkeypatch, table=0)
    first = make_trainer("scratchpipe")
    checkpoints = first.checkpoints(tmp_path, every=3, keep=5)

    def on_step(_result, _share):
        if first.system.steps_done == 6:
            gate.open(checkpoints)

    first.fit(made_source(), on_step=on_step, checkpoints=checkpoints)
    step = tmp_path / "step-00000006"
    assert (step / "patch.safetensors").exists()
    expected, trainer = make_trainer("resident"), make_trainer("resident")
    expected.load_checkpoint(step)
    trainer.load_weights(step, optimizer_state=True)
    assert bits(trainer)[1:] == bits(expected)[1:]
    assert (bits(trainer)[0], bits(expected)[0]) == (0, 6)


def test_a_state_that_is_not_there_or_of_another_optimizer_is_refused(folder):
    trainer = make_trainer("resident")
    before = bits(trainer)
    with pytest.raises(ModelError, match="a model, which has no state of its optimizer; name a checkpoint"):
        trainer.load_weights(folder / "model", optimizer_state=True)
    assert bits(trainer) == before
    for optimizer in ("sgd", "rowwise-adagrad", Adagrad(eps=0.1)):
        with pytest.raises(ModelError, match="made with the optimizer adagrad eps 1e-10, and not "):
            make_trainer("resident", optimizer=optimizer).load_weights(folder / "checkpoint", optimizer_state=True)
    with pytest.raises(ConfigError, match="optimizer_state must be True or False"):
        trainer.load_weights(folder / "checkpoint", optimizer_state="yes")
