"""Predictions as Parquet: every sample once, in order; whole or not at all."""

import errno
import subprocess
import sys

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


def test_one_writes_at_a_time(tmp_path):
    path = tmp_path / "p.parquet"
    with PredictionsFile(path) as file:
        with pytest.raises(OutputError, match=r"p\.parquet: another process is writing it"):
            PredictionsFile(path)
        file.add(*some(5))
        with PredictionsFile(tmp_path / "q.parquet") as other:
            other.finish()
        file.finish()
        # Between the end of one and what it removes another may begin.
        with PredictionsFile(path) as next_file:
            file.__exit__(None, None, None)
            next_file.add(*some(3))
            next_file.finish()
    assert names(tmp_path) == ["p.parquet", "q.parquet"]
    assert pq.read_table(path).num_rows == 3


def test_a_kill_leaves_the_old_file_and_a_partial_one(tmp_path):
    (tmp_path / "p.parquet").write_text("old")
    code = (
        "import os, sys, numpy as np; from cupyrec.datasets import predictions_file as p\n"
        "p.ROW_GROUP_SAMPLES = 4; file = p.PredictionsFile(sys.argv[1])\n"
        "file.add(np.zeros(9, np.float32), np.zeros(9, np.float32)); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "p.parquet"], check=False)
    assert ended.returncode == -9
    assert names(tmp_path) == [".p.parquet.partial", "p.parquet"]
    assert (tmp_path / "p.parquet").read_text() == "old"


def test_what_a_killed_writing_left_is_replaced(tmp_path):
    (tmp_path / ".p.parquet.partial").write_bytes(b"x" * 10_000)
    with PredictionsFile(tmp_path / "p.parquet") as file:
        file.add(*some(5))
        file.finish()
    assert names(tmp_path) == ["p.parquet"]
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 5
