"""bias_activation.cu, on a GPU or executed on the CPU: the bits of the CPU's own form, at odd sizes and alignments."""

import numpy as np
import pytest
from cuda_on_cpu import ORDERS, run_kernel
from on_gpu import check_same_in_all_orders, on_emulated_gpu, on_gpu

from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.bias_activation import (
    COLUMNS,
    ROW_THREADS,
    ROWS_A_THREAD,
    SUM_BLOCK,
    bias_activation_backward,
    bias_activation_forward,
    sum_blocks,
)
from cupyrec.kernels import kernel

# (B, out): around the sizes of warps, tiles and sum blocks, with out a multiple of 4 and not.
SHAPES = [(1, 1), (31, 3), (32, 64), (33, 127), (64, 32), (65, 128), (130, 33), (200, 1), (129, 200), (3, 1028)]
RELU = [False, True]
DEFINES = {
    "ROWS_A_THREAD": ROWS_A_THREAD,
    "SUM_BLOCK": SUM_BLOCK,
    "COLUMNS": COLUMNS,
    "ROW_THREADS": ROW_THREADS,
}


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def poison(*shape):
    return np.full(shape, np.nan, dtype=np.float32)


def cpu_forward(X, b, relu):
    Y = X.copy()
    bias_activation_forward(CpuDevice(1), Y, b, relu=relu)
    return Y


def bits(array):
    return array.view(np.uint32)


@pytest.mark.parametrize("relu", RELU)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(gpu_device, shape, relu):
    X, b = normal(shape, 1), normal(shape[1], 2)
    X[-1, 0] = -b[0]

    def operation(device, Y, b):
        bias_activation_forward(device, Y, b, relu=relu)

    Y, same_b = on_gpu(gpu_device, operation, X, b)
    np.testing.assert_array_equal(bits(Y), bits(cpu_forward(X, b, relu)))
    np.testing.assert_array_equal(same_b, b)


@pytest.mark.parametrize("relu", RELU)
@pytest.mark.parametrize("shape", SHAPES)
def test_backward(gpu_device, shape, relu):
    Y, dY = cpu_forward(normal(shape, 3), normal(shape[1], 4), relu), normal(shape, 5)
    # More room than is needed: the rest stays as it is.
    blocks = sum_blocks(shape[0])
    partial_sums = poison(blocks + 2, shape[1])

    def operation(device, dY, Y, partial_sums):
        bias_activation_backward(device, dY, Y, partial_sums, relu=relu)

    results = on_gpu(gpu_device, operation, dY, Y, partial_sums)
    expected_dY, expected_sums = dY.copy(), poison(blocks + 2, shape[1])
    bias_activation_backward(CpuDevice(1), expected_dY, Y, expected_sums, relu=relu)
    np.testing.assert_array_equal(bits(results[0]), bits(expected_dY))
    np.testing.assert_array_equal(bits(results[1]), bits(Y))
    np.testing.assert_array_equal(bits(results[2]), bits(expected_sums))
    assert np.isnan(results[2][blocks:]).all()
    # And both against float64.
    exact = np.where(relu & (Y <= 0), 0.0, dY.astype(np.float64))
    np.testing.assert_array_equal(results[0], exact)
    sums = np.add.reduceat(exact, range(0, shape[0], SUM_BLOCK))
    np.testing.assert_allclose(results[2][:blocks], sums, rtol=0, atol=1e-6 * np.abs(exact).sum(axis=0).max())


@pytest.mark.parametrize("shape", [(33, 127), (130, 33), (64, 32)])
def test_any_order_of_threads_gives_the_same_bits(shape):
    def operation(device, Y, b, dY, partial_sums):
        bias_activation_forward(device, Y, b, relu=True)
        bias_activation_backward(device, dY, Y, partial_sums, relu=True)

    arrays = normal(shape, 3), normal(shape[1], 4), normal(shape, 5)
    check_same_in_all_orders(ORDERS, operation, *arrays, poison(sum_blocks(shape[0]), shape[1]))


@pytest.mark.parametrize(("grid", "block"), [(1, 1), ((2, 3), (3, 5)), ((1, 2), (64, 1))])
@pytest.mark.parametrize("width", [12, 7])
def test_forward_on_any_grid(grid, block, width):
    X, b = normal((50, width), 7), normal(width, 8)
    Y = X.copy()
    forward = kernel("bias_activation", "bias_activation_forward", RELU=1, **DEFINES)
    run_kernel(forward, grid, block, (Y, b, np.int64(50), np.int32(width)), order="shuffled-1")
    np.testing.assert_array_equal(bits(Y), bits(cpu_forward(X, b, True)))


@pytest.mark.parametrize("offsets", [(1, 0), (0, 3), (2, 2)])
def test_views_that_are_not_aligned(gpu_device, offsets):
    """As the biases are, which lie among all parameters; what lies around them stays as it is."""
    X, b = normal(5 * 8 + 4, 9), normal(8 + 4, 10)
    at, b_at = offsets

    def operation(device, Y, b):
        bias_activation_forward(device, Y[at : at + 40].reshape(5, 8), b[b_at : b_at + 8], relu=True)

    Y, _ = on_gpu(gpu_device, operation, X, b)
    X[at : at + 40] = cpu_forward(X[at : at + 40].reshape(5, 8), b[b_at : b_at + 8], True).reshape(-1)
    np.testing.assert_array_equal(bits(Y), bits(X))


@pytest.mark.parametrize("width", [3, 4])
def test_nan_and_kink(gpu_device, width):
    """NaN is not swallowed, neither in a pass; where the output is 0 or -0 the gradient is 0."""
    X = np.zeros((3, width), dtype=np.float32)
    X[:, :3] = [[np.nan, -1, 2], [-0.0, 0, np.inf], [1, -np.inf, np.nan]]

    def operation(device, Y, b, dY, partial_sums):
        bias_activation_forward(device, Y, b, relu=True)
        bias_activation_backward(device, dY, Y, partial_sums, relu=True)

    # -0 is kept by adding -0 alone.
    arrays = X, np.full(width, -0.0, dtype=np.float32), np.ones((3, width), np.float32), poison(1, width)
    Y, _, dY, (sums,) = on_gpu(gpu_device, operation, *arrays)
    np.testing.assert_array_equal(Y[:, :3], [[np.nan, 0, 2], [0, 0, np.inf], [1, 0, np.nan]])
    np.testing.assert_array_equal(dY[:, :3], [[1, 0, 1], [0, 0, 1], [1, 0, 1]])
    np.testing.assert_array_equal(sums[:3], [2, 0, 3])


def test_no_samples(gpu_device):
    Y, b = np.empty((0, 3), np.float32), np.ones(3, np.float32)

    def operation(device, Y, b, dY, partial_sums):
        bias_activation_forward(device, Y, b, relu=True)
        bias_activation_backward(device, dY, Y, partial_sums, relu=True)

    *_, partial_sums = on_gpu(gpu_device, operation, Y, b, Y, poison(1, 3))
    assert np.isnan(partial_sums).all()


def test_refused():
    Y, b = np.zeros((3, 4), np.float32), np.zeros(4, np.float32)

    def forward(device, Y, b):
        bias_activation_forward(device, Y, b, relu=True)

    with pytest.raises(ValueError, match=r"\(3, 4\) and \(3,\)"):
        on_emulated_gpu(forward, Y, b[:3])
    with pytest.raises(TypeError, match=r"Y of bias_activation_forward .* must be float32, but is float64"):
        on_emulated_gpu(forward, Y.astype(np.float64), b.astype(np.float64))

    def backward(device, dY, Y, partial_sums):
        bias_activation_backward(device, dY, Y, partial_sums, relu=True)

    with pytest.raises(ValueError, match=r"\(3, 4\) and \(2, 4\)"):
        on_emulated_gpu(backward, Y, Y[:2], Y)
    with pytest.raises(ValueError, match=r"partial_sums must be \(1 or more, 4\), but is \(0, 4\)"):
        on_emulated_gpu(backward, Y, Y, Y[:0])
