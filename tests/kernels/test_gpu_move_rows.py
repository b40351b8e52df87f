"""move_rows.cu, executed on the CPU: both kinds of places, mapped host memory."""

import numpy as np
import pytest
from cuda_on_cpu import ORDERS
from gpu_devices import emulated_device

from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.move_rows import gather_records, insert_records, scatter_records

# (rows, width, places)
SHAPES = [(1, 4, 0), (1, 4, 1), (50, 4, 17), (300, 36, 100), (40, 33, 20), (30, 128, 30), (9, 260, 7)]


class OnDevice:
    """Host arrays uploaded to a device, kept there, and downloaded."""

    def __init__(self, device):
        self.device, self.kept = device, []

    def __call__(self, array):
        self.kept.append(None if array is None else self.device.upload(np.asarray(array)))
        return self.kept[-1]


def numbers(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def some_places(rows, n, dtype, seed=2):
    return np.random.default_rng(seed).permutation(rows)[:n].astype(dtype)


@pytest.mark.parametrize("over_link", [False, True])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize(("rows", "width", "n"), SHAPES)
def test_gather_and_scatter(gpu_device, rows, width, n, dtype, over_link):
    records, places = numbers((rows, width)), some_places(rows, n, dtype)
    before = numbers((n, width), seed=3)
    put = OnDevice(gpu_device)
    on_device, at, gathered = put(records), put(places), put(np.full((n, width), np.nan, np.float32))
    gather_records(gpu_device, on_device, at, gathered, over_link=over_link)
    np.testing.assert_array_equal(gpu_device.download(gathered), records[places])
    np.testing.assert_array_equal(gpu_device.download(on_device), records)

    expected = records.copy()
    expected[places] = before
    scattered = put(before)
    scatter_records(gpu_device, scattered, at, on_device, over_link=over_link)
    np.testing.assert_array_equal(gpu_device.download(on_device), expected)
    np.testing.assert_array_equal(gpu_device.download(scattered), before)


@pytest.mark.parametrize(("rows", "width", "n"), SHAPES)
def test_insert(gpu_device, rows, width, n):
    scratchpad, slot_rows = numbers((rows, width)), np.arange(rows) * 10
    gathered, slots, inserted = numbers((n, width), seed=3), some_places(rows, n, np.int32), np.arange(n) + 2**40
    put = OnDevice(gpu_device)
    on_device = [put(each) for each in (gathered, slots, inserted, scratchpad, slot_rows)]
    insert_records(gpu_device, *on_device)
    insert_records(CpuDevice(1), gathered, slots, inserted, scratchpad, slot_rows)
    np.testing.assert_array_equal(gpu_device.download(on_device[3]), scratchpad)
    np.testing.assert_array_equal(gpu_device.download(on_device[4]), slot_rows)
    np.testing.assert_array_equal(scratchpad[slots], gathered)
    np.testing.assert_array_equal(slot_rows[slots], inserted)
    assert (slot_rows >= 2**40).sum() == n


@pytest.mark.parametrize("most_blocks", [1, 99])
@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_threads(monkeypatch, order, most_blocks):
    monkeypatch.setattr("cupyrec.embedding.move_rows.MOST_MOVE_BLOCKS", most_blocks)
    device = emulated_device(thread_order=order)
    records, rows, slots = numbers((60, 260)), some_places(60, 50, np.int64), some_places(70, 50, np.int32)
    put = OnDevice(device)
    scratchpad, gathered = put(np.zeros((70, 260), np.float32)), put(np.zeros((50, 260), np.float32))
    on_device, from_rows, to_slots = put(records), put(rows), put(slots)
    gather_records(device, on_device, from_rows, gathered)
    scatter_records(device, gathered, to_slots, scratchpad)
    expected = np.zeros((70, 260), np.float32)
    expected[slots] = records[rows]
    np.testing.assert_array_equal(device.download(scratchpad), expected)


def test_a_page_locked_host_table_is_read_and_written_by_kernels(gpu_device):
    table, put = gpu_device.page_locked((80, 12)), OnDevice(gpu_device)
    table[:] = before = numbers((80, 12))
    records, rows = gpu_device.runtime.mapped(table), some_places(80, 30, np.int64)
    at, gathered, doubled = put(rows), put(np.zeros((30, 12), np.float32)), put(2 * before[rows])
    gather_records(gpu_device, records, at, gathered)
    np.testing.assert_array_equal(gpu_device.download(gathered), before[rows])
    scatter_records(gpu_device, doubled, at, records)
    gpu_device.synchronize()
    expected = before.copy()
    expected[rows] *= 2
    np.testing.assert_array_equal(table, expected)


def test_other_places_are_refused():
    device = emulated_device()
    records = device.zeros((3, 4))
    with pytest.raises(TypeError, match=r"places must be int64 \(rows\) or int32 \(slots\), but are uint32"):
        gather_records(device, records, device.zeros(3, np.uint32), records)
