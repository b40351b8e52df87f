"""Coalescing plans of the GPU against those of the CPU: equal in every number."""

from dataclasses import replace

import numpy as np
import pytest
from batch_strategies import lookups, random_batch
from cuda_on_cpu import ORDERS
from gpu_devices import emulated_device
from hypothesis import given, settings

from cupyrec.batch import LONG_SEGMENT, Batch, most_chunks, most_long_segments
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.gpu_coalesce import GpuCoalesceMemory, GpuCoalescer
from cupyrec.kernels.compaction import TILE_ITEMS

FIELDS = ("unique_rows", "segment_offsets", "segment_lookups", "segment_bags")


def on_device(device, batch):
    return replace(batch, rows=device.upload(batch.rows), offsets=device.upload(batch.offsets))


def check(device, plan, batch, table_rows):
    """Compare a plan of the GPU with the CPU's, and its long segments with a slow count."""
    expected = Coalescer(CpuDevice(1), table_rows).plan(batch)
    assert device.download(plan.unique_count).tolist() == [expected.unique]
    assert plan.lookups == batch.lookups
    for field in FIELDS:
        got, meant = device.download(getattr(plan, field)), getattr(expected, field)
        assert got.dtype == meant.dtype
        np.testing.assert_array_equal(got[: meant.shape[0]], meant, err_msg=field)
    lengths = np.diff(expected.segment_offsets)
    long = np.flatnonzero(lengths > LONG_SEGMENT)
    chunks = -(-lengths[long] // LONG_SEGMENT)
    offsets = np.concatenate([[0], np.cumsum(chunks)])
    assert device.download(plan.long_counts).tolist() == [long.size, chunks.sum()]
    assert device.download(plan.long_segments)[: long.size].tolist() == long.tolist()
    assert device.download(plan.long_offsets)[: long.size + 1].tolist() == offsets.tolist()
    N = batch.lookups
    shapes = [each.shape[0] for each in (plan.unique_rows, plan.segment_offsets, plan.long_segments, plan.long_offsets)]
    assert shapes == [N, N + 1, most_long_segments(N), most_long_segments(N) + 1]
    assert chunks.sum() <= most_chunks(N)


def check_batch(batch, table_rows, device=None):
    device = device or emulated_device()
    coalescer, given = GpuCoalescer(device, table_rows), on_device(device, batch)
    check(device, coalescer.plan(given), batch, table_rows)


def batch_of_rows(rows, bag_lengths, samples=1):
    """A batch without dense features. rows: (N,); bag_lengths: (F * samples,)."""
    offsets = np.concatenate([[0], np.cumsum(bag_lengths)]).astype(np.int64)
    return Batch(np.zeros((samples, 0), np.float32), np.asarray(rows, np.int64), offsets, np.zeros(samples, np.float32))


def rows_with_counts(counts):
    """Each row u of counts so often, in a mixed order."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(1).permutation(rows)


@settings(max_examples=25)
@given(drawn=lookups())
def test_equals_the_cpu(drawn):
    table_rows, batch = drawn
    check_batch(batch, table_rows)


@pytest.mark.parametrize("samples", [1, 40, 600])
def test_batches_with_hot_rows_and_empty_bags(gpu_device, samples):
    table_rows = [5000, 1, 400]
    check_batch(random_batch(np.random.default_rng(samples), table_rows, samples), table_rows, gpu_device)


@pytest.mark.parametrize("bag_lengths", [[0, 0, 0], [0], []], ids=["three empty bags", "one empty bag", "no samples"])
def test_no_lookups(bag_lengths):
    check_batch(batch_of_rows([], bag_lengths, len(bag_lengths)), [5])


def test_one_lookup():
    check_batch(batch_of_rows([0], [0, 1, 0], 3), [1])


def test_first_and_last_bags_are_empty():
    check_batch(batch_of_rows([4, 0, 4, 4], [0, 0, 2, 0, 2, 0, 0], 7), [5])


def test_rows_that_differ_above_32_bits_alone():
    check_batch(batch_of_rows([2**33 + 1, 1, 2**32 + 1, 1], [1] * 4, 4), [2**40])


@pytest.mark.parametrize("N", [TILE_ITEMS - 1, TILE_ITEMS, TILE_ITEMS + 1, 2 * TILE_ITEMS + 1])
@pytest.mark.parametrize("rows", ["distinct", "equal"])
def test_borders_of_tiles(N, rows):
    which = np.random.default_rng(N).permutation(N) if rows == "distinct" else np.full(N, 7)
    check_batch(batch_of_rows(which, [1] * N, N), [N])


@pytest.mark.parametrize("length", [LONG_SEGMENT - 1, LONG_SEGMENT, LONG_SEGMENT + 1])
def test_borders_of_long_segments(length):
    """The last segment of all is one of them: nothing comes after it."""
    rows = rows_with_counts([length, 1, length, 3, length])
    check_batch(batch_of_rows(rows, [rows.size]), [5])


def test_lengths_of_whole_and_broken_chunks():
    rows = rows_with_counts([2 * LONG_SEGMENT, 1, 2 * LONG_SEGMENT + 1, 0, 5 * LONG_SEGMENT - 1, 64, 65])
    check_batch(batch_of_rows(rows, [1] * rows.size, rows.size), [2**20])


def test_more_long_segments_than_a_block_has_threads():
    counts = np.full(300, LONG_SEGMENT + 1)
    counts[::7] = 1
    counts[5] = 200
    rows = np.repeat(np.arange(300), counts)
    check_batch(batch_of_rows(rows, [rows.size]), [300])


@pytest.mark.parametrize("thread_order", ORDERS[1:])
def test_no_order_of_threads_changes_the_plan(thread_order):
    table_rows = [3, 2000]
    batch = random_batch(np.random.default_rng(3), table_rows, 300)
    check_batch(batch, table_rows, emulated_device(thread_order=thread_order))


@pytest.mark.parametrize("order", ["lazy", "latest:load", "earliest:load", "shuffled-1"])
def test_plans_in_memory_of_their_own_on_a_stream(order):
    """Each entry of a ring keeps its plan; a larger batch makes room while the earlier plans are still being made."""
    device, table_rows, random = emulated_device(order), [50, 60], np.random.default_rng(4)
    stream = device.stream("load")
    coalescer = GpuCoalescer(stream, table_rows)
    entries = [GpuCoalesceMemory() for _ in range(3)]
    batches = [random_batch(random, table_rows, samples) for samples in (5, 30, 2, 60)]
    given = [on_device(device, batch) for batch in batches]
    plans = [coalescer.plan(batch, memory) for batch, memory in zip(given, [*entries, entries[0]], strict=True)]
    device.wait(stream.record())
    for plan, batch in zip(plans, batches, strict=True):
        check(device, plan, batch, table_rows)


def test_a_plan_grows_once_the_one_before_is_made():
    device, table_rows, random = emulated_device("lazy"), [50, 60], np.random.default_rng(7)
    coalescer, memory = GpuCoalescer(device, table_rows), GpuCoalesceMemory()
    batches = [random_batch(random, table_rows, samples) for samples in (10, 60)]
    given = [on_device(device, batch) for batch in batches]
    # The coalescer itself is then large enough, and waits for nothing.
    coalescer.plan(given[1])
    memory.reserve(device, batches[0].lookups)
    coalescer.plan(given[0], memory)
    check(device, coalescer.plan(given[1], memory), batches[1], table_rows)


def test_nothing_is_allocated_and_nobody_waits():
    device, table_rows = emulated_device("lazy"), [50, 60]
    coalescer, memory = GpuCoalescer(device, table_rows), GpuCoalesceMemory()
    batch = random_batch(np.random.default_rng(5), table_rows, 60)
    given = on_device(device, batch)
    coalescer.plan(given)
    device.synchronize()
    memory.reserve(device, batch.lookups)
    free, done = device.runtime.memory_bytes(), len(device.runtime.log)
    plan = coalescer.plan(given, memory)
    assert device.runtime.memory_bytes() == free
    assert len(device.runtime.log) == done
    check(device, plan, batch, table_rows)


def test_batch_is_not_modified():
    device, table_rows = emulated_device(), [50, 60]
    batch = random_batch(np.random.default_rng(6), table_rows, 20)
    coalescer, given = GpuCoalescer(device, table_rows), on_device(device, batch)
    coalescer.plan(given)
    np.testing.assert_array_equal(device.download(given.rows), batch.rows)
    np.testing.assert_array_equal(device.download(given.offsets), batch.offsets)
