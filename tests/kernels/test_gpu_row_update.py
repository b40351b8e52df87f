"""row_update.cu, executed on the CPU: values, rows and slots, what stays untouched, long segments, thread orders."""

import numpy as np
import pytest
import reference
from cuda_on_cpu import ORDERS
from gpu_devices import emulated_device
from gpu_plans import batch_of_segments, cpu_plan, device_plan, gradient_as_on_a_gpu, padded, room_for_sums

from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.host_table import record_width
from cupyrec.functions.embedding_bag import lanes_of
from cupyrec.optim.registry import make_optimizer
from cupyrec.optim.row_update import RowUpdate

OPTIMIZERS = ("sgd", "adagrad", "rowwise-adagrad")
EPS, RATE = 0.1, 0.1
ROWS = 40
LENGTHS = (1, 2, 63, 64, 65, 1, 129, 128, 1000, 3)
CASES = [
    *((name, dimension, mean) for name in OPTIMIZERS for dimension, mean in ((3, True), (16, False), (128, True))),
    ("sgd", 1, False),
    ("sgd", 128, False),
    ("rowwise-adagrad", 64, True),
    ("rowwise-adagrad", 200, False),
    ("adagrad", 200, True),
    ("adagrad", 1024, False),
]


def case(name, dimension, lengths, *, seed=1, samples=11, features=3):
    """(optimizer, batch, records with odd values in their padding, dY)."""
    random, optimizer = np.random.default_rng(seed), make_optimizer(name, eps=EPS)
    batch = batch_of_segments(random, lengths, samples, features, rows=ROWS)
    width = record_width(dimension, optimizer.row_state_width(dimension), 4) + 4
    records = random.standard_normal((ROWS, width)).astype(np.float32)
    records[:, dimension:] = abs(records[:, dimension:])
    # Small, so that a hot row's gradient is not too large for its weights to be compared closely.
    return optimizer, batch, records, (0.1 * random.standard_normal((samples, features, dimension))).astype(np.float32)


def update_rows(device, optimizer, batch, records, dY, *, mean, slots=None):
    """The records after one step. slots: (U,), where in records the unique rows are; None: at their row."""
    given = [device.upload(array) for array in (dY, batch.offsets)]
    updated, plan = device.upload(records), device_plan(device, batch)
    slots = None if slots is None else device.upload(padded(slots, batch.lookups, np.int32))
    sums = room_for_sums(device, batch, dY.shape[2])
    optimizer.update_rows(device, RowUpdate(updated, *given, plan, mean, slots, sums), learning_rate=RATE)
    result = device.download(updated)
    for array, before in zip(given, (dY, batch.offsets), strict=True):
        np.testing.assert_array_equal(device.download(array), before)
    return result


def update_rows_on_cpu(optimizer, batch, records, dY, *, mean):
    records = records.copy()
    update = RowUpdate(records, dY, batch.offsets, cpu_plan(batch), mean)
    optimizer.update_rows(CpuDevice(1), update, learning_rate=RATE)
    return records


@pytest.mark.parametrize(("dimension", "mean"), [(128, False), (128, True), (3, True), (64, False), (200, True)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_that_has_many_rows_gives_the_same_bits(monkeypatch, name, dimension, mean):
    """It reads rows ahead of the one that it updates."""
    lengths = np.random.default_rng(5).choice([1, 2, 1, 3, 64, 65, 5], ROWS).tolist()
    given = case(name, dimension, lengths)
    expected = update_rows(emulated_device(), *given, mean=mean)
    monkeypatch.setattr("cupyrec.functions.embedding_bag.MOST_SEGMENT_BLOCKS", 1)
    few = update_rows(emulated_device(), *given, mean=mean)
    np.testing.assert_array_equal(few.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize(("name", "dimension", "mean"), CASES)
def test_equals_loops_and_touches_used_weights_and_state_alone(gpu_device, name, dimension, mean):
    optimizer, batch, records, dY = case(name, dimension, LENGTHS if dimension <= 128 else LENGTHS[:5])
    after = update_rows(gpu_device, optimizer, batch, records, dY, mean=mean)

    gradients = reference.embedding_bag_backward(dY, batch.rows, batch.offsets, mean=mean)
    state_width = optimizer.row_state_width(dimension)
    expected = reference.update_rows(name, records, dimension, state_width, gradients, learning_rate=RATE, eps=EPS)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=4e-5)
    on_cpu = update_rows_on_cpu(optimizer, batch, records, dY, mean=mean)
    np.testing.assert_allclose(after, on_cpu, rtol=1e-4, atol=4e-5)
    used = sorted(gradients)
    unused = np.setdiff1d(np.arange(ROWS), used)
    np.testing.assert_array_equal(after[unused], records[unused])
    np.testing.assert_array_equal(after[:, dimension + state_width :], records[:, dimension + state_width :])
    assert (after[used, :dimension] != records[used, :dimension]).any(axis=1).all()

    # The same rows in slots of a scratchpad: the same bits.
    U = len(used)
    slots = np.random.default_rng(3).permutation(U + 5)[:U].astype(np.int32)
    scratchpad = np.full((U + 5, records.shape[1]), 7, np.float32)
    scratchpad[slots] = records[used]
    after_scratchpad = update_rows(gpu_device, optimizer, batch, scratchpad, dY, mean=mean, slots=slots)
    np.testing.assert_array_equal(after_scratchpad[slots].view(np.int32), after[used].view(np.int32))
    np.testing.assert_array_equal(np.delete(after_scratchpad, slots, axis=0), 7)


@pytest.mark.parametrize("mean", [False, True])
def test_sgd_is_one_rounding_of_a_sum_in_the_promised_order(gpu_device, mean):
    optimizer, batch, records, dY = case("sgd", 16, LENGTHS)
    after = update_rows(gpu_device, optimizer, batch, records, dY, mean=mean)
    g = gradient_as_on_a_gpu(dY, batch, lanes_of(16), mean=mean).astype(np.float64)
    used = cpu_plan(batch).unique_rows
    # The product of two float32 is exact in float64, the sum almost always; what remains is rounded once.
    expected = (records[used, :16] - float(np.float32(RATE)) * g).astype(np.float32)
    np.testing.assert_array_equal(after[used, :16], expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "dimension", "mean"), [CASES[0], CASES[4], CASES[8]])
def test_same_bits_for_any_order_of_threads(name, dimension, mean, order):
    given = case(name, dimension, [1] * 9 + [300, 70, 64, 2])
    expected = update_rows(emulated_device(), *given, mean=mean)
    after = update_rows(emulated_device(thread_order=order), *given, mean=mean)
    np.testing.assert_array_equal(after.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_row_in_all_lookups(gpu_device, name):
    optimizer, batch, records, dY = case(name, 128, [1200], samples=50, features=1)
    after = update_rows(gpu_device, optimizer, batch, records, dY, mean=True)
    gradients = reference.embedding_bag_backward(dY, batch.rows, batch.offsets, mean=True)
    state_width = optimizer.row_state_width(128)
    expected = reference.update_rows(name, records, 128, state_width, gradients, learning_rate=RATE, eps=EPS)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=4e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_lookups_change_nothing(gpu_device, name):
    optimizer, batch, records, dY = case(name, 16, [])
    np.testing.assert_array_equal(update_rows(gpu_device, optimizer, batch, records, dY, mean=True), records)


def test_what_does_not_fit_is_refused():
    device = emulated_device()
    optimizer, batch, records, dY = case("sgd", 4, [3, 1])
    arrays = [device.upload(array) for array in (records, dY, batch.offsets)]
    plan, sums = device_plan(device, batch), room_for_sums(device, batch, 4)
    with pytest.raises(ValueError, match="partial_sums must be"):
        optimizer.update_rows(device, RowUpdate(*arrays, plan, False), learning_rate=RATE)
    with pytest.raises(TypeError, match="this device needs a GpuCoalescePlan"):
        optimizer.update_rows(device, RowUpdate(*arrays, cpu_plan(batch), False, None, sums), learning_rate=RATE)
    with pytest.raises(TypeError, match="this device needs a CoalescePlan"):
        optimizer.update_rows(
            CpuDevice(1), RowUpdate(records, dY, batch.offsets, plan, False, None, sums), learning_rate=RATE
        )
    wrong = device.zeros(records.shape, np.float64)
    with pytest.raises(TypeError, match="records are float64, but their gradient is float32"):
        optimizer.update_rows(device, RowUpdate(wrong, *arrays[1:], plan, False, None, sums), learning_rate=RATE)
