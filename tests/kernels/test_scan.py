"""Block scans and ordered compaction at the borders of warps, blocks and tiles."""

import numpy as np
import pytest
from cuda_on_cpu import ORDERS
from gpu_devices import emulated_device

from cupyrec.kernels import kernel
from cupyrec.kernels.compaction import TILE_ITEMS, exclusive_scan, tiles


def scanned(device, values):
    """(scanned, totals) of values (rows, items)."""
    on_device, totals = device.upload(values), device.empty(values.shape[0], np.int32)
    exclusive_scan(device, on_device, totals)
    return device.download(on_device), device.download(totals)


def expected_scan(values):
    sums = np.cumsum(values, axis=1, dtype=np.int32)
    return sums - values, sums[:, -1]


@pytest.mark.parametrize("items", [1, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025, 3100])
def test_sums_of_what_is_before(gpu_device, items):
    values = np.random.default_rng(items).integers(-5, 100, (2, items)).astype(np.int32)
    for got, expected in zip(scanned(gpu_device, values), expected_scan(values), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("thread_order", [*ORDERS[1:], "shuffled-4"])
@pytest.mark.parametrize("threads", [32, 64, 96, 1024])
def test_no_order_of_threads_changes_them(threads, thread_order):
    """A block goes through many widths: none of its warps may run ahead into the next one's sums."""
    values = np.random.default_rng(1).integers(0, 100, (3, 1100)).astype(np.int32)
    device = emulated_device(thread_order=thread_order)
    on_device, totals = device.upload(values), device.empty(3, np.int32)
    device.launch(kernel("scan", "exclusive_scan"), 3, threads, on_device, np.int32(1100), totals)
    for got, expected in zip((on_device, totals), expected_scan(values), strict=True):
        np.testing.assert_array_equal(device.download(got), expected)


def test_one_array_has_one_total():
    device = emulated_device()
    values, total = device.upload(np.array([3, 0, 4], np.int32)), device.empty(1, np.int32)
    exclusive_scan(device, values, total)
    assert (device.download(values).tolist(), device.download(total).tolist()) == ([0, 3, 3], [7])
    with pytest.raises(ValueError, match=r"totals must be \(1,\)"):
        exclusive_scan(device, values, device.empty(2, np.int32))


def test_no_items_are_a_tile_too():
    counts = [tiles(items) for items in (0, 1, TILE_ITEMS, TILE_ITEMS + 1)]
    assert counts == [1, 1, 1, 2]
