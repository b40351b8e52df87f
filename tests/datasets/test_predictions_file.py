"""Predictions as Parquet: every sample once, in order; whole or not at all."""

import errno

import numpy as np
import pyarrow.parquet as pq
import pytest

from cupyrec.datasets import predictions_file
from cupyrec.datasets.predictions_file import PredictionsFile
from cupyrec.errors import OutputError


def some(samples, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(scale=3, size=samples).astype(np.float32), rng.integers(2, size=samples).astype(np.float32)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("group", [1, 7, 1000])
def test_rows_in_order_whatever_the_batches_and_groups(tmp_path, monkeypatch, group):
    monkeypatch.setattr(predictions_file, "ROW_GROUP_SAMPLES", group)
    logits, labels = some(50)
    with PredictionsFile(tmp_path / "p.parquet", {"model": "m"}) as file:
        for start, stop in ((0, 3), (3, 3), (3, 40), (40, 50)):
            batch = logits[start:stop].copy()
            file.add(batch, labels[start:stop])
            batch[:] = 99  # what predict gives is valid until its next call
        assert names(tmp_path) == [".p.parquet.partial"]
        file.finish()
    assert names(tmp_path) == ["p.parquet"]
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["probability", "logit", "label"]
    assert {str(kind) for kind in table.schema.types} == {"float"}
    assert table.schema.metadata[b"model"] == b"m"
    np.testing.assert_array_equal(table["logit"].to_numpy(), logits)
    np.testing.assert_array_equal(table["label"].to_numpy(), labels)
    expected = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_array_equal(table["probability"].to_numpy(), expected.astype(np.float32))
    assert file.samples == 50
    assert file.probability_sum == pytest.approx(expected.sum(), rel=1e-12)


def test_extreme_logits_neither_overflow_nor_warn(tmp_path):
    logits = np.array([-3e38, -200, -50, 0, 50, 200, 3e38], dtype=np.float32)
    with PredictionsFile(tmp_path / "p.parquet") as file:
        file.add(logits, np.zeros(7, np.float32))
        file.finish()
    found = pq.read_table(tmp_path / "p.parquet")["probability"].to_numpy()
    np.testing.assert_allclose(found, [0, 0, 1.9287498e-22, 0.5, 1, 1, 1], rtol=1e-6)


def test_no_samples_are_a_file_without_rows(tmp_path):
    with PredictionsFile(tmp_path / "p.parquet") as file:
        file.finish()
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 0


@pytest.mark.parametrize("failure", [None, ValueError, KeyboardInterrupt])
def test_what_was_not_finished_leaves_the_old_file(tmp_path, failure):
    (tmp_path / "p.parquet").write_text("old")

    def use():
        with PredictionsFile(tmp_path / "p.parquet") as file:
            file.add(*some(5))
            if failure is not None:
                raise failure

    if failure is None:
        use()
    else:
        with pytest.raises(failure):
            use()
    assert names(tmp_path) == ["p.parquet"]
    assert (tmp_path / "p.parquet").read_text() == "old"


@pytest.mark.parametrize("at", ["write_table", "close"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, at):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with PredictionsFile(tmp_path / "p.parquet") as file:
        file.add(*some(5))
        monkeypatch.setattr(file._writer, at, full)
        with pytest.raises(OutputError, match=r"p\.parquet: .*No space left on device"):
            file.finish()
        monkeypatch.undo()
    assert names(tmp_path) == []


def test_a_disk_that_is_full_from_the_beginning(tmp_path, monkeypatch):
    def full(path, *_, **__):
        path.write_text("begun")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predictions_file.pq, "ParquetWriter", full)
    with pytest.raises(OutputError, match="No space left on device"):
        PredictionsFile(tmp_path / "p.parquet")
    assert names(tmp_path) == []


def test_no_folder_to_write_to(tmp_path):
    with pytest.raises(OutputError, match=r"none/p\.parquet: cannot be written"):
        PredictionsFile(tmp_path / "none" / "p.parquet")
