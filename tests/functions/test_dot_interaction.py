"""Dot interaction: order of the pairs, both forms, gradients, odd sizes, threads."""

import numpy as np
import pytest
import reference
from gradcheck import assert_gradient

from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.dot_interaction import (
    SHORT_VECTOR,
    dot_interaction_backward,
    dot_interaction_forward,
    interaction_width,
)

# (F, D, self_interaction): F + 1 vectors below, at and above the unroll of 8; few, as each is compiled for itself.
# D above SHORT_VECTOR has a forward kernel of its own, which takes four pairs at once and the rest one by one.
CHECKED_BY_DIFFERENCES = [(1, 1, False), (2, 3, True), (5, 16, False), (1, 33, False), (4, 40, True)]
COMPARED = [(2, 1, False), (7, 17, True), (8, 2, False), (4, 40, True), (5, 64, False), (8, 128, False)]
# One of each forward kernel.
SHORT_AND_LONG = [(2, 1), (5, 64)]


def arrays(samples, features, dimension, dtype, *, self_interaction):
    """X, Y and a random dR."""
    random = np.random.default_rng(samples + 10 * features + 1000 * dimension)
    width = interaction_width(features, dimension, self_interaction=self_interaction)
    shapes = (samples, dimension), (samples, features, dimension), (samples, width)
    return tuple(random.standard_normal(shape).astype(dtype) for shape in shapes)


def forward_and_backward(X, Y, dR, *, self_interaction, threads=1):
    R, dX, dY = np.full_like(dR, np.nan), np.full_like(X, np.nan), np.full_like(Y, np.nan)
    device = CpuDevice(threads)
    with device.running():
        dot_interaction_forward(device, X, Y, R, self_interaction=self_interaction)
        dot_interaction_backward(device, dR, X, Y, dX, dY, self_interaction=self_interaction)
    return R, dX, dY


def test_width():
    assert interaction_width(26, 16) == 16 + 27 * 26 // 2
    assert interaction_width(26, 16, self_interaction=True) == 16 + 27 * 28 // 2
    assert interaction_width(1, 3) == 4


def test_order_of_the_pairs():
    # Products of primes tell which pair stands where.
    X, Y = np.array([[2]], dtype=np.float32), np.array([[[3], [5]]], dtype=np.float32)
    R, _, _ = forward_and_backward(X, Y, np.zeros((1, 4), dtype=np.float32), self_interaction=False)
    np.testing.assert_array_equal(R, [[2, 6, 10, 15]])
    X, Y = np.array([[2.0, 0, 0]]), np.array([[[3.0, 0, 0], [5.0, 0, 0]]])
    R, _, _ = forward_and_backward(X, Y, np.zeros((1, 9)), self_interaction=True)
    np.testing.assert_array_equal(R, [[2, 0, 0, 4, 6, 9, 10, 15, 25]])


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("features", "dimension", "self_interaction"), CHECKED_BY_DIFFERENCES)
def test_gradients(samples, features, dimension, self_interaction):
    X, Y, C = arrays(samples, features, dimension, np.float64, self_interaction=self_interaction)
    _, dX, dY = forward_and_backward(X, Y, C, self_interaction=self_interaction)

    def loss():
        R = np.empty_like(C)
        dot_interaction_forward(CpuDevice(1), X, Y, R, self_interaction=self_interaction)
        return float((C * R).sum())

    assert_gradient(loss, X, dX)
    assert_gradient(loss, Y, dY)


@pytest.mark.parametrize(("features", "dimension", "self_interaction"), COMPARED)
def test_equals_loops_for_any_number_of_threads(features, dimension, self_interaction):
    X, Y, dR = arrays(5, features, dimension, np.float32, self_interaction=self_interaction)
    alone = forward_and_backward(X, Y, dR, self_interaction=self_interaction)
    expected = (
        reference.dot_interaction_forward(X, Y, self_interaction=self_interaction),
        *reference.dot_interaction_backward(dR, X, Y, self_interaction=self_interaction),
    )
    for actual, right in zip(alone, expected, strict=True):
        np.testing.assert_allclose(actual, right, rtol=1e-5, atol=2e-5)
    for threads in (2, 3, 7):
        shared = forward_and_backward(X, Y, dR, self_interaction=self_interaction, threads=threads)
        for one, many in zip(alone, shared, strict=True):
            np.testing.assert_array_equal(one, many)


def test_both_forward_kernels_are_tested():
    for shapes in (CHECKED_BY_DIFFERENCES, COMPARED, SHORT_AND_LONG):
        assert {shape[1] > SHORT_VECTOR for shape in shapes} == {False, True}


@pytest.mark.parametrize(("features", "dimension"), SHORT_AND_LONG)
def test_no_samples(features, dimension):
    X, Y, dR = arrays(0, features, dimension, np.float32, self_interaction=False)
    R, dX, dY = forward_and_backward(X, Y, dR, self_interaction=False)
    width = dimension + (features + 1) * features // 2
    assert (R.shape, dX.shape, dY.shape) == ((0, width), (0, dimension), (0, features, dimension))


@pytest.mark.parametrize(("features", "dimension"), SHORT_AND_LONG)
@pytest.mark.parametrize("at", ["X", "Y"])
def test_nan_reaches_its_sample_and_no_other(at, features, dimension):
    X, Y, dR = arrays(5, features, dimension, np.float32, self_interaction=False)
    (X[2] if at == "X" else Y[2, 1])[...] = np.nan
    R, _, _ = forward_and_backward(X, Y, dR, self_interaction=False)
    np.testing.assert_array_equal(np.isnan(R).any(axis=1), [False, False, True, False, False])
