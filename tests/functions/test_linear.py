"""Y = X W^T: values against loops, gradients, no samples."""

import numpy as np
import pytest
import reference
from gradcheck import assert_gradient

from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.linear import linear_forward, linear_input_gradient, linear_weight_gradient

SHAPES = [(1, 1, 1), (1, 3, 5), (3, 5, 1), (7, 1, 3), (7, 16, 5)]


def arrays(samples, below, above, dtype):
    random = np.random.default_rng(samples * 100 + below * 10 + above)
    shapes = (samples, below), (above, below), (samples, above)
    return tuple(random.standard_normal(shape).astype(dtype) for shape in shapes)


@pytest.mark.parametrize("shape", [*SHAPES, (0, 3, 5)])
def test_values(shape):
    X, W, Y = arrays(*shape, np.float32)
    linear_forward(CpuDevice(1), X, W, Y)
    np.testing.assert_allclose(Y, reference.linear_forward(X, W), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(shape):
    X, W, C = arrays(*shape, np.float64)
    dW, dX = np.full_like(W, np.nan), np.full_like(X, np.nan)
    linear_weight_gradient(CpuDevice(1), C, X, dW)
    linear_input_gradient(CpuDevice(1), C, W, dX)

    def loss():
        Y = np.empty_like(C)
        linear_forward(CpuDevice(1), X, W, Y)
        return float((C * Y).sum())

    assert_gradient(loss, X, dX)
    assert_gradient(loss, W, dW)


def test_no_samples_give_no_gradient():
    X, W, dY = arrays(0, 5, 3, np.float32)
    dW = np.full_like(W, np.nan)
    linear_weight_gradient(CpuDevice(1), dY, X, dW)
    np.testing.assert_array_equal(dW, 0)
