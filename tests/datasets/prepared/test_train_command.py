"""`cupyrec train` on prepared data: parts of them, and damage, which is one line that names the file."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import run_here
from criteo_lines import files_in
from prepared_for_tests import random_samples, rewrite, with_value, write_prepared

from cupyrec.datasets.prepared import manifest
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.datasets.prepared.splits import by_share, write_splits
from cupyrec.training.trained_model import load_model

BLOCK, SHARD, SAMPLES = 32, 64, 200
TABLES = (7, 300, 40)
SMALL = ["--bottom-mlp=6-4", "--top-mlp=5-1", "--dimension=4", "--batch-size=16", "--threads=1", "--warmup-steps=0"]


@pytest.fixture
def folder(tmp_path, small_blocks, monkeypatch):
    """data/, of four shards; train.json and valid.json in it are the first 0.8 and the next 0.1."""
    monkeypatch.chdir(tmp_path)
    samples = random_samples(SAMPLES, TABLES, multi_hot=(1,))
    samples.dense[:] /= SAMPLES
    content = write_prepared(tmp_path / "data", samples)
    write_splits(tmp_path / "data", content, "shares", by_share(SAMPLES, (0.8, 0.1, 0.1)), overwrite=False)
    return tmp_path / "data"


def train(capsys, *arguments):
    return run_here(capsys, "train", *SMALL, *arguments)


def final_metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "evaluation"][-1]


def test_a_share_and_splits_of_the_same_samples_give_the_same_model(folder, tmp_path, capsys):
    content = json.loads((folder / "train.json").read_text()) | {"ranges": [[0, 180]], "samples": 180}
    (folder / "head.json").write_text(json.dumps(content))
    for output, arguments in (("a", ["data/head.json", "--valid=0.1111"]), ("b", ["data/train.json"])):
        valid = ["--valid=data/valid.json"] if output == "b" else []
        outcome = train(capsys, *arguments, *valid, f"--output={output}", "--epochs=2")
        assert outcome.code == 0, outcome
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert final_metrics(tmp_path / "a")["samples"] == 20
    assert final_metrics(tmp_path / "a") == final_metrics(tmp_path / "b")
    description = json.loads((tmp_path / "a" / "model.json").read_text())
    assert description["training"]["encoding"] == manifest.read_manifest(folder).encoding


def test_a_share_of_the_whole_folder(folder, tmp_path, capsys):
    outcome = train(capsys, "data", "--valid=0.1", "--output=run")
    assert "training on the first 180 samples of data, validating on the last 20 samples" in outcome.out
    assert "trained 12 steps, 180 samples" in outcome.out
    evaluated = run_here(capsys, "evaluate", "run", "data/test.json", "--json", "--batch-size=16", "--threads=1")
    metrics, final = json.loads(evaluated.out), final_metrics(tmp_path / "run")
    assert (metrics["samples"], metrics["log_loss"]) == (20, final["log_loss"])


def test_shuffled_it_is_another_model_and_the_same_again(folder, tmp_path, capsys):
    for output, options in (("a", []), ("b", ["--shuffle"]), ("c", ["--shuffle"]), ("d", ["--shuffle", "--seed=7"])):
        assert train(capsys, "data", f"--output={output}", *options).code == 0
    weights = [(tmp_path / output / "model.safetensors").read_bytes() for output in "abcd"]
    assert weights[1] == weights[2]
    assert len(set(weights)) == 3


def test_more_lookups_than_one_are_predicted_in_order(folder, tmp_path, capsys):
    assert train(capsys, "data/train.json", "--output=run").code == 0
    assert run_here(capsys, "predict", "run", "data", "--output=p", "--threads=1", "--batch-size=30").code == 0
    found = pq.read_table("p")
    loaded = load_model("run", batch_size=30, threads=1)
    batches = list(PreparedData("data").batches(30))
    logits = np.concatenate([loaded.predict(batch) for batch in batches])
    assert found["logit"].to_numpy().tobytes() == logits.tobytes()
    assert found["label"].to_pylist() == np.concatenate([batch.labels for batch in batches]).tolist()


def shard_bytes(change):
    def damage(folder):
        path = folder / "shard-00001.arrow"
        content = bytearray(path.read_bytes())
        path.write_bytes(change(content))

    return damage


def flipped(place):
    """place: of the byte in the file, from its content."""

    def flip(content):
        content[place(content)] ^= 0x04
        return content

    return shard_bytes(flip)


def edit(name, change):
    def damage(folder):
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return damage


def numbers_changed(*change):
    """With right checksums, as a program that is wrong would write them."""

    def damage(folder):
        rewrite(folder, 1, lambda blocks: [blocks[0], with_value(blocks[1], *change)])

    return damage


DAMAGES = {
    "a shard is deleted": (lambda folder: (folder / "shard-00001.arrow").unlink(), "shard-00001.arrow: .*missing"),
    "a shard is truncated": (shard_bytes(lambda content: content[:-100]), "shard-00001.arrow: damaged: it has"),
    "a shard is empty": (shard_bytes(lambda content: b""), "shard-00001.arrow: damaged: it has 0 bytes"),
    "a shard has grown": (shard_bytes(lambda content: content + b"x"), "shard-00001.arrow: damaged: it has"),
    # The first whole label of 1 after the schema is among the labels of the first block.
    "a byte of the body": (
        flipped(lambda content: content.index(np.float32(1).tobytes())),
        "shard-00001.arrow: damaged: the checksum of rows 0 to 31 is wrong",
    ),
    "a byte of the schema": (flipped(lambda content: content.rindex(b"dense")), "shard-00001.arrow: damaged"),
    "a byte of the footer's length": (flipped(lambda content: len(content) - 8), "shard-00001.arrow: damaged"),
    "a byte of the last mark": (flipped(lambda content: len(content) - 1), "shard-00001.arrow: damaged"),
    "a number of the manifest": (
        edit("prepared.json", lambda content: content["categories"][1].update(rows=299)),
        "prepared.json: damaged: its checksum is wrong",
    ),
    "no manifest": (
        lambda folder: (folder / "prepared.json").unlink(),
        "train.json: a split is of use only in the folder",
    ),
    "half a manifest": (
        lambda folder: (folder / "prepared.json").write_bytes((folder / "prepared.json").read_bytes()[:300]),
        "prepared.json: damaged",
    ),
    "a range of the split": (
        edit("train.json", lambda content: content.update(ranges=[[0, 161]])),
        "train.json: damaged: its samples are not those of its ranges",
    ),
    "the split of other data": (
        edit("train.json", lambda content: content.update(data_samples=300)),
        "train.json: made for other data",
    ),
    "an id out of its table": (
        numbers_changed("C3", 5, 40),
        "shard-00001.arrow: row 37 .from 0., column C3: the id 40 is not in its table of 40 rows",
    ),
    "an id of a list": (
        numbers_changed("C2", 6, [3, 300]),
        "shard-00001.arrow: row 38 .from 0., column C2: the id 300 is not in its table of 300 rows",
    ),
    "a label": (
        numbers_changed("label", 2, 0.25),
        "shard-00001.arrow: row 34 .from 0., column label: a label is 0 or 1, not 0.25",
    ),
    "a dense value": (
        numbers_changed("dense", 1, [0.0, 1.0, float("nan")]),
        "shard-00001.arrow: row 33 .from 0., column I3: nan is not finite",
    ),
}


@pytest.mark.parametrize("shuffle", ["--shuffle", "--no-shuffle"])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_ends_training_with_one_line(folder, tmp_path, capsys, name, shuffle):
    damage, message = DAMAGES[name]
    damage(folder)
    outcome = train(capsys, "data/train.json", "--output=run", shuffle)
    assert (outcome.code, outcome.err.count("cupyrec: error: ")) == (2, 1), outcome
    line = outcome.err.splitlines()[-1].removeprefix("cupyrec: error: ")
    assert re.match(f"data(/|: ){message}", line), line
    # What was trained before the damage was met is kept; of what was found at once there is nothing.
    saved = re.search(r"the (\d+) steps? trained before", line)
    assert (saved is not None) == (tmp_path / "run" / "model.json").exists()
    if saved:
        assert json.loads((tmp_path / "run" / "model.json").read_text())["steps"] == int(saved[1])


@pytest.mark.parametrize("name", ["a byte of the body", "an id out of its table"])
@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_damage_ends_prediction_with_one_line(folder, tmp_path, capsys, name, command):
    assert train(capsys, "data/train.json", "--output=run").code == 0
    damage, message = DAMAGES[name]
    damage(folder)
    output = ["--output=p"] if command == "predict" else []
    outcome = run_here(capsys, command, "run", "data", "--batch-size=16", *output)
    assert (outcome.code, outcome.out) == (2, "")
    assert re.match(f"cupyrec: error: data/{message}", outcome.err.splitlines()[-1])
    assert not {"p", ".p.partial"} & set(files_in(tmp_path))


@pytest.mark.parametrize("place", [2, "dense"])
def test_the_beginning_of_a_shard_is_said_again_at_its_end(folder, tmp_path, capsys, place):
    """Nothing of it is read."""
    assert train(capsys, "data", "--output=a").code == 0
    flipped(lambda content: content.index(place.encode()) if isinstance(place, str) else place)(folder)
    assert train(capsys, "data", "--output=b").code == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
