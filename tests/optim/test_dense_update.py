"""Dense steps of all three optimizers against the reference, on any number of threads."""

import numpy as np
import pytest
import reference

from cupyrec.devices.cpu import CpuDevice
from cupyrec.optim.registry import make_optimizer

EPS = 1e-3


def after_steps(name, w_start, gradients, *, threads):
    """(2, P): weights and state after all steps; the state of an optimizer without one is 0."""
    device, optimizer = CpuDevice(threads), make_optimizer(name, eps=EPS)
    w, g = w_start.copy(), np.empty_like(w_start)
    state = np.zeros(optimizer.dense_state_size(w.size), dtype=w.dtype)
    with device.running():
        for gradient in gradients:
            g[:] = gradient
            optimizer.update_dense(device, w, g, state, learning_rate=0.1)
            np.testing.assert_array_equal(g, gradient)
    return np.stack([w, state if state.size else np.zeros_like(w)])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("name", ["sgd", "adagrad", "rowwise-adagrad"])
def test_three_steps(name, dtype, tolerance):
    random = np.random.default_rng(3)
    w_start = random.standard_normal(67).astype(dtype)
    gradients = random.standard_normal((3, 67)).astype(dtype)
    gradients[:, 5] = 0
    gradients[1:, 6] = 0
    expected_w, expected_h = w_start.astype(np.float64), np.zeros(67)
    for g in gradients:
        step = reference.DENSE_STEPS[name]
        expected_w, expected_h = step(expected_w, g.astype(np.float64), expected_h, learning_rate=0.1, eps=EPS)
    alone = after_steps(name, w_start, gradients, threads=1)
    np.testing.assert_allclose(alone[0], expected_w, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(alone[1], expected_h, rtol=tolerance, atol=tolerance)
    assert alone[0][5] == w_start[5], "a parameter without gradient stays"
    for threads in (2, 3, 7, 100):
        np.testing.assert_array_equal(after_steps(name, w_start, gradients, threads=threads), alone)


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rowwise-adagrad"])
def test_one_dtype_is_needed(name):
    optimizer, w = make_optimizer(name, eps=EPS), np.zeros(3, np.float32)
    state = np.zeros(optimizer.dense_state_size(3), np.float32)
    with pytest.raises(TypeError, match=r"must be of one dtype, but are float32(,| and) float64"):
        optimizer.update_dense(CpuDevice(1), w, np.zeros(3), state, learning_rate=0.1)
