"""Pinned rows: a batch cut in two against plain lists, rows beyond 32 bits, reuse of memory, threads."""

import numpy as np
import pytest
from batch_strategies import lookups, random_batch
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.batch import table_offsets
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.pinned_rows import PinnedRows


def pinned_rows(rows, table_rows, device=None):
    return PinnedRows(device or CpuDevice(1), np.array(sorted(rows), np.int64), table_offsets(table_rows))


def bags_of(batch):
    return [batch.rows[first:last].tolist() for first, last in zip(batch.offsets, batch.offsets[1:], strict=False)]


def assert_is_split(pinned, batch):
    slot_of = {row: slot for slot, row in enumerate(pinned.rows.tolist())}
    rows, offsets = batch.rows.copy(), batch.offsets.copy()
    hot, cold = pinned.split(batch)
    for part in (hot, cold):
        assert (part.samples, part.features) == (batch.samples, batch.features)
        assert part.offsets[-1] == part.lookups
        assert (part.rows.dtype, part.offsets.dtype) == (np.int64, np.int64)
        assert part.dense is batch.dense
        assert part.labels is batch.labels
    assert bags_of(hot) == [[slot_of[row] for row in bag if row in slot_of] for bag in bags_of(batch)]
    assert bags_of(cold) == [[row for row in bag if row not in slot_of] for bag in bags_of(batch)]
    np.testing.assert_array_equal(batch.rows, rows)
    np.testing.assert_array_equal(batch.offsets, offsets)


@given(data=st.data(), drawn=lookups())
def test_equals_plain_lists(data, drawn):
    table_rows, batch = drawn
    used = st.sampled_from(batch.rows.tolist()) if batch.lookups else st.nothing()
    rows = data.draw(st.sets(used | st.integers(0, sum(table_rows) - 1), max_size=20))
    pinned = pinned_rows(rows, table_rows)
    assert_is_split(pinned, batch)
    tables = np.searchsorted(table_offsets(table_rows), sorted(rows), side="right") - 1
    assert pinned.table_slots == tuple(np.bincount(tables, minlength=len(table_rows)).tolist())


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_batches_of_any_size_one_after_another(threads):
    table_rows, random, device = (50, 1, 300, 7), np.random.default_rng(1), CpuDevice(threads)
    with device.running():
        pinned = pinned_rows([0, 1, 49, 50, 60, 200, 357], table_rows, device)
        for samples in (3, 40, 0, 1, 64, 5):
            assert_is_split(pinned, random_batch(random, table_rows, samples))


@pytest.mark.parametrize("rows", [range(0), range(358)])
def test_no_row_and_all_rows(rows):
    table_rows = (50, 1, 300, 7)
    batch = random_batch(np.random.default_rng(1), table_rows, 20)
    pinned = pinned_rows(rows, table_rows)
    assert_is_split(pinned, batch)
    hot, cold = pinned.split(batch)
    assert (hot.lookups, cold.lookups) == ((batch.lookups, 0) if rows else (0, batch.lookups))
