"""bias_sums.cu, on a GPU or executed on the CPU: the bits of the CPU's own form; what lies around biases stays."""

import numpy as np
import pytest
from cuda_on_cpu import ORDERS
from on_gpu import check_same_in_all_orders, on_gpu

from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.bias_activation import SUM_BLOCK, sum_blocks
from cupyrec.functions.bias_sums import BiasSums

# The most samples, those of the batch, the widths of the layers: around the sizes of sum blocks, of the tiles of those,
# and of warps; no layer, no sample.
CASES = [
    (1, 1, (1,)),
    (200, 130, (3, 33, 64)),
    (SUM_BLOCK, SUM_BLOCK, (127, 1, 31, 32, 128)),
    (SUM_BLOCK * (SUM_BLOCK + 2), SUM_BLOCK * (SUM_BLOCK + 1) + 1, (37, 5)),
    (9, 0, (7,)),
]
GAPS = (5, 1, 0, 12, 3)


def places_of(widths):
    """Where biases begin, with something else before each."""
    places, at = [], 0
    for gap, width in zip(GAPS, widths, strict=False):
        places.append(at + gap)
        at += gap + width
    return places, at


def make(device, most, widths):
    """A BiasSums with something in all its room, the same on every device."""
    sums = BiasSums(device, widths, places_of(widths)[0], max_samples=most)
    for layer in range(len(widths)):
        room = sums.of_layer(layer)
        device.upload(np.random.default_rng(layer).standard_normal(room.shape, np.float32), room)
    return sums


def added(device, most, samples, widths):
    gradients = np.full(places_of(widths)[1] + 4, 9, np.float32)
    return on_gpu(device, add_all(most, samples, widths), gradients)[0]


def add_all(most, samples, widths):
    """An operation for on_gpu."""

    def operation(device, gradients):
        sums = make(device, most, widths)
        sums.add(samples, gradients)
        device.synchronize()  # their memory goes back now

    return operation


@pytest.mark.parametrize(("most", "samples", "widths"), CASES)
def test_equals_the_cpu_and_a_sum(gpu_device, most, samples, widths):
    result = added(gpu_device, most, samples, widths)
    np.testing.assert_array_equal(result.view(np.uint32), added(CpuDevice(1), most, samples, widths).view(np.uint32))
    expected = np.full(result.shape, 9, np.float32)
    sums = make(CpuDevice(1), most, widths)
    for layer, (place, width) in enumerate(zip(places_of(widths)[0], widths, strict=True)):
        # NumPy adds whole rows one after another.
        expected[place : place + width] = sums.of_layer(layer)[: sum_blocks(samples)].sum(axis=0)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("most", "samples", "widths"), CASES[1:4])
def test_any_order_of_threads_gives_the_same_bits(most, samples, widths):
    operation = add_all(most, samples, widths)
    check_same_in_all_orders(ORDERS, operation, np.full(places_of(widths)[1], 9, np.float32))
