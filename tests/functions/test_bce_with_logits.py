"""Binary cross-entropy: definition, gradient, extremes, NaN."""

import math

import numpy as np
import pytest
import reference
from gradcheck import assert_gradient

from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.bce_with_logits import bce_with_logits


def loss_and_gradient(logits, labels):
    gradient, loss_sum = np.full_like(logits, np.nan), np.full(1, np.nan)
    bce_with_logits(CpuDevice(1), logits, labels, gradient, loss_sum)
    return loss_sum[0], gradient


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-12)])
@pytest.mark.parametrize("samples", [0, 1, 3, 7])
def test_values(samples, dtype, tolerance):
    random = np.random.default_rng(samples)
    logits = (4 * random.standard_normal(samples)).astype(dtype)
    labels = random.integers(0, 2, samples).astype(dtype)
    loss, gradient = loss_and_gradient(logits, labels)
    expected_loss, expected_gradient = reference.bce_with_logits(logits, labels)
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("samples", [1, 3, 7])
def test_gradient_is_of_the_mean(samples):
    random = np.random.default_rng(samples)
    logits, labels = random.standard_normal(samples), random.integers(0, 2, samples).astype(np.float64)
    gradient = loss_and_gradient(logits, labels)[1]
    assert_gradient(lambda: float(loss_and_gradient(logits, labels)[0]) / samples, logits, gradient)


def test_extreme_logits_neither_overflow_nor_vanish():
    logits = np.array([1e4, -1e4, 1e4, -1e4, -80, 0], dtype=np.float32)
    labels = np.array([1, 0, 0, 1, 0, 1], dtype=np.float32)
    loss, gradient = loss_and_gradient(logits, labels)
    assert loss == pytest.approx(2e4 + math.log(2), rel=1e-12)
    np.testing.assert_allclose(gradient * 6, [0, 0, 1, -1, math.exp(-80), -0.5], rtol=1e-6, atol=0)
    assert loss_and_gradient(logits[4:5], labels[4:5])[0] == pytest.approx(math.exp(-80), rel=1e-6)


@pytest.mark.parametrize(("logit", "label"), [(np.nan, 1), (0.5, np.nan), (np.inf, 0), (-np.inf, 1)])
def test_what_is_not_finite_reaches_the_loss(logit, label):
    logits, labels = np.array([1, logit, -1], dtype=np.float32), np.array([1, label, 0], dtype=np.float32)
    assert not math.isfinite(loss_and_gradient(logits, labels)[0])


def test_strided_logits():
    both = np.array([[1, 9], [-2, 9], [3, 9]], dtype=np.float64)
    labels = np.array([0.0, 1, 1])
    assert loss_and_gradient(both[:, 0], labels)[0] == loss_and_gradient(both[:, 0].copy(), labels)[0]


@pytest.mark.parametrize("spoilt", range(4))
def test_dtypes_must_be_floats_and_the_sum_float64(spoilt):
    arrays = [np.zeros(3), np.zeros(3, np.float32), np.zeros(3), np.zeros(1)]
    bce_with_logits(CpuDevice(1), *arrays)
    arrays[spoilt] = arrays[spoilt].astype(np.float32 if spoilt == 3 else np.int64)
    with pytest.raises(TypeError, match=r"must be float32 or float64, loss_sum float64, but they are "):
        bce_with_logits(CpuDevice(1), *arrays)


def test_shapes_must_agree():
    three, two = np.zeros(3), np.zeros(2)
    with pytest.raises(ValueError, match=r"one shape: \(3,\), \(2,\), \(3,\)"):
        bce_with_logits(CpuDevice(1), three, two, three.copy(), np.zeros(1))
    with pytest.raises(ValueError, match=r"one shape: \(3,\), \(3,\), \(2,\)"):
        bce_with_logits(CpuDevice(1), three, three, two, np.zeros(1))
    with pytest.raises(ValueError, match=r"one shape: \(3, 1\)"):
        bce_with_logits(CpuDevice(1), three[:, None], three[:, None], three[:, None], np.zeros(1))
