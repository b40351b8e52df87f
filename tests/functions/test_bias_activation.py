"""Bias and activation in place: values, gradients, kinks, NaN, threads."""

import numpy as np
import pytest
from gradcheck import assert_gradient

from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.bias_activation import bias_activation_backward, bias_activation_forward

SHAPES = [(1, 1), (1, 5), (3, 1), (7, 17)]


def forward(X, b, *, relu):
    Y = X.copy()
    bias_activation_forward(CpuDevice(1), Y, b, relu=relu)
    return Y


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values(shape, relu):
    random = np.random.default_rng(1)
    X = random.standard_normal(shape).astype(np.float32)
    b = random.standard_normal(shape[1]).astype(np.float32)
    expected = np.maximum(X + b, 0) if relu else X + b
    np.testing.assert_array_equal(forward(X, b, relu=relu), expected)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(shape, relu):
    random = np.random.default_rng(2)
    X, b, C = random.standard_normal(shape), random.standard_normal(shape[1]), random.standard_normal(shape)
    assert np.abs(X + b).min() > 1e-3, "too near the kink for differences"
    dX, db = C.copy(), np.full(shape[1], np.nan)
    bias_activation_backward(CpuDevice(1), dX, forward(X, b, relu=relu), db, relu=relu)

    def loss():
        return float((C * forward(X, b, relu=relu)).sum())

    assert_gradient(loss, X, dX)
    assert_gradient(loss, b, db)


def test_gradient_at_the_kink_is_zero():
    dY, db = np.ones((1, 3), dtype=np.float32), np.empty(3, dtype=np.float32)
    Y = forward(np.array([[-1, 0, 1]], dtype=np.float32), np.zeros(3, dtype=np.float32), relu=True)
    bias_activation_backward(CpuDevice(1), dY, Y, db, relu=True)
    np.testing.assert_array_equal(dY, [[0, 0, 1]])
    np.testing.assert_array_equal(db, [0, 0, 1])


@pytest.mark.parametrize("relu", [False, True])
def test_nan_is_not_swallowed(relu):
    Y = forward(np.array([[np.nan, -1.0]], dtype=np.float32), np.array([0, np.nan], dtype=np.float32), relu=relu)
    assert np.isnan(Y).all()


def test_no_samples():
    Y, db = np.empty((0, 3), dtype=np.float32), np.full(3, 9, dtype=np.float32)
    bias_activation_forward(CpuDevice(1), Y, np.ones(3, dtype=np.float32), relu=True)
    bias_activation_backward(CpuDevice(1), Y, Y, db, relu=True)
    np.testing.assert_array_equal(db, 0)


@pytest.mark.parametrize("threads", [2, 3, 9])
def test_same_bits_for_any_number_of_threads(threads):
    random = np.random.default_rng(3)
    X = random.standard_normal((101, 7)).astype(np.float32)
    b, C = random.standard_normal(7).astype(np.float32), random.standard_normal((101, 7)).astype(np.float32)
    results = []
    for device in (CpuDevice(1), CpuDevice(threads)):
        Y, dY, db = X.copy(), C.copy(), np.empty(7, dtype=np.float32)
        with device.running():
            bias_activation_forward(device, Y, b, relu=True)
            bias_activation_backward(device, dY, Y, db, relu=True)
        results.append((Y, dY, db))
    for one, many in zip(*results, strict=True):
        np.testing.assert_array_equal(one, many)
