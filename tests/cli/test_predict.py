"""`cupyrec predict`, and `evaluate` on prepared data."""

import json
import os
import re
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import check_one_error_line, run_here
from criteo_lines import TINY_MODEL, files_in, learnable_text, with_cell, write_learnable
from models_for_tests import CONFIG, prepare_small, save_small

from cupyrec import CriteoFiles, DlrmConfig, Trainer, load_model
from cupyrec.datasets import predictions_file
from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.saving.safetensors_file import ArraySource
from cupyrec.saving.safetensors_io import open_tensors, read_metadata, write_sharded

ROWS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """model/, data.tsv, and prepared data with hashes and with vocabularies; not to be changed."""
    folder = tmp_path_factory.mktemp("predict")
    save_small(folder / "model")
    write_learnable(folder / "data.tsv", ROWS)
    for name, options in (("hashed", {"hash_rows": 50}), ("vocabulary", {})):
        (folder / name).mkdir()
        prepare_small(folder / name, ROWS, **options)
    content = read_manifest(folder / "vocabulary" / "prepared")
    config = DlrmConfig(content.table_rows, dimension=4, bottom=(8, 4), top=(8, 1))
    save_small(folder / "of_vocabulary", config, encoding=content.encoding)
    return folder


def predict(capsys, model, data, output, *options):
    return run_here(capsys, "predict", model, data, "--output", output, "--threads=1", *options)


def columns(path):
    table = pq.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def test_a_row_for_each_sample_in_order(folder, tmp_path, capsys):
    outcome = predict(capsys, folder / "model", folder / "data.tsv", tmp_path / "p.parquet", "--batch-size=64")
    assert outcome.code == 0
    assert files_in(tmp_path) == ["p.parquet"]
    found = columns(tmp_path / "p.parquet")
    batches = list(CriteoFiles(folder / "data.tsv", hash_rows=50).batches(64))
    loaded = load_model(folder / "model", batch_size=64, threads=1)
    np.testing.assert_array_equal(found["logit"], np.concatenate([loaded.predict(batch) for batch in batches]))
    np.testing.assert_array_equal(found["label"], np.concatenate([batch.labels for batch in batches]))
    np.testing.assert_allclose(found["probability"], 1 / (1 + np.exp(-found["logit"].astype(float))), rtol=1e-6)
    metadata = pq.read_schema(tmp_path / "p.parquet").metadata
    assert metadata[b"cupyrec.steps"] == b"0"
    assert metadata[b"cupyrec.encoding"] == loaded.encoding.encode()


def test_the_summary_agrees_with_evaluate(folder, tmp_path, capsys):
    outcome = predict(capsys, folder / "model", folder / "data.tsv", tmp_path / "p.parquet")
    evaluated = run_here(capsys, "evaluate", folder / "model", folder / "data.tsv", "--threads=1", "--json")
    metrics = json.loads(evaluated.out)
    mean = columns(tmp_path / "p.parquet")["probability"].astype(float).mean()
    (line,) = outcome.out.splitlines()
    assert line.startswith(f"{ROWS} predictions in ")
    assert line.endswith(
        f"/s), mean probability {mean:.4f}, AUC {metrics['auc']:.4f}, log loss {metrics['log_loss']:.4f}, "
        f"written to {tmp_path / 'p.parquet'}"
    )
    assert outcome.err.splitlines()[-1] == "100% done"


def test_the_same_bits_again_and_other_batches_round_otherwise_at_most(folder, tmp_path, capsys):
    for name, batch_size in (("a", 64), ("b", 64), ("c", 1), ("d", 4096)):
        predict(capsys, folder / "model", folder / "data.tsv", tmp_path / name, f"--batch-size={batch_size}")
    found = {name: columns(tmp_path / name)["logit"] for name in "abcd"}
    assert found["a"].tobytes() == found["b"].tobytes()
    for name in "cd":
        np.testing.assert_allclose(found[name], found["a"], rtol=1e-4, atol=1e-6)


def test_prepared_data_with_the_same_ids_give_the_same_predictions(folder, tmp_path, capsys):
    hashed = folder / "hashed" / "prepared"
    paths = {"raw": folder / "data.tsv", "prepared": hashed, "part": hashed / "valid.json"}
    for name, path in paths.items():
        assert predict(capsys, folder / "model", path, tmp_path / name, "--batch-size=25").code == 0
    raw, prepared, part = (columns(tmp_path / name) for name in paths)
    for name in ("logit", "label", "probability"):
        assert raw[name].tobytes() == prepared[name].tobytes()
        # 75 samples from 150 on: whole batches of 25 of all.
        assert part[name].tobytes() == raw[name][150:225].tobytes()
    figures = [
        run_here(capsys, "evaluate", folder / "model", path, "--json", "--threads=1").out
        for path in (folder / "data.tsv", hashed)
    ]
    assert figures[0] == figures[1]


def test_a_model_of_vocabularies_takes_its_data_only(folder, tmp_path, capsys):
    model, data = folder / "of_vocabulary", folder / "vocabulary" / "prepared"
    assert predict(capsys, model, data, tmp_path / "p").code == 0
    for command, *options in (["evaluate"], ["predict", f"--output={tmp_path / 'q'}"]):
        message = check_one_error_line(run_here(capsys, command, model, folder / "data.tsv", *options))
        assert "--vocabulary FOLDER" in message
        message = check_one_error_line(run_here(capsys, command, folder / "model", data, *options))
        assert message.startswith(
            f"{data}: prepared with --ids frequency and --dense-transform dlrm, but the model was"
        )
        assert message.endswith("name the raw files, or data prepared in that way")
    assert files_in(tmp_path) == ["p"]


def test_a_model_of_hashes_does_not_take_vocabularies_of_as_many_rows(folder, tmp_path, capsys):
    rows = read_manifest(folder / "vocabulary" / "prepared").table_rows
    save_small(tmp_path / "model", DlrmConfig(rows, dimension=4, bottom=(8, 4), top=(8, 1)))
    outcome = run_here(capsys, "evaluate", tmp_path / "model", folder / "vocabulary" / "prepared")
    assert "name the raw files" in check_one_error_line(outcome)


@pytest.fixture(scope="module")
def unlabelled(folder):
    """data.tsv without its labels."""
    lines = (folder / "data.tsv").read_text().splitlines(keepends=True)
    path = folder / "unlabelled.tsv"
    path.write_text("".join(line.partition("\t")[2] for line in lines))
    return path


def test_rows_without_labels_are_predicted_as_those_with(folder, unlabelled, tmp_path, capsys):
    prepared = tmp_path / "prepared"
    known = ["--vocabulary", folder / "vocabulary" / "prepared"]
    assert run_here(capsys, "prepare", unlabelled, "--output", prepared, "--no-labels", *known).code == 0
    for model, labelled, data, options in (
        ("model", folder / "data.tsv", unlabelled, ["--no-labels"]),
        ("of_vocabulary", folder / "vocabulary" / "prepared", prepared, []),
    ):
        outcome = predict(capsys, folder / model, data, tmp_path / f"{model}.parquet", *options)
        assert outcome.code == 0, outcome
        assert outcome.out.startswith("300 predictions")
        assert ", no labels, written to" in outcome.out
        predict(capsys, folder / model, labelled, tmp_path / "labelled.parquet", "--overwrite")
        found, expected = columns(tmp_path / f"{model}.parquet"), columns(tmp_path / "labelled.parquet")
        assert list(found) == ["probability", "logit"]
        for name in found:
            assert found[name].tobytes() == expected[name].tobytes()


def test_without_labels_there_is_nothing_else_to_be_done(folder, unlabelled, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run_here(capsys, "prepare", unlabelled, "--output=p", "--no-labels", "--hash-rows=50")
    assert outcome.out.startswith("p: 300 rows without labels of 1 file\n")
    assert "  samples       300, without labels\n" in run_here(capsys, "inspect", "p").out
    hint = "(without labels? prepare and predict take such files with --no-labels)"
    refused = "p: the samples have no labels, so they can be predicted, but not trained on or evaluated"
    for arguments, message in (
        (["evaluate", folder / "model", unlabelled], hint),
        (["predict", folder / "model", unlabelled, "--output=q"], hint),
        (["train", unlabelled, *TINY_MODEL], hint),
        (["evaluate", folder / "model", "p"], refused),
        (["train", "p", *TINY_MODEL, "--output=run"], refused),
        (["train", folder / "data.tsv", "--valid=p", *TINY_MODEL, "--output=run"], refused),
        (["split", "p", "--shares=0.5,0.3,0.2"], "p: the data have no labels, so there is nothing to split"),
        (["predict", folder / "model", folder / "data.tsv", "--output=q", "--no-labels"], "leave out --no-labels"),
        (
            ["predict", folder / "model", folder / "hashed" / "prepared", "--output=q", "--no-labels"],
            "is for raw files",
        ),
    ):
        outcome = run_here(capsys, *arguments)
        assert (outcome.code, message in outcome.err.splitlines()[-1]) == (2, True), (arguments, outcome)
    assert {name.partition("/")[0] for name in files_in(tmp_path)} == {"p"}


def spoil_a_weight(model):
    """As a model of another program may be: not finite, with a checksum that says that it is meant so."""
    tensors = {name: tensor.copy() for name, tensor in open_tensors(model).items()}
    tensors["top.1.bias"][0] = np.nan
    write_sharded(model, {name: ArraySource(tensor) for name, tensor in tensors.items()}, read_metadata(model))


def test_a_model_that_has_diverged_is_seen_without_labels(folder, unlabelled, tmp_path, capsys):
    save_small(tmp_path / "model")
    spoil_a_weight(tmp_path / "model")
    outcome = predict(capsys, tmp_path / "model", unlabelled, tmp_path / "p", "--no-labels")
    assert "predictions are NaN or infinite" in outcome.err.splitlines()[-1]


@pytest.mark.parametrize("name", ["p.csv", "p.TSV", "p.json", "p.parquet.gz"])
def test_a_name_of_another_format_is_refused(folder, tmp_path, capsys, name):
    message = check_one_error_line(predict(capsys, folder / "model", folder / "data.tsv", tmp_path / name))
    assert message.endswith(f"{name}: predictions are Parquet; let the name of --output end in .parquet")
    assert files_in(tmp_path) == []


def test_a_name_that_is_not_utf8_is_refused_before_anything_is_read(folder, tmp_path, capsys):
    name = os.fsdecode(bytes(tmp_path) + b"/\xff.parquet")
    message = check_one_error_line(predict(capsys, folder / "nowhere", folder / "data.tsv", name))
    assert message.endswith(".parquet: its name is not valid UTF-8; rename it")


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_model_and_data_in_each_others_place(folder, tmp_path, capsys, command):
    options = [f"--output={tmp_path / 'p'}"] if command == "predict" else []
    for data in (folder / "data.tsv", folder / "hashed" / "prepared"):
        message = check_one_error_line(run_here(capsys, command, data, folder / "model", *options))
        assert message == (f"{folder / 'model'}: holds a model; the model is named first, then the data: MODEL PATH...")


def test_what_is_missing_or_something_else_is_told_as_that(folder, tmp_path, capsys):
    table = tmp_path / "a.parquet"
    table.write_bytes(b"PAR1")
    cases = {
        (folder / "model", tmp_path / "none"): "none: no such file",
        (folder / "model", table): r"a\.parquet: a table; make prepared data of it with `cupyrec prepare`",
        (folder / "vocabulary" / "prepared", folder / "model"): r"model is named first, then the data|no files called",
        (folder / "vocabulary" / "prepared" / "test.json", folder / "data.tsv"): "the model is named first",
        (folder / "of_vocabulary", folder / "hashed" / "prepared"): "cupyrec prepare PATH... --vocabulary FOLDER",
    }
    for (model, data), message in cases.items():
        assert re.search(message, check_one_error_line(run_here(capsys, "evaluate", model, data))), message


def test_a_checkpoint_predicts_as_its_model(folder, tmp_path, capsys):
    trainer = Trainer(CONFIG, threads=1, batch_size=8, seed=0)
    trainer.save_checkpoint(tmp_path / "checkpoints" / "step-00000007")
    for name, model in (("a", folder / "model"), ("b", tmp_path / "checkpoints" / "step-00000007")):
        assert predict(capsys, model, folder / "data.tsv", tmp_path / name).code == 0
    assert columns(tmp_path / "a")["logit"].tobytes() == columns(tmp_path / "b")["logit"].tobytes()
    message = check_one_error_line(predict(capsys, tmp_path / "checkpoints", folder / "data.tsv", tmp_path / "c"))
    assert "step-00000007" in message


def test_one_class_has_no_auc(folder, tmp_path, capsys):
    lines = [line for line in learnable_text(40).splitlines(keepends=True) if line[0] == "0"]
    (tmp_path / "zeros.tsv").write_text("".join(lines))
    outcome = predict(capsys, folder / "model", tmp_path / "zeros.tsv", tmp_path / "p")
    assert outcome.code == 0
    assert "AUC" not in outcome.out
    assert "mean probability" in outcome.out


def test_bad_rows_stop_it_or_are_missing_from_the_output(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spoilt.tsv").write_text(with_cell(learnable_text(20), 7, 5, "many"))
    message = check_one_error_line(predict(capsys, folder / "model", "spoilt.tsv", "p.parquet"))
    assert message.startswith("spoilt.tsv, line 7, column 5: ")
    assert files_in(tmp_path) == ["spoilt.tsv"]
    outcome = predict(capsys, folder / "model", "spoilt.tsv", "p.parquet", "--on-bad-row=skip", "--bad-rows=bad.tsv")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "skipped 1 bad row, written to bad.tsv"
    assert outcome.out.startswith("19 predictions")
    labels = [float(line[0]) for number, line in enumerate(learnable_text(20).splitlines()) if number != 6]
    assert columns("p.parquet")["label"].tolist() == labels


def test_an_output_that_exists_is_replaced_only_when_told(folder, tmp_path, capsys):
    (tmp_path / "p.parquet").write_text("old")
    arguments = folder / "model", folder / "data.tsv", tmp_path / "p.parquet"
    message = check_one_error_line(predict(capsys, *arguments))
    assert message.endswith("exists; name another file with --output, or replace it with --overwrite")
    assert (tmp_path / "p.parquet").read_text() == "old"
    assert predict(capsys, *arguments, "--overwrite").code == 0
    assert len(columns(tmp_path / "p.parquet")["logit"]) == ROWS


def test_no_input_is_ever_overwritten(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_small(tmp_path / "model")
    data = prepare_small(tmp_path, hash_rows=50)
    before = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path) if (tmp_path / name).is_file()}
    for path, output in (
        ("raw.tsv", "raw.tsv"),
        ("raw.tsv", "model/model.json"),
        ("raw.tsv", "model/model.safetensors"),
        (data, "prepared/shard-00000.arrow"),
        (data, "prepared/prepared.json"),
        (data / "train.json", "prepared/test.json"),
    ):
        message = check_one_error_line(predict(capsys, "model", path, output, "--overwrite"))
        assert "would overwrite the input file" in message
    skip = ["--on-bad-row=skip", "--bad-rows=same"]
    assert "bad rows would overwrite same" in check_one_error_line(predict(capsys, "model", "raw.tsv", "same", *skip))
    after = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path) if (tmp_path / name).is_file()}
    assert after == before


@pytest.mark.parametrize("output", [".", "none/p.parquet", "/dev/null"])
def test_outputs_that_cannot_be(folder, tmp_path, capsys, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    message = check_one_error_line(predict(capsys, folder / "model", folder / "data.tsv", output, "--overwrite"))
    assert output.split("/")[0] in message
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_nothing(folder, tmp_path, capsys, monkeypatch, number):
    (tmp_path / "p.parquet").write_text("old")
    add = predictions_file.PredictionsFile.add

    def add_and_interrupt(self, logits, labels):
        add(self, logits, labels)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(predictions_file.PredictionsFile, "add", add_and_interrupt)
    arguments = folder / "model", folder / "data.tsv", tmp_path / "p.parquet"
    outcome = predict(capsys, *arguments, "--overwrite", "--batch-size=50")
    assert (outcome.code, outcome.out) == (128 + number, "")
    assert outcome.err.splitlines()[-1] == "interrupted before the end; no predictions"
    assert files_in(tmp_path) == ["p.parquet"]
    assert (tmp_path / "p.parquet").read_text() == "old"


def test_a_full_disk_leaves_nothing(folder, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predictions_file.pq.ParquetWriter, "write_table", full)
    outcome = predict(capsys, folder / "model", folder / "data.tsv", tmp_path / "p.parquet")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.endswith("p.parquet: cannot be written: No space left on device; make room, and try again\n")
    assert files_in(tmp_path) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir(mode=0o500)
    message = check_one_error_line(predict(capsys, folder / "model", folder / "data.tsv", tmp_path / "out" / "p"))
    assert "cannot be written" in message


def test_a_model_that_has_diverged_predicts_nothing(folder, tmp_path, capsys):
    trainer = Trainer(CONFIG, threads=1, batch_size=8)
    trainer.save(tmp_path / "model")
    spoil_a_weight(tmp_path / "model")
    outcome = predict(capsys, tmp_path / "model", folder / "data.tsv", tmp_path / "p")
    assert (outcome.code, outcome.out) == (2, "")
    assert "predictions are NaN or infinite" in outcome.err.splitlines()[-1]
    assert files_in(tmp_path) == ["model", "model/model.json", "model/model.safetensors"]


def test_prepared_data_stand_alone(folder, tmp_path, capsys):
    hashed = folder / "hashed" / "prepared"
    outcome = run_here(capsys, "predict", folder / "model", hashed, folder / "data.tsv", "--output", tmp_path / "p")
    assert "prepared data stand alone" in check_one_error_line(outcome)
