import numpy as np
import pyarrow as pa
import pytest

from cupyrec.datasets.preparing.raw_rows import RawColumn, RawRows, join_rows


def make_rows(first, stop):
    numbers = np.arange(first, stop)
    lengths = numbers % 3
    values = np.repeat(numbers, lengths).astype(np.uint64)
    texts = pa.array([f"t{number}" for number in numbers], pa.large_string())
    return RawRows(
        (numbers % 2).astype(np.float32),
        np.stack([numbers, -numbers], axis=1).astype(np.float32),
        [
            RawColumn(numbers.astype(np.uint64), texts=texts),
            RawColumn(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)),
        ],
    )


def as_lists(rows):
    single, multi = rows.columns
    bags = [multi[number : number + 1].keys.tolist() for number in range(len(multi))]
    return rows.labels.tolist(), rows.dense.tolist(), single.keys.tolist(), single.texts.to_pylist(), bags


@pytest.mark.parametrize("part", [slice(0, 10), slice(3, 8), slice(3, None), slice(None, -2), slice(5, 5), slice(8, 2)])
def test_parts_are_views(part):
    rows = make_rows(0, 10)
    start, stop, _ = part.indices(10)
    found = rows[part]
    assert len(found) == max(stop - start, 0)
    assert all(len(column) == len(found) for column in found.columns)
    assert as_lists(found) == as_lists(make_rows(start, max(start, stop)))
    if len(found):
        assert np.shares_memory(found.dense, rows.dense)
        assert np.shares_memory(found.columns[1].offsets, rows.columns[1].offsets)


def test_parts_of_parts():
    assert as_lists(make_rows(0, 20)[4:18][3:7]) == as_lists(make_rows(7, 11))


def test_other_steps_are_refused():
    with pytest.raises(ValueError, match="steps of 1"):
        make_rows(0, 4)[::2]


def test_parts_are_joined():
    rows = make_rows(0, 10)
    joined = join_rows([rows[:4], rows[4:4], rows[4:5], make_rows(5, 10)])
    assert as_lists(joined) == as_lists(rows)
    assert joined.columns[1].offsets.tolist() == rows.columns[1].offsets.tolist()
    assert join_rows([rows]) is rows
