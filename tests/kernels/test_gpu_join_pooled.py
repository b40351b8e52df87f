"""join_pooled, on the CPU and by its kernel: sums and means of whole bags, odd sizes, nothing else modified."""

import numpy as np
import pytest
from gpu_devices import emulated_device

from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.join_pooled import join_pooled

SHAPES = [(1, 1, 1), (3, 2, 3), (5, 3, 16), (2, 5, 200), (0, 2, 4)]


def case(shape):
    random = np.random.default_rng(sum(shape))
    Y, other_Y = random.standard_normal((2, *shape)).astype(np.float32)
    lengths = random.integers(0, 4, shape[0] * shape[1])
    return Y, other_Y, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def expected(Y, other_Y, offsets, mean):
    samples, features, _ = Y.shape
    lengths = np.maximum(np.diff(offsets), 1).reshape(features, samples).T[:, :, None].astype(np.float32)
    return (Y + other_Y) / lengths if mean else Y + other_Y


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_equals_numpy(gpu_device, shape, mean):
    Y, other_Y, offsets = case(shape)
    on_device = [gpu_device.upload(array) for array in (Y, other_Y, offsets)]
    join_pooled(gpu_device, *on_device, mean=mean)
    joined, *given = [gpu_device.download(array) for array in on_device]
    np.testing.assert_array_equal(joined, expected(Y, other_Y, offsets, mean))
    np.testing.assert_array_equal(given[0], other_Y)
    np.testing.assert_array_equal(given[1], offsets)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_equals_numpy(shape, mean):
    Y, other_Y, offsets = case(shape)
    joined = Y.copy()
    join_pooled(CpuDevice(1), joined, other_Y, offsets, mean=mean)
    np.testing.assert_array_equal(joined, expected(Y, other_Y, offsets, mean))


@pytest.mark.parametrize("device", [CpuDevice(1), emulated_device()], ids=["cpu", "gpu"])
def test_shapes_must_agree(device):
    Y, offsets = device.zeros((2, 1, 4)), device.zeros(3, np.int64)
    with pytest.raises(ValueError, match=r"Y is \(2, 1, 4\), but what is added \(1, 1, 4\)"):
        join_pooled(device, Y, Y[:1], offsets, mean=False)
    with pytest.raises(ValueError, match=r"offsets are \(2,\)"):
        join_pooled(device, Y, Y, offsets[:2], mean=False)
