"""bce_with_logits.cu, on a GPU or executed on the CPU, against the definition and the CPU's own form."""

import math

import numpy as np
import pytest
import reference
from cuda_on_cpu import ORDERS
from on_gpu import check_same_in_all_orders, on_emulated_gpu, on_gpu

from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.bce_with_logits import bce_with_logits


def poisoned_outputs(samples):
    return np.full(samples, np.nan, dtype=np.float32), np.full(1, np.nan)


def made_inputs(samples):
    """logits, labels"""
    random = np.random.default_rng(samples)
    logits = (4 * random.standard_normal(samples)).astype(np.float32)
    return logits, random.integers(0, 2, samples).astype(np.float32)


@pytest.mark.parametrize("samples", [0, 1, 31, 33, 200, 1023, 1024, 1025, 2500])
def test_values(gpu_device, samples):
    logits, labels = inputs = made_inputs(samples)
    *same, dlogits, loss_sum = on_gpu(gpu_device, bce_with_logits, *inputs, *poisoned_outputs(samples))
    expected_loss, expected_gradient = reference.bce_with_logits(logits.astype(np.float64), labels)
    assert loss_sum[0] == pytest.approx(expected_loss, rel=1e-12)
    np.testing.assert_allclose(dlogits, expected_gradient, rtol=1e-7, atol=0)
    for array, before in zip(same, inputs, strict=True):
        np.testing.assert_array_equal(array, before)

    cpu_dlogits, cpu_loss_sum = poisoned_outputs(samples)
    bce_with_logits(CpuDevice(1), logits, labels, cpu_dlogits, cpu_loss_sum)
    np.testing.assert_array_max_ulp(dlogits, cpu_dlogits, 1)
    assert loss_sum[0] == pytest.approx(cpu_loss_sum[0], rel=1e-13)


@pytest.mark.parametrize("samples", [33, 1025])
def test_any_order_of_threads_gives_the_same_bits(samples):
    check_same_in_all_orders(ORDERS, bce_with_logits, *made_inputs(samples), *poisoned_outputs(samples))


def test_the_sum_is_of_double_precision(gpu_device):
    """One large loss and many that float32 would lose beside it."""
    logits = np.full(3000, -18, dtype=np.float32)
    logits[1500] = 1e6
    *_, loss_sum = on_gpu(gpu_device, bce_with_logits, logits, np.zeros_like(logits), *poisoned_outputs(3000))
    assert loss_sum[0] - 1e6 == pytest.approx(2999 * math.log1p(math.exp(-18)), rel=1e-5)


def test_extreme_logits_neither_overflow_nor_vanish(gpu_device):
    logits = np.array([1e4, -1e4, 1e4, -1e4, -80, 0], dtype=np.float32)
    labels = np.array([1, 0, 0, 1, 0, 1], dtype=np.float32)
    *_, dlogits, loss_sum = on_gpu(gpu_device, bce_with_logits, logits, labels, *poisoned_outputs(6))
    assert loss_sum[0] == pytest.approx(2e4 + math.log(2), rel=1e-12)
    np.testing.assert_allclose(dlogits * 6, [0, 0, 1, -1, math.exp(-80), -0.5], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("logit", "label"), [(np.nan, 1), (0.5, np.nan), (np.inf, 0), (-np.inf, 1)])
def test_what_is_not_finite_reaches_the_loss(gpu_device, logit, label):
    logits, labels = np.array([1, logit, -1], dtype=np.float32), np.array([1, label, 0], dtype=np.float32)
    *_, loss_sum = on_gpu(gpu_device, bce_with_logits, logits, labels, *poisoned_outputs(3))
    assert not math.isfinite(loss_sum[0])


def test_refused():
    three, one = np.zeros(3, np.float32), np.zeros(1)
    with pytest.raises(ValueError, match=r"one shape: \(3,\), \(2,\), \(3,\)"):
        on_emulated_gpu(bce_with_logits, three, three[:2], three, one)
    with pytest.raises(ValueError, match=r"loss_sum must be \(1,\), but is \(0,\)"):
        on_emulated_gpu(bce_with_logits, three, three, three, one[:0])
    with pytest.raises(TypeError, match=r"loss_sum of bce_with_logits .* must be float64, but is float32"):
        on_emulated_gpu(bce_with_logits, three, three, three, three[:1])
    with pytest.raises(TypeError, match=r"labels of bce_with_logits .* must be float32, but is float64"):
        on_emulated_gpu(bce_with_logits, three, three.astype(np.float64), three, one)
