"""The different rows of consecutive batches, counted while they pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from usage_traces import most_different_rows

from cupyrec.advice.window import LEAST_ROWS, WindowRows


@pytest.mark.parametrize("first", [0, 2**62])
@given(
    batches=st.lists(st.lists(st.integers(0, 30), unique=True, max_size=8).map(sorted), min_size=1, max_size=20),
    size=st.integers(1, 7),
)
def test_counts_as_sets_do(first, batches, size):
    window = WindowRows(size)
    counted = [window.add(np.array(batch, np.int64) + first) for batch in batches]
    expected = [len(set().union(*batches[max(end - size, 0) : end])) for end in range(1, len(batches) + 1)]
    assert counted == expected
    assert max(counted) == most_different_rows(batches, size)


def test_memory_grows_with_a_window_alone():
    window = WindowRows(3)
    for number in range(200):
        window.add(np.arange(number * 100, number * 100 + 2 * LEAST_ROWS, dtype=np.int64))
    assert len(window._recent) == 3
    assert window._cells.shape[0] <= 2 * 4 * 3 * 2 * LEAST_ROWS


def test_keeps_no_array_of_the_caller():
    window, rows = WindowRows(2), np.arange(4, dtype=np.int64)
    window.add(rows)
    rows += 4
    assert window.add(rows) == 8
    assert window.add(rows) == 4
