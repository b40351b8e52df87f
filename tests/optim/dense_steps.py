"""What the tests of the three optimizers share: dense steps against the reference, on any number of threads."""

from __future__ import annotations

import numpy as np
import reference

from cupyrec.devices.cpu import CpuDevice


def check_dense_steps(optimizer, *, eps, dtype, tolerance):
    """Three steps of 67 parameters equal the reference, and for any number of threads each other bit for bit."""
    random = np.random.default_rng(3)
    w_start = random.standard_normal(67).astype(dtype)
    gradients = random.standard_normal((3, 67)).astype(dtype)
    gradients[:, 5] = 0
    gradients[1:, 6] = 0
    expected_w, expected_h = w_start.astype(np.float64), np.zeros(67)
    for g in gradients:
        step = reference.DENSE_STEPS[optimizer.name]
        expected_w, expected_h = step(expected_w, g.astype(np.float64), expected_h, learning_rate=0.1, eps=eps)
    alone = _after_steps(optimizer, w_start, gradients, threads=1)
    for threads in (2, 3, 7, 100):
        np.testing.assert_array_equal(_after_steps(optimizer, w_start, gradients, threads=threads), alone)
    np.testing.assert_allclose(alone[0], expected_w, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(alone[1], expected_h, rtol=tolerance, atol=tolerance)
    assert alone[0][5] == w_start[5], "a parameter without gradient stays"


def _after_steps(optimizer, w_start, gradients, *, threads):
    """(2, P): weights and state after all steps; the state of an optimizer without one is 0."""
    device, w, g = CpuDevice(threads), w_start.copy(), np.empty_like(w_start)
    state = np.zeros(optimizer.dense_state_size(w.size), dtype=w.dtype)
    with device.running():
        for gradient in gradients:
            g[:] = gradient
            optimizer.update_dense(device, w, g, state, learning_rate=0.1)
            np.testing.assert_array_equal(g, gradient)
    return np.stack([w, state if state.size else np.zeros_like(w)])
