"""dot_interaction.cu, on a GPU or executed on the CPU, against the reference and the CPU's own form."""

import numpy as np
import pytest
import reference
from cuda_on_cpu import ORDERS
from on_gpu import check_same_in_all_orders, on_emulated_gpu, on_gpu

from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.dot_interaction import (
    _backward_block,
    dot_interaction_backward,
    dot_interaction_forward,
    interaction_width,
)

# (B, F, D, self_interaction): F + 1 below, at and above whole tiles, D a multiple of 4 and not, fewer and more of its
# parts than lanes; one or many samples a block, with the last block full and not.
SHAPES = [
    (1, 1, 1, False),
    (33, 2, 3, True),
    (200, 1, 16, True),
    (65, 3, 4, False),
    (31, 8, 16, True),
    (5, 8, 128, False),
    (2, 26, 64, False),
    (3, 26, 16, True),
    (2, 7, 200, False),
    (1, 4, 1024, True),
    (2, 6, 65, False),
]
# With so many vectors one block makes the gradients of a part of them alone.
MANY_FEATURES = 100


def arrays(samples, features, dimension, self_interaction):
    """X, Y, dR."""
    random = np.random.default_rng(samples + 10 * features + 1000 * dimension)
    width = interaction_width(features, dimension, self_interaction=self_interaction)
    shapes = (samples, dimension), (samples, features, dimension), (samples, width)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def poison_like(*like):
    return [np.full_like(each, np.nan) for each in like]


def forward_and_backward(self_interaction):
    def operation(device, X, Y, dR, R, dX, dY):
        dot_interaction_forward(device, X, Y, R, self_interaction=self_interaction)
        dot_interaction_backward(device, dR, X, Y, dX, dY, self_interaction=self_interaction)

    return operation


def assert_right(X, Y, dR, R, dX, dY, *, self_interaction):
    """Within a few roundings of float32 of the sum of the sizes of all terms."""
    settings = {"self_interaction": self_interaction}
    expected = (
        reference.dot_interaction_forward(X, Y, **settings),
        *reference.dot_interaction_backward(dR, X, Y, **settings),
    )
    sizes = (
        reference.dot_interaction_forward(np.abs(X), np.abs(Y), **settings),
        *reference.dot_interaction_backward(np.abs(dR), np.abs(X), np.abs(Y), **settings),
    )
    cpu = poison_like(R, dX, dY)
    forward_and_backward(self_interaction)(CpuDevice(1), X, Y, dR, *cpu)
    for actual, right, size, other in zip((R, dX, dY), expected, sizes, cpu, strict=True):
        assert (np.abs(actual - right) <= 4e-7 * size).all()
        assert (np.abs(actual.astype(np.float64) - other) <= 8e-7 * size).all()


@pytest.mark.parametrize("shape", [*SHAPES, (2, MANY_FEATURES, 3, True)])
def test_equals_loops(gpu_device, shape):
    X, Y, dR = arrays(*shape)
    poison = poison_like(dR, X, Y)
    *same, R, dX, dY = on_gpu(gpu_device, forward_and_backward(shape[3]), X, Y, dR, *poison)
    for array, before in zip(same, (X, Y, dR), strict=True):
        np.testing.assert_array_equal(array, before)
    assert_right(X, Y, dR, R, dX, dY, self_interaction=shape[3])
    np.testing.assert_array_equal(R[:, : shape[2]], X)


@pytest.mark.parametrize("shape", SHAPES[1:10:2])
def test_any_order_of_threads_gives_the_same_bits(shape):
    X, Y, dR = arrays(*shape)
    check_same_in_all_orders(ORDERS, forward_and_backward(shape[3]), X, Y, dR, *poison_like(dR, X, Y))


def test_the_shapes_are_of_all_kinds():
    blocks = [_backward_block(features, dimension) for _, features, dimension, _ in SHAPES]
    assert {samples == 1 for _, samples, _ in blocks} == {False, True}
    assert all(rows > features for (rows, _, _), (_, features, _, _) in zip(blocks, SHAPES, strict=True))
    assert _backward_block(MANY_FEATURES, 3)[0] < MANY_FEATURES
    for features in range(2047):
        for dimension in (1, 16, 128, 1024):
            rows, samples, threads = _backward_block(features, dimension)
            # As in dot_interaction.cu; 48 KiB of shared memory is what every GPU has.
            stride = rows + 4 if rows % 8 == 0 else rows
            assert samples * (features + 1) * stride * 4 <= 48 * 1024
            assert rows % 4 == 0
            assert threads % 32 == 0
            assert 32 <= threads <= 256


def test_order_of_the_pairs(gpu_device):
    # Products of primes tell which pair stands where.
    X, Y = np.array([[2]], dtype=np.float32), np.array([[[3], [5], [7], [11]]], dtype=np.float32)
    R = np.full((1, 11), np.nan, dtype=np.float32)
    *_, R = on_gpu(gpu_device, dot_interaction_forward, X, Y, R)
    np.testing.assert_array_equal(R, [[2, 6, 10, 15, 14, 21, 35, 22, 33, 55, 77]])


@pytest.mark.parametrize("at", ["X", "Y", "dR"])
def test_nan_reaches_its_sample_and_no_other(gpu_device, at):
    given = dict(zip(["X", "Y", "dR"], arrays(31, 8, 16, True), strict=True))
    given[at][2, -1] = np.nan
    poison = poison_like(given["dR"], given["X"], given["Y"])
    *_, R, dX, dY = on_gpu(gpu_device, forward_and_backward(True), *given.values(), *poison)
    expected = np.arange(31) == 2
    for array in (R, dX, dY) if at != "dR" else (dY,):
        np.testing.assert_array_equal(np.isnan(array.reshape(31, -1)).any(axis=1), expected)


def test_no_samples_and_no_features(gpu_device):
    X, Y, dR = arrays(0, 8, 16, False)
    on_gpu(gpu_device, forward_and_backward(False), X, Y, dR, *poison_like(dR, X, Y))
    X, Y, dR = arrays(5, 0, 3, False)
    *_, R, dX, dY = on_gpu(gpu_device, forward_and_backward(False), X, Y, dR, *poison_like(dR, X, Y))
    np.testing.assert_array_equal(R, X)
    np.testing.assert_array_equal(dX, dR)
    assert dY.shape == (5, 0, 3)


def test_refused():
    X, Y, dR = arrays(3, 2, 4, False)
    with pytest.raises(ValueError, match=r"they are \(2, 4\) and \(3, 2, 4\)"):
        on_emulated_gpu(dot_interaction_forward, X[:2], Y, dR)
    with pytest.raises(ValueError, match=r"must be \(3, 7\), but are \(3, 6\)"):
        on_emulated_gpu(dot_interaction_forward, X, Y, dR[:, :6])
    with pytest.raises(
        ValueError, match=r"dX and dY must be \(3, 4\) and \(3, 2, 4\), but they are \(3, 4\) and \(3, 1, 4\)"
    ):
        on_emulated_gpu(dot_interaction_backward, dR, X, Y, X, Y[:, :1])
    with pytest.raises(TypeError, match=r"Y of dot_interaction_forward .* must be float32, but is float64"):
        on_emulated_gpu(dot_interaction_forward, X, Y.astype(np.float64), dR)
    with pytest.raises(ValueError, match="at most 2047 features, not 2048"):
        _backward_block(2048, 4)
