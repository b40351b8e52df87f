"""Bias and activation in place: values, gradients, kinks, NaN, threads."""

import numpy as np
import pytest
from gradcheck import assert_gradient

from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.bias_activation import SUM_BLOCK, bias_activation_backward, bias_activation_forward
from cupyrec.functions.bias_sums import BiasSums

SHAPES = [(1, 1), (1, 5), (3, 1), (7, 17)]


def forward(X, b, *, relu):
    Y = X.copy()
    bias_activation_forward(CpuDevice(1), Y, b, relu=relu)
    return Y


def backward(device, dY, Y, *, relu):
    """db; dY is modified."""
    sums = BiasSums(device, [dY.shape[1]], [0], max_samples=len(dY), dtype=dY.dtype)
    db = np.full(dY.shape[1], np.nan, dY.dtype)
    bias_activation_backward(device, dY, Y, sums.of_layer(0), relu=relu)
    sums.add(len(dY), db)
    return db


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
    dX = C.copy()
    db = backward(CpuDevice(1), dX, forward(X, b, relu=relu), relu=relu)

    def loss():
        return float((C * forward(X, b, relu=relu)).sum())

    assert_gradient(loss, X, dX)
    assert_gradient(loss, b, db)


def test_gradient_at_the_kink_is_zero():
    dY = np.ones((1, 3), dtype=np.float32)
    Y = forward(np.array([[-1, 0, 1]], dtype=np.float32), np.zeros(3, dtype=np.float32), relu=True)
    db = backward(CpuDevice(1), dY, Y, relu=True)
    np.testing.assert_array_equal(dY, [[0, 0, 1]])
    np.testing.assert_array_equal(db, [0, 0, 1])


@pytest.mark.parametrize("relu", [False, True])
def test_nan_is_not_swallowed(relu):
    Y = forward(np.array([[np.nan, -1.0]], dtype=np.float32), np.array([0, np.nan], dtype=np.float32), relu=relu)
    assert np.isnan(Y).all()


def test_no_samples():
    Y = np.empty((0, 3), dtype=np.float32)
    bias_activation_forward(CpuDevice(1), Y, np.ones(3, dtype=np.float32), relu=True)
    np.testing.assert_array_equal(backward(CpuDevice(1), Y, Y, relu=True), 0)


@pytest.mark.parametrize("threads", [2, 3, 9])
def test_same_bits_for_any_number_of_threads(threads):
    random = np.random.default_rng(3)
    X = random.standard_normal((101, 7)).astype(np.float32)
    b, C = random.standard_normal(7).astype(np.float32), random.standard_normal((101, 7)).astype(np.float32)
    results = []
    for device in (CpuDevice(1), CpuDevice(threads)):
        Y, dY = X.copy(), C.copy()
        with device.running():
            bias_activation_forward(device, Y, b, relu=True)
            db = backward(device, dY, Y, relu=True)
        results.append((Y, dY, db))
    for one, many in zip(*results, strict=True):
        np.testing.assert_array_equal(one, many)


def test_blocks_of_samples_are_summed_and_the_rest_of_the_room_is_left():
    dY, room = np.arange(2.0 * (SUM_BLOCK + 3)).reshape(-1, 2), np.full((4, 2), 9.0)
    bias_activation_backward(CpuDevice(1), dY, dY, room, relu=False)
    np.testing.assert_array_equal(room, [dY[:SUM_BLOCK].sum(axis=0), dY[SUM_BLOCK:].sum(axis=0), [9, 9], [9, 9]])


@pytest.mark.parametrize("room", [(1, 2), (2, 3), (2,)])
def test_room_of_another_shape_is_refused(room):
    dY = np.zeros((SUM_BLOCK + 1, 2))
    with pytest.raises(ValueError, match=r"partial_sums must be \(2 or more, 2\)"):
        bias_activation_backward(CpuDevice(1), dY, dY, np.zeros(room), relu=False)
