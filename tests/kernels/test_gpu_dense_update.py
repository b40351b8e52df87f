"""dense_update.cu, on a GPU or executed on the CPU, against the reference: all optimizers, odd sizes and alignments."""

import numpy as np
import pytest
import reference
from cuda_on_cpu import ORDERS, run_kernel
from on_gpu import check_same_in_all_orders, on_emulated_gpu, on_gpu

from cupyrec.devices.cpu import CpuDevice
from cupyrec.kernels import kernel
from cupyrec.optim.registry import make_optimizer

EPS, RATE = 1e-3, 0.1
OPTIMIZERS = ["sgd", "adagrad", "rowwise-adagrad"]


def arrays(name, parameters):
    """w, g and state, some gradients of which are 0."""
    random = np.random.default_rng(parameters)
    w, g = (random.standard_normal(parameters).astype(np.float32) for _ in range(2))
    g[::7] = 0
    state = random.random(make_optimizer(name, eps=EPS).dense_state_size(parameters)).astype(np.float32)
    state[::14] = 0
    return w, g, state


def update(name):
    def operation(device, w, g, state):
        make_optimizer(name, eps=EPS).update_dense(device, w, g, state, learning_rate=RATE)

    return operation


def assert_close(w, h, w_before, g, h_before, name):
    exact = (each.astype(np.float64) for each in (w_before, g, h_before))
    expected_w, expected_h = reference.DENSE_STEPS[name](*exact, learning_rate=RATE, eps=EPS)
    np.testing.assert_allclose(w, expected_w, rtol=2.5e-7, atol=1e-7)
    np.testing.assert_allclose(h, expected_h, rtol=2.5e-7, atol=0)
    np.testing.assert_array_equal(w[g == 0], w_before[g == 0])


@pytest.mark.parametrize("parameters", [0, 1, 3, 4, 127, 1024, 1027, 5001])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step(gpu_device, name, parameters):
    before = arrays(name, parameters)
    w, g, state = on_gpu(gpu_device, update(name), *before)
    np.testing.assert_array_equal(g, before[1])
    assert_close(w, state, *before, name)

    cpu_w, cpu_g, cpu_state = (each.copy() for each in before)
    update(name)(CpuDevice(1), cpu_w, cpu_g, cpu_state)
    np.testing.assert_allclose(w, cpu_w, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_max_ulp(state, cpu_state, 1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_order_of_threads_gives_the_same_bits(name):
    check_same_in_all_orders(ORDERS, update(name), *arrays(name, 1027))


@pytest.mark.parametrize("offsets", [(0, 1, 0), (3, 0, 0), (0, 0, 2), (1, 1, 1)])
def test_views_that_are_not_aligned(gpu_device, offsets):
    """What lies around them stays as it is."""
    before = arrays("adagrad", 40)

    def operation(device, *whole):
        update("adagrad")(device, *(array[at : at + 33] for array, at in zip(whole, offsets, strict=True)))

    after = on_gpu(gpu_device, operation, *before)
    (w, _, h), views = (
        [array[at : at + 33] for array, at in zip(those, offsets, strict=True)] for those in (after, before)
    )
    assert_close(w, h, *views, "adagrad")
    for array, old, at in zip(after, before, offsets, strict=True):
        np.testing.assert_array_equal(np.delete(array, range(at, at + 33)), np.delete(old, range(at, at + 33)))


@pytest.mark.parametrize("order", ORDERS)
def test_a_grid_that_strides(order):
    before = arrays("adagrad", 1003)
    w, g, h = (each.copy() for each in before)
    arguments = w, g, h, np.int64(1003), np.float32(RATE), np.float32(EPS)
    run_kernel(kernel("dense_update", "dense_adagrad"), 3, 32, arguments, order=order)
    assert_close(w, h, *before, "adagrad")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nan_reaches_its_parameter_and_no_other(gpu_device, name):
    w, g, state = arrays(name, 9)
    g[5] = np.nan
    w, *_ = on_gpu(gpu_device, update(name), w, g, state)
    np.testing.assert_array_equal(np.isnan(w), np.arange(9) == 5)


def test_refused():
    w, g, h = arrays("adagrad", 8)
    with pytest.raises(ValueError, match=r"one shape, but are \(8,\), \(8,\) and \(7,\)"):
        on_emulated_gpu(update("adagrad"), w, g, h[:7])
    with pytest.raises(ValueError, match=r"one shape, but are \(8,\) and \(7,\)"):
        on_emulated_gpu(update("sgd"), w, g[:7], h[:0])
    with pytest.raises(TypeError, match=r"g of dense_sgd .* must be float32, but is float64"):
        on_emulated_gpu(update("sgd"), w, g.astype(np.float64), h[:0])
