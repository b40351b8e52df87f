"""Coalescing plans against the reference: radix-sort borders, empty batches, reuse, threads."""

import numpy as np
import pytest
import reference
from batch_strategies import lookups, random_batch
from hypothesis import given

from cupyrec.batch import Batch
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.coalesce import Coalescer


def as_lists(plan):
    return plan.unique_rows.tolist(), plan.segment_offsets.tolist(), plan.segment_bags.tolist()


def one_table_batch(bags, table_rows, dense_features=1):
    samples = len(bags)
    return Batch.from_bags(np.zeros((samples, dense_features)), [bags], np.zeros(samples), [table_rows])


@given(drawn=lookups())
def test_equals_the_reference(drawn):
    table_rows, batch = drawn
    plan = Coalescer(CpuDevice(1), table_rows).plan(batch)
    assert as_lists(plan) == reference.coalesce(batch.rows, batch.offsets)
    assert plan.unique == len(np.unique(batch.rows))
    assert (plan.unique_rows.dtype, plan.segment_offsets.dtype) == (np.int64, np.int64)
    assert plan.segment_bags.dtype == np.int32


@pytest.mark.parametrize(
    "table_rows", [1, 2, 3, 2**11 - 1, 2**11, 2**11 + 1, 2**22 - 1, 2**22, 2**22 + 1, 2**31 + 7, 2**40, 2**62]
)
def test_table_sizes_at_the_borders_of_the_digits(table_rows):
    random = np.random.default_rng(table_rows % 1000)
    bags = [[int(i) for i in random.integers(0, table_rows, 5)] for _ in range(20)]
    bags += [[0], [table_rows - 1], [0, table_rows - 1], [min(2**11, table_rows - 1)]]
    batch = one_table_batch(bags, table_rows)
    plan = Coalescer(CpuDevice(1), [table_rows]).plan(batch)
    assert as_lists(plan) == reference.coalesce(batch.rows, batch.offsets)


def test_rows_beyond_32_bits_in_later_tables():
    table_rows = [2**40, 3, 2**33]
    bags = [[[2**40 - 1], [2**31]], [[2], [2, 0]], [[0], [2**33 - 1]]]
    batch = Batch.from_bags(np.zeros((2, 1)), bags, np.zeros(2), table_rows)
    plan = Coalescer(CpuDevice(1), table_rows).plan(batch)
    assert plan.unique_rows.tolist() == [2**31, 2**40 - 1, 2**40, 2**40 + 2, 2**40 + 3, 2**40 + 2**33 + 2]
    assert as_lists(plan) == reference.coalesce(batch.rows, batch.offsets)


def test_lookups_of_a_row_keep_their_order():
    # 300 lookups of three rows far apart: several passes, each of which must be stable.
    rows_of_bags = [[0, 2**23, 2**11][bag % 3] for bag in range(300)]
    plan = Coalescer(CpuDevice(1), [2**24]).plan(one_table_batch([[row] for row in rows_of_bags], 2**24))
    assert plan.segment_offsets.tolist() == [0, 100, 200, 300]
    expected = [*range(0, 300, 3), *range(2, 300, 3), *range(1, 300, 3)]
    assert plan.segment_bags.tolist() == expected


def test_a_row_twice_in_one_bag_is_two_lookups():
    plan = Coalescer(CpuDevice(1), [5]).plan(one_table_batch([[3, 3], [1, 3]], 5))
    assert as_lists(plan) == ([1, 3], [0, 1, 4], [1, 0, 0, 1])


@pytest.mark.parametrize("bags", [[[], [], []], [[]], []], ids=["three empty bags", "one empty bag", "no samples"])
def test_no_lookups(bags):
    plan = Coalescer(CpuDevice(1), [5]).plan(one_table_batch(bags, 5))
    assert as_lists(plan) == ([], [0], [])
    assert plan.unique == 0


def test_tables_without_lookups_between_others():
    bags = [[[], []], [[1], [1]], [[], []], [[], [0]], [[], []]]
    batch = Batch.from_bags(np.zeros((2, 1)), bags, np.zeros(2), [3, 3, 3, 3, 3])
    plan = Coalescer(CpuDevice(1), [3] * 5).plan(batch)
    assert as_lists(plan) == ([4, 9], [0, 2, 3], [2, 3, 7])


def test_a_table_without_rows():
    batch = Batch.from_bags(np.zeros((1, 1)), [[[]], [[2]]], np.zeros(1), [0, 3])
    assert as_lists(Coalescer(CpuDevice(1), [0, 3]).plan(batch)) == ([2], [0, 1], [1])


def test_all_lookups_of_one_row():
    plan = Coalescer(CpuDevice(1), [2**20]).plan(one_table_batch([[77] * 3] * 200, 2**20))
    assert as_lists(plan) == ([77], [0, 600], [bag for bag in range(200) for _ in range(3)])


def test_reuse_for_larger_and_smaller_batches():
    random, table_rows = np.random.default_rng(1), [5000, 1, 40]
    coalescer = Coalescer(CpuDevice(1), table_rows)
    for samples in (3, 100, 1, 0, 100, 101, 7):
        batch = random_batch(random, table_rows, samples)
        assert as_lists(coalescer.plan(batch)) == reference.coalesce(batch.rows, batch.offsets)


def test_same_plan_for_any_number_of_threads():
    table_rows = [5000, 1, 40, 3, 2**30]
    batch = random_batch(np.random.default_rng(2), table_rows, 50)
    expected = reference.coalesce(batch.rows, batch.offsets)
    for threads in (1, 2, 3, 7):
        device = CpuDevice(threads)
        with device.running():
            assert as_lists(Coalescer(device, table_rows).plan(batch)) == expected


def test_batch_is_not_modified():
    batch = random_batch(np.random.default_rng(3), [50, 60], 20)
    rows, offsets = batch.rows.copy(), batch.offsets.copy()
    Coalescer(CpuDevice(1), [50, 60]).plan(batch)
    np.testing.assert_array_equal(batch.rows, rows)
    np.testing.assert_array_equal(batch.offsets, offsets)
