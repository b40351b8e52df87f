"""Row counts: counting, the most used rows, the file and its errors."""

import os
import pickle

import numpy as np
import pytest
from batch_strategies import random_batch
from hypothesis import given
from hypothesis import strategies as st
from small_disk import small_disk
from synced_files import record_syncs

from cupyrec.batch import Batch
from cupyrec.embedding import row_counts
from cupyrec.embedding.row_counts import (
    add_lookups,
    count_rows,
    most_used_rows,
    new_row_counts,
    read_row_counts,
    write_row_counts,
)
from cupyrec.errors import DataError, OutputError


def refusal(path, rows=3):
    """The message of the DataError that reading a file of counts for so many rows raises."""
    with pytest.raises(DataError) as raised:
        read_row_counts(path, rows)
    assert str(path) in str(raised.value)
    return str(raised.value)


def saved(path, counts):
    np.save(path, counts)
    return path


def test_each_lookup_counts_in_all_batches():
    table_rows = (4, 1, 30)
    batches = [random_batch(np.random.default_rng(seed), table_rows, samples) for seed, samples in enumerate((9, 0, 3))]
    counts = count_rows(iter(batches), 35)
    assert counts.dtype == np.int64
    expected = np.bincount(np.concatenate([batch.rows for batch in batches]), minlength=35)
    np.testing.assert_array_equal(counts, expected)


def test_no_batches_and_no_lookups_leave_zeros():
    nothing = Batch.from_bags(np.zeros((1, 1)), [[[]]], [0], [3])
    assert count_rows([], 3).tolist() == [0, 0, 0]
    assert count_rows([nothing], 3).tolist() == [0, 0, 0]


def test_lookups_are_added_to_what_is_there():
    counts = new_row_counts(3)
    add_lookups(counts, np.array([2, 0, 2]))
    add_lookups(counts, np.array([2]))
    assert counts.tolist() == [1, 0, 3]


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [
        ([5, 1, 9, 2], 2, [0, 2]),
        ([1, 9, 1, 1], 3, [0, 1, 2]),
        ([3, 3, 3], 1, [0]),
        ([0, 7, 0, 1], 4, [1, 3]),
        ([0, 7, 0, 1], 100, [1, 3]),
        ([0, 0], 1, []),
        ([4, 4], 0, []),
        ([], 3, []),
    ],
)
def test_most_used_rows(counts, most, expected):
    rows = most_used_rows(np.array(counts, np.int64), most)
    assert rows.tolist() == expected
    assert rows.dtype == np.int64


@given(counts=st.lists(st.integers(0, 4), max_size=30), most=st.integers(0, 35))
def test_most_used_rows_equal_a_sorted_list(counts, most):
    used = sorted((row for row, count in enumerate(counts) if count), key=lambda row: (-counts[row], row))
    given_counts = np.array(counts, np.int64)
    assert most_used_rows(given_counts, most).tolist() == sorted(used[:most])
    assert given_counts.tolist() == counts, "not modified"


def test_a_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "counts.npy"
    write_row_counts(path, np.array([3, 0, 2**40]))
    counts = read_row_counts(path, 3)
    assert counts.tolist() == [3, 0, 2**40]
    assert counts.dtype == np.int64
    assert os.listdir(tmp_path) == ["counts.npy"]


def test_counts_of_other_whole_numbers_are_taken(tmp_path):
    counts = read_row_counts(saved(tmp_path / "counts.npy", np.array([1, 2, 255], np.uint8)), 3)
    assert (counts.tolist(), counts.dtype) == ([1, 2, 255], np.int64)


def test_files_that_cannot_be_read(tmp_path):
    assert "No such file" in refusal(tmp_path / "missing.npy")
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"1,2,3\n", pickle.dumps([1, 2, 3]), b"\x93NUMPY\x01\x00v\x00{'descr': '<i8'"]
)
def test_files_that_are_not_npy(tmp_path, content):
    path = tmp_path / "counts.npy"
    path.write_bytes(content)
    assert "not a file of row counts (.npy)" in refusal(path)


def test_a_file_that_was_cut_off(tmp_path):
    path = saved(tmp_path / "counts.npy", np.arange(1000))
    path.write_bytes(path.read_bytes()[:-8])
    assert "not a file of row counts (.npy)" in refusal(path, 1000)


def test_a_pickled_array_of_objects_is_not_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("was unpickled",)

    path = tmp_path / "counts.npy"
    np.save(path, np.array([Trap(), 1, 2], dtype=object), allow_pickle=True)
    assert "not a file of row counts (.npy)" in refusal(path)


@pytest.mark.parametrize(
    "counts",
    [
        np.array([1.0, 2.0, 3.0]),
        np.array([True, False, True]),
        np.array(["1", "2", "3"]),
        np.array(3),
        np.ones((3, 1), np.int64),
    ],
)
def test_counts_that_are_not_one_list_of_whole_numbers(tmp_path, counts):
    assert "one list of whole numbers" in refusal(saved(tmp_path / "counts.npy", counts))


@pytest.mark.parametrize("rows", [2, 4])
def test_counts_of_other_tables(tmp_path, rows):
    message = refusal(saved(tmp_path / "counts.npy", np.arange(3)), rows)
    assert f"counts 3 rows, but the tables have {rows}" in message
    assert "count again" in message


def test_negative_counts(tmp_path):
    assert "some are negative" in refusal(saved(tmp_path / "counts.npy", np.array([1, -1, 2])))


def test_writing_where_nothing_can_be_written(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_row_counts(tmp_path / "missing" / "counts.npy", np.arange(3))
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_row_counts(tmp_path / "folder.npy", np.arange(3))
    assert os.listdir(tmp_path) == ["folder.npy"], "nothing is left beside it"


def test_a_write_that_fails_half_way_keeps_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "counts.npy"
    write_row_counts(path, np.arange(3))

    def full(file, counts, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_counts.np, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        write_row_counts(path, np.arange(4))
    monkeypatch.undo()
    assert read_row_counts(path, 3).tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["counts.npy"]


def test_a_disk_without_room():
    with small_disk("1m") as folder:
        write_row_counts(folder / "counts.npy", np.arange(3))
        with pytest.raises(OutputError, match=r"counts\.npy: cannot be written: No space left on device; make room"):
            write_row_counts(folder / "counts.npy", np.arange(200_000))
        assert read_row_counts(folder / "counts.npy", 3).tolist() == [0, 1, 2]
        assert os.listdir(folder) == ["counts.npy"]


def test_counts_are_on_the_disk_before_they_have_their_name(tmp_path, monkeypatch):
    synced = record_syncs(monkeypatch)
    path = tmp_path / "counts.npy"
    write_row_counts(path, np.arange(3))
    assert synced[tmp_path / ".counts.npy.partial"] == path.stat().st_size
