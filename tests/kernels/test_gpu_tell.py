"""Numbers that a kernel writes to page-locked memory: all of them, wherever they stand, and no others."""

import numpy as np
import pytest
from cuda_on_cpu import ORDERS
from emulated_cuda import EmulatedCuda
from gpu_devices import emulated_device

from cupyrec.devices.gpu import GpuDevice
from cupyrec.pipeline.growing_array import Largest
from cupyrec.pipeline.told_array import MOST_TELL_BLOCKS, ToldArray

SIZES = [0, 1, 16, 255, 256, 257, 2 * 256 * MOST_TELL_BLOCKS + 3]


def numbers(dtype, size):
    """Some of each sign, over all bits."""
    return np.random.default_rng(size).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, size, dtype)


def told(device, array, source):
    """What the host is told of a device array."""
    result = array.tell(device, source)
    device.record().synchronize()
    return result.copy()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("size", SIZES)
def test_all_are_told(gpu_device, dtype, size):
    expected, array = numbers(dtype, size), ToldArray(gpu_device, dtype)
    result = told(gpu_device, array, gpu_device.upload(expected))
    assert result.dtype == dtype
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_threads(order):
    device, expected = emulated_device(thread_order=order), numbers(np.int64, SIZES[-1])
    assert np.array_equal(told(device, ToldArray(device, np.int64), device.upload(expected)), expected)


def test_fewer_and_more_than_before(gpu_device):
    array, whole = ToldArray(gpu_device, np.int32), gpu_device.upload(np.arange(3000, dtype=np.int32))
    for begin, size in ((0, 5), (7, 2), (100, 2900), (1, 1), (0, 3000)):
        assert told(gpu_device, array, whole[begin : begin + size]).tolist() == list(range(begin, begin + size))


def test_what_is_beyond_stays():
    device = emulated_device()
    array = ToldArray(device, np.int32)
    before = array.tell(
        device, sources := device.upload(np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, -1, -1, -1, -1], np.int32))
    )
    told(device, array, sources[9:])
    assert before.tolist() == [-1] * 4 + [4, 5, 6, 7, 8] + [-1] * 4


def test_it_is_no_copy_where_pages_can_be_locked():
    labels = {}
    for lockable in (True, False):
        device = GpuDevice(EmulatedCuda(lockable=lockable), threads=1, say=lambda line: None)
        source, array = device.upload(np.arange(9, dtype=np.int32)), ToldArray(device, np.int32)
        begun = len(device.runtime.log)
        assert told(device, array, source).tolist() == list(range(9))
        labels[lockable] = [label for _, label in device.runtime.log[begun:]]
    assert "tell_int32" in labels[True]
    assert not [label for label in labels[True] if label.startswith("copy")]
    assert "tell_int32" not in labels[False]


def test_few_blocks_write_however_much_it_is(monkeypatch):
    device, grids = emulated_device(), []
    launch, array = device.launch, ToldArray(device, np.int64)
    source = device.upload(np.arange(SIZES[-1]))
    monkeypatch.setattr(
        device, "launch", lambda kernel, grid, *given: (grids.append(grid), launch(kernel, grid, *given))
    )
    told(device, array, source)
    told(device, array, source[:1])
    assert grids == [MOST_TELL_BLOCKS, 1]


def test_room_that_another_thread_made_too_small_is_an_error(monkeypatch):
    device = emulated_device()
    array = ToldArray(device, np.int64)
    told(device, array, device.upload(np.arange(3)))
    monkeypatch.setattr(array._memory, "reserve", lambda items: None)
    with pytest.raises(ValueError, match="room for 4 numbers, where 9 are told"):
        array.tell(device, device.upload(np.arange(9)))


def test_what_one_has_needed_others_have_room_for():
    device, largest = emulated_device(), Largest()
    one, other = (ToldArray(device, np.int64, largest) for _ in range(2))
    source = device.upload(np.arange(100))
    told(device, one, source)
    told(device, other, source[:1])
    assert other._memory.whole_host.shape == one._memory.whole_host.shape
