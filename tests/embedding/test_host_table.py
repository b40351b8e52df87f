"""The host table: record layout, initial weights, views."""

import math

import numpy as np
import pytest

from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.host_table import HostTable, initial_bound, record_width
from cupyrec.embedding.initial_rows import fill_initial_rows


@pytest.mark.parametrize(
    ("dimension", "state_width", "item_bytes", "width"),
    [
        (1, 0, 4, 4),
        (4, 0, 4, 4),
        (4, 1, 4, 8),
        (16, 16, 4, 32),
        (17, 1, 4, 20),
        (3, 0, 8, 4),
        (3, 1, 8, 4),
        (1, 0, 8, 2),
    ],
)
def test_record_width(dimension, state_width, item_bytes, width):
    assert record_width(dimension, state_width, item_bytes) == width
    assert width * item_bytes % 16 == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_weights_then_state_and_padding_of_zeros(threads):
    device = CpuDevice(threads)
    with device.running():
        table = HostTable(device, [7, 1, 30], 5, state_width=1, seed=3)
    assert table.records.shape == (38, 8)
    assert table.records.dtype == np.float32
    assert table.records.flags.c_contiguous
    assert table.records.ctypes.data % 16 == 0
    np.testing.assert_array_equal(table.records[:, 5:], 0)
    for number, rows in enumerate((7, 1, 30)):
        expected = np.empty((rows, 5), dtype=np.float32)
        fill_initial_rows(CpuDevice(1), expected, 5, seed=3, table=number, bound=1 / math.sqrt(rows))
        expected[0] = 0  # of values that have no id
        np.testing.assert_array_equal(table.weights_of(number), expected)


@pytest.mark.parametrize(("rows", "bound"), [(1, 1), (400, 0.05), (1111, 1111**-0.5), (1112, 0.03), (40_000_000, 0.03)])
def test_initial_bound(rows, bound):
    assert initial_bound(rows) == bound


def test_initial_weights_of_a_large_table_are_not_too_small_to_learn():
    weights = HostTable(CpuDevice(1), [100_000], 4, seed=3).weights_of(0)
    assert 0.0299 < np.abs(weights).max() <= np.float32(0.03)


def test_views_share_the_records():
    table = HostTable(CpuDevice(1), [2, 3], 5, state_width=5)
    table.records_of(1)[:] = 1
    table.weights_of(0)[:] = 2
    expected = np.zeros((5, 12))
    expected[2:] = 1
    expected[:2, :5] = 2
    expected[:2, 5:] = 0
    np.testing.assert_array_equal(table.records, expected)


def test_double_precision():
    table = HostTable(CpuDevice(1), [4], 3, dtype=np.float64)
    assert table.records.dtype == np.float64
    single = HostTable(CpuDevice(1), [4], 3)
    np.testing.assert_array_equal(table.weights_of(0).astype(np.float32), single.weights_of(0))
