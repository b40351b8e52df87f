import itertools

import numpy as np
import pytest
from criteo_reference import join_batches
from hypothesis import given, settings
from hypothesis import strategies as st

from cupyrec.datasets.assemble_batches import assemble_batches, one_lookup_offsets
from cupyrec.datasets.hashed_rows import HashedRows


def numbered_rows(start, stop):
    """Rows whose every number tells which row and which column it is."""
    number = np.arange(start, stop)
    return HashedRows(
        dense=(number[:, None] * 13 + np.arange(13)).astype(np.float32),
        rows=np.arange(26)[:, None] * 1000 + number,
        labels=(number % 2).astype(np.float32),
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=6), st.integers(1, 15))
def test_batches_hold_all_rows_in_order_whatever_the_pieces(lengths, batch_size):
    ends = np.cumsum([0, *lengths])
    parts = [(numbered_rows(a, b), 0.0, 0.0) for a, b in itertools.pairwise(ends)]
    batches = [batch for batch, _ in assemble_batches(parts, batch_size)]
    total = int(ends[-1])
    assert [batch.samples for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert sum(batch.samples for batch in batches) == total
    assert all(batch.samples > 0 for batch in batches)
    expected = numbered_rows(0, total)
    labels, dense, rows = join_batches(batches)
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_array_equal(dense, expected.dense)
    np.testing.assert_array_equal(rows, expected.rows.T)
    for batch in batches:
        batch.validate([1000] * 26, 13)


def test_batches_share_their_offsets_and_nothing_else():
    parts = [(numbered_rows(0, 25), 0.0, 1.0)]
    first, second, last = (batch for batch, _ in assemble_batches(parts, 10))
    assert first.offsets is second.offsets is one_lookup_offsets(26 * 10)
    assert not first.offsets.flags.writeable
    assert last.offsets is one_lookup_offsets(26 * 5)
    for name in ("dense", "rows", "labels"):
        arrays = [
            parts[0][0].__getattribute__(name),
            *(getattr(batch, name) for batch in (first, second, last)),
        ]
        for index, array in enumerate(arrays):
            assert array.flags.c_contiguous
            assert not any(np.shares_memory(array, other) for other in arrays[:index])


def test_progress_is_that_at_the_end_of_each_batch():
    parts = [
        (numbered_rows(0, 10), 0.0, 0.5),
        (numbered_rows(10, 10), 0.5, 0.6),
        (numbered_rows(10, 14), 0.6, 1.0),
    ]
    progress = [reached for _, reached in assemble_batches(parts, 4)]
    assert progress == pytest.approx([0.2, 0.4, 0.8, 1.0])
