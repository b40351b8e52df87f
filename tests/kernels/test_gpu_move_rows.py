"""move_rows.cu and mark_rows.cu, executed on the CPU: both kinds of places, counts, mapped host memory."""

import numpy as np
import pytest
from cuda_on_cpu import ORDERS
from gpu_devices import emulated_device

from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.move_rows import gather_records, mark_rows, scatter_records

# (rows, width, places, how many of them are meant; None: all)
SHAPES = [
    (1, 4, 0, None),
    (1, 4, 1, None),
    (50, 4, 17, None),
    (300, 36, 100, 61),
    (300, 36, 100, 0),
    (40, 33, 20, 20),
    (30, 128, 30, 29),
    (9, 260, 7, None),
]


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


def count_array(meant):
    return None if meant is None else np.array([meant], np.int32)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize(("rows", "width", "n", "meant"), SHAPES)
def test_gather_and_scatter(gpu_device, rows, width, n, meant, dtype):
    records, places = numbers((rows, width)), some_places(rows, n, dtype)
    before = numbers((n, width), seed=3)
    m = n if meant is None else meant
    places[m:] = -(2**20)  # nobody may look there
    put = OnDevice(gpu_device)
    on_device, at, count = put(records), put(places), put(count_array(meant))
    gathered = put(before)
    gather_records(gpu_device, on_device, at, gathered, count=count)
    np.testing.assert_array_equal(gpu_device.download(gathered), np.concatenate([records[places[:m]], before[m:]]))
    np.testing.assert_array_equal(gpu_device.download(on_device), records)

    expected = records.copy()
    expected[places[:m]] = before[:m]
    scattered = put(before)
    scatter_records(gpu_device, scattered, at, on_device, count=count)
    np.testing.assert_array_equal(gpu_device.download(on_device), expected)
    np.testing.assert_array_equal(gpu_device.download(scattered), before)


@pytest.mark.parametrize("most_blocks", [1, 99])
@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_threads(monkeypatch, order, most_blocks):
    monkeypatch.setattr("cupyrec.embedding.move_rows.MOST_MOVE_BLOCKS", most_blocks)
    device = emulated_device(thread_order=order)
    records, rows, slots = numbers((60, 260)), some_places(60, 50, np.int64), some_places(70, 50, np.int32)
    put = OnDevice(device)
    pad, gathered = put(np.zeros((70, 260), np.float32)), put(np.zeros((50, 260), np.float32))
    on_device, from_rows, to_slots = put(records), put(rows), put(slots)
    gather_records(device, on_device, from_rows, gathered)
    scatter_records(device, gathered, to_slots, pad)
    expected = np.zeros((70, 260), np.float32)
    expected[slots] = records[rows]
    np.testing.assert_array_equal(device.download(pad), expected)


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


@pytest.mark.parametrize("meant", [None, 200, 0])
@pytest.mark.parametrize("slots_are_emptied", [False, True])
def test_marks(gpu_device, slots_are_emptied, meant):
    put = OnDevice(gpu_device)
    before, slots, rows = np.arange(500) * 10, some_places(500, 300, np.int32), np.arange(300) + 2**40
    slot_rows = put(before)
    given = put(slots), put(None if slots_are_emptied else rows)
    mark_rows(gpu_device, slot_rows, *given, count=put(count_array(meant)))
    expected, m = before.copy(), 300 if meant is None else meant
    expected[slots[:m]] = -1 if slots_are_emptied else rows[:m]
    np.testing.assert_array_equal(gpu_device.download(slot_rows), expected)

    on_cpu = before.copy()
    mark_rows(CpuDevice(1), on_cpu, slots, None if slots_are_emptied else rows, count=count_array(meant))
    np.testing.assert_array_equal(on_cpu, expected)


def test_counts_on_the_cpu():
    records, places = numbers((9, 4)), some_places(9, 6, np.int32)
    gathered = np.zeros((6, 4), np.float32)
    gather_records(CpuDevice(1), records, places, gathered, count=count_array(4))
    np.testing.assert_array_equal(gathered[:4], records[places[:4]])
    np.testing.assert_array_equal(gathered[4:], 0)


def test_other_places_are_refused():
    device = emulated_device()
    records = device.zeros((3, 4))
    with pytest.raises(TypeError, match=r"places must be int64 \(rows\) or int32 \(slots\), but are uint32"):
        gather_records(device, records, device.zeros(2, np.uint32), records)
