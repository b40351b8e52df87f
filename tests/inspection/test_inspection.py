"""Facts about whatever a path holds, and damage found by reading all of it."""

import json

import numpy as np
import pytest
from criteo_lines import write_learnable
from made_batches import CONFIG, made_trainer
from safetensors.numpy import save_file

from cupyrec.datasets.prepared import manifest
from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.prepared.splits import by_share, write_splits
from cupyrec.datasets.preparing.job import prepare
from cupyrec.datasets.preparing.prepare_options import PrepareOptions
from cupyrec.errors import DataError, ModelError
from cupyrec.evaluation.evaluation import Evaluation
from cupyrec.evaluation.metrics import MetricsResult
from cupyrec.inspection.inspection import inspect_path
from cupyrec.saving import safetensors_file
from cupyrec.saving.exported_model import export_model, import_model
from cupyrec.saving.safetensors_file import ArraySource
from cupyrec.saving.safetensors_io import open_tensors, read_metadata, write_sharded
from cupyrec.saving.saved_model import model_bytes
from cupyrec.saving.training_state import TrainingState
from cupyrec.training.trained_model import load_model

STEP = "step-00000003"


@pytest.fixture(scope="module")
def trainer():
    return made_trainer(optimizer="adagrad")


@pytest.fixture
def run(trainer, tmp_path):
    """The folder of a run, as training leaves it."""
    folder = tmp_path / "run"
    trainer.save(folder, {"encoding": "abc"})
    trainer.save_checkpoint(folder / "checkpoints" / STEP, {"encoding": "abc"})
    (folder / "config.toml").write_text('paths = ["a.tsv"]\nbatch-size = 16\n')
    write_metrics(folder, TRAIN, EVALUATION, END)
    return folder


@pytest.fixture
def data(tmp_path):
    """Prepared data with vocabularies, and their splits."""
    write_learnable(tmp_path / "raw.tsv", 40)
    prepare(PrepareOptions(tmp_path / "raw.tsv", tmp_path / "data", threads=1))
    content = read_manifest(tmp_path / "data")
    write_splits(tmp_path / "data", content, "shares", by_share(40, (0.5, 0.25, 0.25)), overwrite=False)
    return tmp_path / "data"


TRAIN = {"kind": "train", "step": 3, "loss": 0.7}
EVALUATION = {"kind": "evaluation", "step": 3, "auc": 0.6, "log_loss": 0.5, "samples": 9}
END = {
    "kind": "end",
    "steps": 3,
    "samples": 48,
    "seconds": 1.0,
    "evaluation_seconds": 0.1,
    "system": {},
    "device": "cpu",
}
END["interrupted"] = False


def write_metrics(folder, *entries, tail=""):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail)


def flip(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


def test_each_kind_is_known(run, data, tmp_path):
    export_model(run, tmp_path / "exported")
    (run / "checkpoints" / f".{STEP}.partial").mkdir()
    for path, kind in (
        (run, "run"),
        (run / "checkpoints", "checkpoints"),
        (run / "checkpoints" / STEP, "checkpoint"),
        (tmp_path / "exported", "exported model"),
        (tmp_path / "exported" / "model.safetensors", "exported model"),
        (data, "prepared data"),
        (data / "prepared.json", "prepared data"),
        (data / "valid.json", "split"),
    ):
        for verify in (False, True):
            facts = inspect_path(path, verify=verify)
            assert (facts["kind"], facts["path"], facts["verified"]) == (kind, str(path), verify)
            json.dumps(facts)
    for name in ("config.toml", "metrics.jsonl"):
        (run / name).unlink()
    assert inspect_path(run)["kind"] == "run"
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    assert inspect_path(run)["kind"] == "model"


def test_the_facts_of_a_model(run):
    facts = inspect_path(run)["model"]
    assert facts["shape"] == {
        "table_rows": (7, 40, 11),
        "dense_features": 3,
        "dimension": 4,
        "bottom": (6, 4),
        "top": (5, 1),
        "pooling": "mean",
        "self_interaction": False,
    }
    assert facts["dense_parameters"] == 3 * 6 + 6 + 6 * 4 + 4 + 10 * 5 + 5 + 5 + 1
    assert facts["parameters"] == 58 * 4 + facts["dense_parameters"]
    assert facts["weight_bytes"] == model_bytes(CONFIG) == 4 * facts["parameters"]
    assert (facts["files"], facts["file_bytes"]) == (1, (run / "model.safetensors").stat().st_size)
    assert (facts["steps"], facts["encoding"]) == (3, "abc")


def test_the_facts_of_a_run(run):
    facts = inspect_path(run)
    assert facts["state"] == "ended"
    assert facts["config"] == {"paths": ["a.tsv"], "batch-size": 16}
    assert facts["metrics"] == {
        "lines": {"train": 1, "evaluation": 1},
        "first_loss": 0.7,
        "last_train": TRAIN,
        "last_evaluation": EVALUATION,
        "best_evaluation": EVALUATION,
        "end": END,
    }
    assert [(each["name"], each["steps"]) for each in facts["checkpoints"]] == [(STEP, 3)]
    assert (facts["bad_rows_files"], facts["unsaved"]) == ([], [])


@pytest.mark.parametrize(
    ("entries", "tail", "state"),
    [
        ([TRAIN, END], "", "ended"),
        ([TRAIN, END | {"interrupted": True}], "", "interrupted"),
        ([TRAIN, {"kind": "end", "steps": 3, "stopped_by": "no room"}], "", "stopped"),
        ([TRAIN], "", "unfinished"),
        ([TRAIN], '{"kind": "end", "st', "unfinished"),
        ([], "", "unfinished"),
        ([TRAIN, END | {"interrupted": True}, TRAIN], "", "unfinished"),
        ([TRAIN, END | {"interrupted": True}, TRAIN, END], "", "ended"),
    ],
)
def test_how_a_run_ended(run, entries, tail, state):
    write_metrics(run, *entries, tail=tail)
    assert inspect_path(run)["state"] == state


@pytest.mark.parametrize(
    ("aucs", "best"),
    [([None, 0.8, 0.7], 2), ([0.7, 0.8, 0.8, 0.6], 3), ([None, None], 2), ([0.0, None], 1)],
)
def test_the_best_evaluation_is_that_of_the_run(run, aucs, best):
    state = TrainingState()
    for step, auc in enumerate(aucs, start=1):
        state.evaluations.append(Evaluation(step, MetricsResult(9, 4, 0.4, auc, 0.5, 0.7, None, None, 0.6)))
    write_metrics(run, *(EVALUATION | {"step": step, "auc": auc} for step, auc in enumerate(aucs, start=1)))
    metrics = inspect_path(run)["metrics"]
    assert (metrics["best_evaluation"]["step"], metrics["last_evaluation"]["step"]) == (best, len(aucs))
    assert state.best.step == best


def test_a_run_that_saved_no_model(run):
    for file in ("model.json", "model.safetensors", "metrics.jsonl"):
        (run / file).unlink()
    (run / "unsaved-metrics.jsonl").write_text("")
    (run / "bad_rows.tsv").write_text("")
    facts = inspect_path(run, verify=True)
    assert (facts["model"], facts["state"]) == (None, "unfinished")
    assert (facts["unsaved"], facts["bad_rows_files"]) == (["unsaved-metrics.jsonl"], ["bad_rows.tsv"])


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        "\xff",
        "[" * 100_000,
        json.dumps(TRAIN | {"step": None}),
        json.dumps(TRAIN | {"loss": "low"}),
        json.dumps({"kind": "evaluation", "step": 3, "auc": "high", "log_loss": 1, "samples": 3}),
        json.dumps(END | {"samples": None}),
    ],
    ids=range(9),
)
def test_a_damaged_line_is_named(run, line):
    (run / "metrics.jsonl").write_bytes(f"{json.dumps(TRAIN)}\n{line}\n".encode("latin-1"))
    with pytest.raises(ModelError, match=r"metrics\.jsonl, line 2: damaged"):
        inspect_path(run)


def test_a_damaged_configuration_is_named(run):
    (run / "config.toml").write_text("paths = [")
    with pytest.raises(ModelError, match=r"config\.toml: not a TOML file"):
        inspect_path(run)


@pytest.mark.parametrize("kind", ["run", "exported"])
def test_weights_that_are_no_numbers_are_found(run, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(safetensors_file, "BLOCK_BYTES", 64)
    tensors = {name: np.array(tensor) for name, tensor in open_tensors(run).items()}
    tensors["embedding.2.weight"][1, 2] = np.inf
    write_sharded(run, {name: ArraySource(tensor) for name, tensor in tensors.items()}, read_metadata(run))
    path, name = run, "embedding.2.weight"
    if kind == "exported":
        path, name = tmp_path / "exported", "emb_l.2.weight"
        export_model(run, path)
    inspect_path(path)
    with pytest.raises(ModelError, match=rf"tensor {name}\[1, 2\] is inf"):
        inspect_path(path, verify=True)


def test_damage_of_weights_is_found_wherever_they_are_used(run, tmp_path):
    exported = tmp_path / "exported"
    export_model(run, exported)
    flip(run / "model.safetensors", -3)
    flip(exported / "model.safetensors", -3)
    for path in (run, exported, exported / "model.safetensors"):
        inspect_path(path)
    for use in (
        lambda: inspect_path(run, verify=True),
        lambda: inspect_path(exported, verify=True),
        lambda: inspect_path(exported / "model.safetensors", verify=True),
        lambda: load_model(run),
        lambda: export_model(run, tmp_path / "again"),
        lambda: import_model(exported, tmp_path / "again"),
    ):
        with pytest.raises(ModelError, match=r"model\.safetensors: damaged, or changed by"):
            use()
    assert not (tmp_path / "again").exists()


def test_weights_without_a_checksum_are_good(run, tmp_path):
    """As those of an earlier cupyrec."""
    facts = inspect_path(run, verify=True)["model"]
    assert facts["checksums_compared"]
    assert not inspect_path(run)["model"]["checksums_compared"]
    weights = run / "model.safetensors"
    save_file({name: np.array(tensor) for name, tensor in open_tensors(run).items()}, weights, read_metadata(run))
    assert inspect_path(run, verify=True)["model"] == facts | {
        "checksums_compared": False,
        "file_bytes": weights.stat().st_size,
    }
    load_model(run)
    export_model(run, tmp_path / "exported")
    assert inspect_path(tmp_path / "exported", verify=True)["checksums_compared"]


@pytest.mark.parametrize("file", ["tables-00001.safetensors", "dense.safetensors"])
def test_damage_of_a_checkpoint_is_found_wherever_one_looks(run, file):
    flip(run / "checkpoints" / STEP / file)
    for path in (run, run / "checkpoints", run / "checkpoints" / STEP):
        inspect_path(path)
        with pytest.raises(ModelError, match=rf"{file}: damaged"):
            inspect_path(path, verify=True)


def test_a_checkpoint_that_cannot_be_read_is_listed_with_what_is_wrong(run):
    (run / "checkpoints" / STEP / "dense.safetensors").unlink()
    for path in (run, run / "checkpoints"):
        (listed,) = inspect_path(path)["checkpoints"]
        assert "dense.safetensors" in listed["damage"]
        with pytest.raises(ModelError, match=r"dense\.safetensors"):
            inspect_path(path, verify=True)
    with pytest.raises(ModelError, match=r"dense\.safetensors"):
        inspect_path(run / "checkpoints" / STEP)


def test_the_facts_of_prepared_data(data):
    facts = inspect_path(data)
    shard = data / "shard-00000.arrow"
    assert (facts["samples"], facts["shards"], facts["data_bytes"]) == (40, 1, shard.stat().st_size)
    assert facts["bytes_per_sample"] == shard.stat().st_size / 40
    assert facts["inputs"][0]["samples"] == 40
    assert len(facts["tables"]) == 26
    assert (facts["tables"][0]["name"], facts["tables"][0]["coverage"]) == ("C1", 1.0)
    assert [(each["file"], each["samples"], each["share"]) for each in facts["splits"]] == [
        ("test.json", 10, 0.25),
        ("train.json", 20, 0.5),
        ("valid.json", 10, 0.25),
    ]
    part = inspect_path(data / "valid.json")
    assert (part["samples"], part["share"], part["ranges"], part["data"]) == (10, 0.25, [[20, 30]], str(data))


def test_damage_of_prepared_data_is_found(data, monkeypatch):
    shard = data / "shard-00000.arrow"
    content = shard.read_bytes()
    labels = content.index(np.float32(1).tobytes())
    flip(shard, labels)
    inspect_path(data)
    for path in (data, data / "train.json"):
        with pytest.raises(DataError, match=r"shard-00000\.arrow"):
            inspect_path(path, verify=True)
    shard.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"shard-00000\.arrow: damaged: it has"):
        inspect_path(data)


def test_vocabularies_of_other_data_are_found(data, tmp_path):
    file = read_manifest(data).categories[0].vocabulary
    other = read_manifest(data).categories[1].vocabulary
    (data / file).write_bytes((data / other).read_bytes())
    inspect_path(data)
    with pytest.raises(DataError, match="the vocabularies are not those of the data"):
        inspect_path(data, verify=True)


def test_a_damaged_split_is_listed_or_found(data):
    (data / "valid.json").write_text("{")
    (data / "notes.json").write_text("[]")
    assert [each["file"] for each in inspect_path(data)["splits"] if "damage" in each] == ["valid.json"]
    for path, verify in ((data, True), (data / "valid.json", False)):
        with pytest.raises(DataError, match=r"valid\.json: damaged"):
            inspect_path(path, verify=verify)
    with pytest.raises(DataError, match=r"notes\.json: not a split"):
        inspect_path(data / "notes.json")


def test_a_preparation_that_was_stopped(data):
    (data / manifest.MANIFEST_FILE).unlink()
    (data / ".preparing").mkdir()
    with pytest.raises(DataError, match="the same `cupyrec prepare` goes on with it"):
        inspect_path(data)


def test_what_is_none_of_these_says_what_was_looked_for(tmp_path):
    (tmp_path / "file.txt").write_text("")
    for path, message in (
        (tmp_path / "nowhere", "no such file or folder"),
        (tmp_path, r"holds nothing that cupyrec makes: no model\.json, .*prepared\.json"),
        (tmp_path / "file.txt", r"neither a \.safetensors file nor a split file"),
    ):
        with pytest.raises(ModelError, match=message):
            inspect_path(path)


def test_tensors_of_another_model(tmp_path, run):
    (run / "model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"weights of a cupyrec model; name the folder that has its model\.json"):
        inspect_path(tmp_path / "other.safetensors")
    save_file({"conv.weight": np.zeros(7, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"not those of a DLRM: 'conv\.weight'"):
        inspect_path(tmp_path / "other.safetensors")


def test_progress_never_falls_and_reaches_the_end(run, data, tmp_path):
    export_model(run, tmp_path / "exported")
    for path in (run / "checkpoints", data, tmp_path / "exported"):
        shares = []
        inspect_path(path, verify=True, on_progress=shares.append)
        assert shares == sorted(shares)
        assert shares[-1] == 1
