"""embedding_bag.cu, executed on the CPU, against the CPU form and loops: forward and backward."""

import numpy as np
import pytest
import reference
from batch_strategies import random_batch
from cuda_on_cpu import ORDERS
from gpu_devices import emulated_device
from gpu_plans import batch_of_segments, cpu_plan, device_plan, gradient_as_on_a_gpu, room_for_sums

from cupyrec.batch import LONG_SEGMENT, Batch
from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.embedding_bag import embedding_bag_backward, embedding_bag_forward, lanes_of

DIMENSIONS = [(1, False), (3, True), (16, True), (64, False), (128, True), (128, False), (200, False), (1024, False)]
LENGTHS = (1, 2, 63, 64, 65, 1, 128, 129, 1000, 3)


def forward(device, records, places, offsets, samples, features, dimension, *, mean):
    Y = device.upload(np.full((samples, features, dimension), np.nan, np.float32))
    on_device = [device.upload(array) for array in (records, places, offsets)]
    embedding_bag_forward(device, *on_device, Y, mean=mean)
    for array, before in zip(on_device, (records, places, offsets), strict=True):
        np.testing.assert_array_equal(device.download(array), before)
    return device.download(Y)


def forward_on_cpu(records, places, offsets, samples, features, dimension, *, mean):
    Y = np.full((samples, features, dimension), np.nan, np.float32)
    embedding_bag_forward(CpuDevice(1), records, places, offsets, Y, mean=mean)
    return Y


def backward(device, dY, batch, *, mean, more_rows=0):
    """dW, which had more_rows after those of the unique rows."""
    plan, sums = device_plan(device, batch), room_for_sums(device, batch, dY.shape[2])
    dW = device.upload(np.full((cpu_plan(batch).unique + more_rows, dY.shape[2]), np.nan, np.float32))
    given_dY, offsets = device.upload(dY), device.upload(batch.offsets)
    embedding_bag_backward(device, given_dY, offsets, plan, dW, mean=mean, partial_sums=sums)
    np.testing.assert_array_equal(device.download(given_dY), dY)
    return device.download(dW)


@pytest.mark.parametrize(("dimension", "mean"), DIMENSIONS)
def test_forward_gives_the_bits_of_the_cpu_for_rows_and_slots(gpu_device, dimension, mean):
    random = np.random.default_rng(dimension)
    lengths = random.permutation([0, 0, 0, 1, 1, 2, 3, 4, 5, 8, 9, 31, 32, 33, 70])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = random.integers(0, 38, offsets[-1])
    records = random.standard_normal((38, -(-(dimension + 1) // 4) * 4)).astype(np.float32)
    shape = (5, 3, dimension)
    expected = forward_on_cpu(records, rows, offsets, *shape, mean=mean)
    loops = reference.embedding_bag_forward(records[:, :dimension], rows, offsets, 5, 3, mean=mean)
    np.testing.assert_allclose(expected, loops, rtol=1e-5, atol=2e-5)
    for dtype in (np.int64, np.int32):
        Y = forward(gpu_device, records, rows.astype(dtype), offsets, *shape, mean=mean)
        np.testing.assert_array_equal(Y.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("dimension", "mean"), [(16, True), (128, False)])
def test_forward_does_not_depend_on_the_order_of_threads(dimension, mean, order):
    random = np.random.default_rng(1)
    batch = random_batch(random, (9, 4), 20, most_lookups=9)
    records = random.standard_normal((13, dimension)).astype(np.float32)
    given = records, batch.rows, batch.offsets, 20, 2, dimension
    device = emulated_device(thread_order=order)
    expected = forward_on_cpu(*given, mean=mean)
    np.testing.assert_array_equal(forward(device, *given, mean=mean), expected)


@pytest.mark.parametrize("lookups", [0, 1])
@pytest.mark.parametrize(("dimension", "mean"), [(3, True), (128, True)])
def test_no_lookup_and_one(gpu_device, dimension, mean, lookups):
    records = np.arange(2 * dimension + 8, dtype=np.float32).reshape(2, -1)
    offsets = np.array([0, 0, 0, lookups, lookups], np.int64)
    rows = np.ones(lookups, np.int64)
    Y = forward(gpu_device, records, rows, offsets, 2, 2, dimension, mean=mean)
    expected = np.zeros((2, 2, dimension), np.float32)
    expected[0, 1] = lookups * records[1, :dimension]
    np.testing.assert_array_equal(Y, expected)

    batch = Batch(np.zeros((2, 0)), rows, offsets, np.zeros(2))
    dY = np.random.default_rng(1).standard_normal((2, 2, dimension)).astype(np.float32)
    dW = backward(gpu_device, dY, batch, mean=mean, more_rows=1)
    np.testing.assert_array_equal(dW, np.concatenate([dY[0, 1][None][:lookups], np.full((1, dimension), np.nan)]))


def test_no_samples(gpu_device):
    offsets, rows = np.zeros(1, np.int64), np.zeros(0, np.int64)
    Y = forward(gpu_device, np.ones((2, 4), np.float32), rows, offsets, 0, 2, 4, mean=False)
    assert Y.shape == (0, 2, 4)


@pytest.mark.parametrize(("dimension", "mean"), DIMENSIONS)
def test_backward_adds_in_the_promised_order(gpu_device, dimension, mean):
    random = np.random.default_rng(dimension)
    batch = batch_of_segments(random, LENGTHS if dimension <= 128 else LENGTHS[:5], 11, 3, rows=50)
    assert len(np.unique(np.diff(batch.offsets))) > 5
    dY = random.standard_normal((11, 3, dimension)).astype(np.float32)
    dW = backward(gpu_device, dY, batch, mean=mean, more_rows=2)
    expected = gradient_as_on_a_gpu(dY, batch, lanes_of(dimension), mean=mean)
    np.testing.assert_array_equal(dW[:-2], expected)
    assert np.isnan(dW[-2:]).all()
    loops = reference.embedding_bag_backward(dY, batch.rows, batch.offsets, mean=mean)
    np.testing.assert_allclose(expected, [loops[row] for row in sorted(loops)], rtol=1e-5, atol=5e-4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("dimension", "mean"), [(3, True), (64, False)])
def test_backward_does_not_depend_on_the_order_of_threads(dimension, mean, order):
    random = np.random.default_rng(2)
    batch = batch_of_segments(random, [1] * 9 + [300, 70, 64], 7, 2)
    dY = random.standard_normal((7, 2, dimension)).astype(np.float32)
    dW = backward(emulated_device(thread_order=order), dY, batch, mean=mean)
    np.testing.assert_array_equal(dW, gradient_as_on_a_gpu(dY, batch, lanes_of(dimension), mean=mean))


@pytest.mark.parametrize("order", ORDERS)
def test_one_block_for_many_bags_and_segments(monkeypatch, order):
    monkeypatch.setattr("cupyrec.functions.embedding_bag.MOST_SEGMENT_BLOCKS", 1)
    monkeypatch.setattr("cupyrec.devices.gpu.MOST_BLOCKS", 1)
    random, device = np.random.default_rng(4), emulated_device(thread_order=order)
    batch = batch_of_segments(random, [1] * 20 + [70] * 5 + [200, 2, 500], 20, 2)
    dY = random.standard_normal((20, 2, 64)).astype(np.float32)
    dW = backward(device, dY, batch, mean=False)
    np.testing.assert_array_equal(dW, gradient_as_on_a_gpu(dY, batch, lanes_of(64), mean=False))
    given = random.standard_normal((28, 64)).astype(np.float32), batch.rows, batch.offsets, 20, 2, 64
    np.testing.assert_array_equal(forward(device, *given, mean=False), forward_on_cpu(*given, mean=False))


def test_one_hot_row_has_more_chunks_than_a_block_has_groups(gpu_device):
    random, dimension = np.random.default_rng(3), 128
    groups = 256 // lanes_of(dimension)
    length = 2 * groups * LONG_SEGMENT + 5
    batch = batch_of_segments(random, [length], 40, 1)
    dY = random.standard_normal((40, 1, dimension)).astype(np.float32)
    dW = backward(gpu_device, dY, batch, mean=False)
    np.testing.assert_array_equal(dW, gradient_as_on_a_gpu(dY, batch, lanes_of(dimension), mean=False))


@pytest.mark.parametrize(
    ("dimension", "lanes"),
    [
        (1, 1),
        (2, 2),
        (3, 4),
        (4, 1),
        (5, 8),
        (8, 2),
        (16, 4),
        (20, 8),
        (31, 32),
        (64, 16),
        (68, 32),
        (128, 32),
        (1024, 32),
    ],
)
def test_lanes(dimension, lanes):
    assert lanes_of(dimension) == lanes


def test_what_does_not_fit_is_refused():
    device, random = emulated_device(), np.random.default_rng(1)
    batch = batch_of_segments(random, [70, 1], 3, 1)
    dY, dW = device.zeros((3, 1, 4)), device.zeros((2, 4))
    offsets, plan = device.upload(batch.offsets), device_plan(device, batch)
    with pytest.raises(ValueError, match=r"partial_sums must be \(2, 4\) at least, but is None"):
        embedding_bag_backward(device, dY, offsets, plan, dW, mean=False)
    with pytest.raises(ValueError, match=r"partial_sums must be \(2, 4\) at least, but is \(1, 4\)"):
        embedding_bag_backward(device, dY, offsets, plan, dW, mean=False, partial_sums=device.zeros((1, 4)))
    with pytest.raises(TypeError, match="this device needs a GpuCoalescePlan, but got a CoalescePlan"):
        embedding_bag_backward(device, dY, offsets, cpu_plan(batch), dW, mean=False, partial_sums=device.zeros((2, 4)))
    with pytest.raises(TypeError, match="this device needs a CoalescePlan, but got a GpuCoalescePlan"):
        embedding_bag_backward(CpuDevice(1), np.zeros((3, 1, 4)), batch.offsets, plan, np.zeros((2, 4)), mean=False)
    with pytest.raises(TypeError, match=r"places must be int64 \(rows\) or int32 \(slots\), but are uint32"):
        embedding_bag_forward(device, dW, device.zeros(1, np.uint32), offsets, dY, mean=False)
