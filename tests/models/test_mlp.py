"""The MLP: layout of its parameters, values and gradients against loops, initial weights."""

import numpy as np
import pytest
import reference

from cupyrec.devices.cpu import CpuDevice
from cupyrec.models.mlp import Mlp, mlp_parameters


def make_mlp(widths, *, max_samples=7, relu_last=False, dtype=np.float64, threads=1):
    """(mlp, its parameters, its gradients); the gradients begin as NaN."""
    size = mlp_parameters(widths)
    parameters = np.random.default_rng(size).standard_normal(size).astype(dtype)
    gradients = np.full(size, np.nan, dtype=dtype)
    device = CpuDevice(threads)
    mlp = Mlp(device, widths, parameters, gradients, max_samples=max_samples, relu_last=relu_last)
    return mlp, parameters, gradients


def backward(mlp, X, dY, dX):
    """The whole backward pass; dY is not modified."""
    dY = dY.copy()
    mlp.backward_to_input(dY, dX)
    mlp.backward_of_parameters(X, dY)


def test_parameters_lie_layer_after_layer_weights_before_biases():
    mlp, parameters, _ = make_mlp((3, 5, 2))
    assert parameters.size == mlp_parameters((3, 5, 2)) == 3 * 5 + 5 + 5 * 2 + 2
    expected = [mlp.weights[0].ravel(), mlp.biases[0], mlp.weights[1].ravel(), mlp.biases[1]]
    np.testing.assert_array_equal(np.concatenate(expected), parameters)
    assert [weight.shape for weight in mlp.weights] == [(5, 3), (2, 5)]
    assert all(np.shares_memory(view, parameters) for view in (*mlp.weights, *mlp.biases))


@pytest.mark.parametrize("relu_last", [False, True])
@pytest.mark.parametrize("widths", [(1, 1), (3, 1), (3, 5, 2), (2, 3, 4, 5)])
@pytest.mark.parametrize("samples", [1, 3, 7])
def test_equals_loops(samples, widths, relu_last):
    mlp, _, gradients = make_mlp(widths, relu_last=relu_last)
    random = np.random.default_rng(samples)
    X, dY = random.standard_normal((samples, widths[0])), random.standard_normal((samples, widths[-1]))
    outputs = reference.mlp_forward(X, mlp.weights, mlp.biases, relu_last=relu_last)
    np.testing.assert_allclose(mlp.forward(X), outputs[-1], rtol=1e-12, atol=1e-12)
    dX = np.full_like(X, np.nan)
    backward(mlp, X, dY, dX)
    expected_dX, dWs, dbs = reference.mlp_backward(dY, X, outputs, mlp.weights, relu_last=relu_last)
    np.testing.assert_allclose(dX, expected_dX, rtol=1e-12, atol=1e-12)
    expected = np.concatenate([part.ravel() for pair in zip(dWs, dbs, strict=True) for part in pair])
    np.testing.assert_allclose(gradients, expected, rtol=1e-12, atol=1e-12)


def test_input_gradient_may_be_left_out():
    mlp, _, gradients = make_mlp((3, 5, 2))
    random = np.random.default_rng(1)
    X, dY = random.standard_normal((4, 3)), random.standard_normal((4, 2))
    mlp.forward(X)
    backward(mlp, X, dY, np.empty_like(X))
    with_input = gradients.copy()
    gradients[:] = np.nan
    backward(mlp, X, dY, None)
    np.testing.assert_array_equal(gradients, with_input)


def test_a_smaller_batch_after_a_larger_one():
    mlp, _, _ = make_mlp((3, 5, 2))
    X = np.random.default_rng(1).standard_normal((7, 3))
    whole = mlp.forward(X).copy()
    np.testing.assert_allclose(mlp.forward(X[:2]), whole[:2], rtol=1e-14)
    assert mlp.forward(X[:0]).shape == (0, 2)


def test_initial_weights_have_the_variances_of_the_dlrm_reference():
    mlp, parameters, _ = make_mlp((300, 200, 400))
    mlp.initialize(np.random.SeedSequence(1))
    for weight, bias in zip(mlp.weights, mlp.biases, strict=True):
        above, below = weight.shape
        # Five standard errors: of a mean s / sqrt(n), of a variance s**2 sqrt(2 / n).
        for values, variance in ((weight, 2 / (above + below)), (bias, 1 / above)):
            assert abs(values.mean()) < 5 * np.sqrt(variance / values.size)
            assert values.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / values.size))
    assert len(np.unique(parameters)) == parameters.size


def test_initial_weights_depend_on_the_seed_alone():
    drawn = []
    for seed in (1, 1, 2):
        mlp, parameters, _ = make_mlp((3, 5, 2), dtype=np.float32)
        mlp.initialize(np.random.SeedSequence(seed))
        drawn.append(parameters.copy())
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).all()
