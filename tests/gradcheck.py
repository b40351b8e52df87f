"""Gradients by central differences in float64, and the comparison with those that the code computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# The best step for a central difference of a function near 1 is the cube root of float64's 2.2e-16; its error is
# then about step**2.
STEP = 6e-6


def numerical_gradient(function: Callable[[], float], x: np.ndarray) -> np.ndarray:
    """d function() / d x, one element at a time. x: float64, any shape, read by function; the same afterwards."""
    if x.dtype != np.float64:
        raise TypeError(f"central differences need float64, but x is {x.dtype}")
    gradient = np.empty(x.shape)
    for at in np.ndindex(x.shape):
        kept = x[at]
        x[at] = kept + STEP
        above = function()
        x[at] = kept - STEP
        below = function()
        x[at] = kept
        gradient[at] = (above - below) / (2 * STEP)
    return gradient


def assert_gradient(function: Callable[[], float], x: np.ndarray, gradient: np.ndarray) -> None:
    """Raise AssertionError unless gradient is d function() / d x, to a relative 1e-7 and an absolute 1e-9."""
    numerical = numerical_gradient(function, x)
    assert gradient.shape == x.shape
    np.testing.assert_allclose(gradient, numerical, rtol=1e-7, atol=1e-9)
