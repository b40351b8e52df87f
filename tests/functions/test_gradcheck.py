"""The gradient check itself: it passes right gradients and fails wrong ones."""

import numpy as np
import pytest
from gradcheck import assert_gradient, numerical_gradient


@pytest.fixture
def cubes():
    """(function, x, gradient) of a weighted sum of cubes."""
    random = np.random.default_rng(1)
    x, c = random.standard_normal((3, 4)), random.standard_normal((3, 4))
    return (lambda: float((c * x**3).sum())), x, 3 * c * x**2


def test_right_gradient_passes_and_x_stays(cubes):
    function, x, gradient = cubes
    before = x.copy()
    assert_gradient(function, x, gradient)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda g: g * (1 + 1e-6),
        lambda g: -g,
        lambda g: g[::-1],
        lambda g: np.zeros_like(g),
        lambda g: np.where(np.arange(12).reshape(3, 4) == 7, g + 1e-6, g),
        lambda g: np.where(np.arange(12).reshape(3, 4) == 7, np.nan, g),
        lambda g: g.reshape(4, 3),
    ],
    ids=["scaled", "negative", "rows swapped", "zero", "one element off", "one NaN", "other shape"],
)
def test_wrong_gradient_fails(cubes, spoil):
    function, x, gradient = cubes
    with pytest.raises(AssertionError):
        assert_gradient(function, x, spoil(gradient))


def test_float32_is_refused():
    with pytest.raises(TypeError, match="float64"):
        numerical_gradient(lambda: 0.0, np.zeros(2, dtype=np.float32))
