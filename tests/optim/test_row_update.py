"""Coalesced row updates of all three optimizers: values, untouched rows, hot rows, threads."""

import dataclasses

import numpy as np
import pytest
import reference
from batch_strategies import random_batch

from cupyrec.batch import Batch
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.host_table import record_width
from cupyrec.optim.registry import make_optimizer
from cupyrec.optim.row_update import RowUpdate

OPTIMIZERS = ("sgd", "adagrad", "rowwise-adagrad")
TABLE_ROWS = (1, 40, 7)
EPS = 0.1


def update_rows(optimizer, records, dY, batch, table_rows, *, mean, threads=1, learning_rate=0.1):
    """The records after one step; the argument stays as it is."""
    device, records = CpuDevice(threads), records.copy()
    with device.running():
        update = RowUpdate(records, dY, batch.offsets, Coalescer(device, table_rows).plan(batch), mean)
        optimizer.update_rows(device, update, learning_rate=learning_rate)
    return records


def random_records(random, table_rows, optimizer, dimension):
    """Weights, state of at least 0 and, in the padding, values that nothing may change."""
    width = record_width(dimension, optimizer.row_state_width(dimension), 4)
    records = random.standard_normal((sum(table_rows), width)).astype(np.float32)
    records[:, dimension:] = abs(records[:, dimension:])
    return records


@pytest.mark.parametrize(("dimension", "mean"), [(1, False), (3, True), (17, False)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_loops_and_touches_used_weights_and_state_alone(name, dimension, mean):
    random, optimizer = np.random.default_rng(dimension), make_optimizer(name, eps=EPS)
    batch = random_batch(random, TABLE_ROWS, 9)
    records = random_records(random, TABLE_ROWS, optimizer, dimension)
    dY = random.standard_normal((9, 3, dimension)).astype(np.float32)
    after = update_rows(optimizer, records, dY, batch, TABLE_ROWS, mean=mean)

    gradients = reference.embedding_bag_backward(dY, batch.rows, batch.offsets, mean=mean)
    state_width = optimizer.row_state_width(dimension)
    expected = reference.update_rows(name, records, dimension, state_width, gradients, learning_rate=0.1, eps=EPS)
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)
    used = sorted(gradients)
    unused = np.setdiff1d(np.arange(len(records)), used)
    assert unused.size, "some row is meant to be unused"
    np.testing.assert_array_equal(after[unused], records[unused])
    np.testing.assert_array_equal(after[:, dimension + state_width :], records[:, dimension + state_width :])
    assert (after[used, :dimension] != records[used, :dimension]).any(axis=1).all()


@pytest.mark.parametrize(("dimension", "mean"), [(3, True), (17, False)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_same_bits_for_any_number_of_threads(name, dimension, mean):
    random, optimizer = np.random.default_rng(dimension), make_optimizer(name, eps=EPS)
    batch = random_batch(random, TABLE_ROWS, 33)
    records = random_records(random, TABLE_ROWS, optimizer, dimension)
    dY = random.standard_normal((33, 3, dimension)).astype(np.float32)
    alone = update_rows(optimizer, records, dY, batch, TABLE_ROWS, mean=mean)
    for threads in (2, 3, 7, 60):
        shared = update_rows(optimizer, records, dY, batch, TABLE_ROWS, mean=mean, threads=threads)
        np.testing.assert_array_equal(shared.view(np.int32), alone.view(np.int32), err_msg=f"{threads} threads")


def step_of_loops(name, records, g, learning_rate, product):
    """One step of one row, item by item. records: (record width,), modified; g: (D,); product: the dtype of products
    that are added to something, which machines with such an instruction do not round before.
    """
    dtype, D = records.dtype.type, g.size
    w, h, rate, eps = records[:D], records[D:], dtype(learning_rate), dtype(EPS)
    if name == "sgd":
        w[:] = w - product(rate) * g
    elif name == "adagrad":
        h[:D] = h[:D] + product(1) * g * g
        w[:] = w - rate * g / (np.sqrt(h[:D]) + eps)
    else:
        h[0] = h[0] + sum(product(1) * g * g) / D
        w[:] = w - product(rate / (np.sqrt(h[0]) + eps)) * g


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("dimension", [1, 3, 5, 12, 16, 17, 31, 64, 200])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bits_for_each_dimension_and_more_rows_than_are_asked_for_ahead(name, dimension, mean):
    # Segments of no, one or more lookups; rows at the very end of the records; more rows than 64.
    random, optimizer = np.random.default_rng(dimension), make_optimizer(name, eps=EPS)
    bags = [[random.integers(0, rows, random.integers(0, 4)) for _ in range(70)] for rows in (90, 150)]
    bags[1][-1] = np.array([149, 149, 148])
    batch = Batch.from_bags(np.zeros((70, 1)), bags, np.zeros(70), [90, 150])
    records = random_records(random, [90, 150], optimizer, dimension)
    dY = random.standard_normal((70, 2, dimension)).astype(np.float32)
    expected, g = [records.copy(), records.copy()], {}
    for bag in range(140):
        lookups = batch.rows[batch.offsets[bag] : batch.offsets[bag + 1]]
        each = dY[bag % 70, bag // 70] / np.float32(lookups.size if mean and lookups.size else 1)
        for row in lookups:
            g[row] = g[row] + each if row in g else each
    assert len(g) > 64
    for row, gradient in g.items():
        step_of_loops(name, expected[0][row], gradient, 0.1, np.longdouble)
        step_of_loops(name, expected[1][row], gradient, 0.1, np.float32)
    for threads in (1, 3):
        after = update_rows(optimizer, records, dY, batch, [90, 150], mean=mean, threads=threads)
        if name == "rowwise-adagrad":
            # Sums of squares are rounded at each addition.
            np.testing.assert_allclose(after, expected[0], rtol=1e-5, atol=1e-6)
        else:
            assert after.tobytes() in [each.tobytes() for each in expected]


def test_rowwise_adagrad_sums_squares_in_order():
    # 2**24 + 1 is 2**24 in float32: ones are lost after it, and not before.
    optimizer = make_optimizer("rowwise-adagrad", eps=EPS)
    for dimension in (5, 16, 64, 200):
        for at in (0, dimension - 1):
            dY = np.ones((9, 1, dimension), np.float32)
            dY[:, :, at] = 2**12
            batch = Batch.from_bags(np.zeros((9, 1)), [[[row] for row in range(9)]], np.zeros(9), [9])
            after = update_rows(optimizer, np.zeros((9, dimension + 1), np.float32), dY, batch, [9], mean=False)
            h = 2**24 if at == 0 else 2**24 + dimension - 1
            np.testing.assert_array_equal(after[:, dimension], np.float32(h) / np.float32(dimension))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_row_in_all_lookups(name, threads):
    random, optimizer = np.random.default_rng(7), make_optimizer(name, eps=EPS)
    batch = Batch.from_bags(np.zeros((50, 1)), [[[2] * (b % 7) for b in range(50)]], np.zeros(50), [5])
    records = random_records(random, [5], optimizer, 17)
    dY = random.standard_normal((50, 1, 17)).astype(np.float32)
    after = update_rows(optimizer, records, dY, batch, [5], mean=False, threads=threads)
    hot = sum((b % 7) * dY[b, 0].astype(np.float64) for b in range(50))
    expected = reference.update_rows(
        name, records, 17, optimizer.row_state_width(17), {2: hot}, learning_rate=0.1, eps=EPS
    )
    np.testing.assert_allclose(after, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(after[[0, 1, 3, 4]], records[[0, 1, 3, 4]])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_lookups_change_nothing(name):
    optimizer = make_optimizer(name, eps=EPS)
    batch = Batch.from_bags(np.zeros((3, 1)), [[[], [], []]], np.zeros(3), [5])
    records = random_records(np.random.default_rng(1), [5], optimizer, 17)
    dY = np.ones((3, 1, 17), dtype=np.float32)
    np.testing.assert_array_equal(update_rows(optimizer, records, dY, batch, [5], mean=False), records)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_records_and_gradient_must_have_one_dtype(name):
    batch = Batch.from_bags(np.zeros((1, 1)), [[[0]]], np.zeros(1), [1])
    records, dY = np.zeros((1, 36), dtype=np.float32), np.zeros((1, 1, 17))
    with pytest.raises(TypeError, match="records are float32, but their gradient is float64"):
        update_rows(make_optimizer(name, eps=EPS), records, dY, batch, [1], mean=False)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"records": np.zeros((5, 4), np.float32)}, ValueError, "hold 4 weights and 4 of adagrad's state .*are .5, 4."),
        ({"records": np.zeros(40, np.float32)}, ValueError, r"hold 4 weights .* but are \(40,\)"),
        ({"dY": np.zeros((2, 4), np.float32)}, ValueError, r"dY must be \(B, F, D\)"),
        ({"offsets": np.zeros(5, np.int64)}, ValueError, r"offsets \(F\*B \+ 1,\), but are \(2, 1, 4\), \(5,\)"),
        ({"offsets": np.zeros(3, np.int32)}, TypeError, "offsets must be int64, but are int32"),
        ({"slots": np.zeros(1, np.int32)}, ValueError, r"slots must be \(2 or more,\) int32, .* \(1,\) int32"),
        ({"slots": np.zeros(2, np.int64)}, ValueError, r"slots must be \(2 or more,\) int32, .* \(2,\) int64"),
    ],
)
def test_other_shapes_and_dtypes_are_refused(changed, error, message):
    batch, device = Batch.from_bags(np.zeros((2, 1)), [[[0], [3]]], np.zeros(2), [5]), CpuDevice(1)
    update = RowUpdate(
        records=np.zeros((5, 8), np.float32),
        dY=np.zeros((2, 1, 4), np.float32),
        offsets=batch.offsets,
        plan=Coalescer(device, [5]).plan(batch),
        mean=False,
        slots=np.array([0, 3], np.int32),
    )
    optimizer = make_optimizer("adagrad", eps=EPS)
    optimizer.update_rows(device, update, learning_rate=0.1)
    with pytest.raises(error, match=message):
        optimizer.update_rows(device, dataclasses.replace(update, **changed), learning_rate=0.1)
