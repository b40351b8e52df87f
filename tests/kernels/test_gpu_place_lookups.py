"""place_lookups, on the CPU and by its kernel: single rows, hot rows, none."""

import numpy as np
import pytest
from cuda_on_cpu import ORDERS
from gpu_devices import emulated_device
from gpu_plans import batch_of_segments, cpu_plan, device_plan, padded

from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.place_lookups import place_lookups

LENGTHS = [[], [1], [700], [1] * 300, [300, 1, 1, 1], [1, 1, 1, 300], [2, 3, 1, 64, 65, 1, 200, 4]]


def case(lengths):
    """(batch, places of its unique rows, where each lookup then is)."""
    random = np.random.default_rng(len(lengths))
    batch = batch_of_segments(random, lengths, 5, 3, rows=len(lengths) + 9)
    unique_rows, unique_of_lookups = np.unique(batch.rows, return_inverse=True)
    places = random.permutation(1000)[: len(unique_rows)].astype(np.int32)
    return batch, places, places[unique_of_lookups]


def place_on_gpu(device, batch, places):
    lookup_places = device.upload(np.full(batch.lookups, -7, np.int32))
    given = device.upload(padded(places, len(places) + 3, np.int32))
    plan = device_plan(device, batch)
    place_lookups(device, plan, given, lookup_places)
    return device.download(lookup_places)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_kernel(gpu_device, lengths):
    batch, places, expected = case(lengths)
    np.testing.assert_array_equal(place_on_gpu(gpu_device, batch, places), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_threads_and_few_blocks(monkeypatch, order):
    monkeypatch.setattr("cupyrec.devices.gpu.MOST_BLOCKS", 1)
    batch, places, expected = case(LENGTHS[-1])
    np.testing.assert_array_equal(place_on_gpu(emulated_device(thread_order=order), batch, places), expected)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_cpu(lengths):
    batch, places, expected = case(lengths)
    lookup_places = np.full(batch.lookups, -7, np.int32)
    place_lookups(CpuDevice(1), cpu_plan(batch), places, lookup_places)
    np.testing.assert_array_equal(lookup_places, expected)


def test_a_plan_for_the_other_device_is_refused():
    batch, places, _ = case([2])
    device = emulated_device()
    on_device = device.upload(places)
    with pytest.raises(TypeError, match="this device needs a GpuCoalescePlan, but got a CoalescePlan"):
        place_lookups(device, cpu_plan(batch), on_device, device.zeros(2, np.int32))
    with pytest.raises(TypeError, match="this device needs a CoalescePlan, but got a GpuCoalescePlan"):
        place_lookups(CpuDevice(1), device_plan(device, batch), places, np.zeros(2, np.int32))
