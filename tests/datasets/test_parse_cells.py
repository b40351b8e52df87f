import math

import numpy as np
import pytest
from criteo_reference import first_bad_column
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import CATEGORIES, INTEGERS, ODD_CELLS

from cupyrec.datasets.parse_cells import parse_categories, parse_counts, parse_labels

CELLS = st.lists(
    st.one_of(st.sampled_from([b"0", b"1", b""]), INTEGERS, CATEGORIES, ODD_CELLS, st.binary(max_size=20)),
    min_size=1,
    max_size=20,
)
COLUMN = 7


def as_column(cells):
    """Offsets and data as Arrow gives them: read-only, and with something beyond the last cell."""
    offsets = np.cumsum([0, *map(len, cells)]).astype(np.int32)
    offsets.flags.writeable = False
    return offsets, np.frombuffer(b"".join(cells) + b"9", dtype=np.uint8)


def is_bad(cell, column):
    row = [b"0"] + [b""] * 39
    row[column - 1] = cell
    return first_bad_column(row) is not None


def check_bad(found, bad_columns, cells, column):
    expected = [is_bad(cell, column) for cell in cells]
    assert found == sum(expected)
    assert bad_columns.tolist() == [COLUMN if bad else 0 for bad in expected]
    return expected


@settings(max_examples=100, deadline=None)
@given(CELLS)
def test_labels_agree_with_the_reference(cells):
    labels, bad_columns = np.full(len(cells), 9, np.float32), np.zeros(len(cells), np.uint8)
    found = parse_labels(*as_column(cells), bad_columns, COLUMN, labels)
    for cell, bad, label in zip(cells, check_bad(found, bad_columns, cells, 1), labels, strict=True):
        assert bad or label == int(cell)


@settings(max_examples=200, deadline=None)
@given(CELLS)
def test_integers_agree_with_the_reference(cells):
    dense, bad_columns = np.full((len(cells), 3), 9, np.float32), np.zeros(len(cells), np.uint8)
    found = parse_counts(*as_column(cells), bad_columns, COLUMN, dense[:, 1])
    for cell, bad, value in zip(cells, check_bad(found, bad_columns, cells, 2), dense[:, 1], strict=True):
        assert bad or value == np.float32(math.log(max(int(cell or b"0"), 0) + 1))
    assert np.all(dense[:, [0, 2]] == 9)


@settings(max_examples=200, deadline=None)
@given(CELLS, st.one_of(st.integers(1, 100), st.integers(1, 2**62)), st.integers(0, 2**61))
def test_categories_agree_with_the_reference(cells, table_rows, first_row):
    rows, bad_columns = np.full(len(cells), -1), np.zeros(len(cells), np.uint8)
    found = parse_categories(*as_column(cells), bad_columns, COLUMN, np.int64(first_row), np.uint64(table_rows), rows)
    for cell, bad, row in zip(cells, check_bad(found, bad_columns, cells, 40), rows, strict=True):
        assert bad or row == first_row + int(cell or b"0", 16) % table_rows


@pytest.mark.parametrize("count", [0, 1, 1022, 1023, 1024, 10**6, 2**53, 2**63 - 1])
def test_small_and_large_counts_have_the_same_formula(count):
    dense, bad_columns = np.empty(1, np.float32), np.zeros(1, np.uint8)
    assert parse_counts(*as_column([b"%d" % count]), bad_columns, COLUMN, dense) == 0
    assert dense[0] == np.float32(math.log(count + 1))


def test_the_first_bad_column_of_a_row_stays_marked():
    bad_columns = np.array([3, 0, 0], np.uint8)
    cells = as_column([b"x", b"x", b"1"])
    assert parse_counts(*cells, bad_columns, 5, np.empty(3, np.float32)) == 2
    assert parse_labels(*cells, bad_columns, 6, np.empty(3, np.float32)) == 2
    assert parse_categories(*cells, bad_columns, 7, np.int64(0), np.uint64(9), np.empty(3, np.int64)) == 2
    assert bad_columns.tolist() == [3, 5, 0]
