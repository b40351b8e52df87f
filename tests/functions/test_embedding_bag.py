"""Embedding bags: values against loops, gradients, odd sizes, empty bags, threads, the cut into parts."""

import numpy as np
import pytest
import reference
from batch_strategies import random_batch
from gradcheck import assert_gradient

from cupyrec.batch import Batch
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.numba_kernel import prefetched_rows
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.functions.embedding_bag import balanced_bounds, embedding_bag_backward, embedding_bag_forward

TABLE_ROWS = (7, 1, 30)
THREADS = (1, 2, 3, 5, 7, 40)


def records_for(table_rows, width, dtype, seed=1):
    return np.random.default_rng(seed).standard_normal((sum(table_rows), width)).astype(dtype)


def forward(records, batch, features, dimension, *, mean, threads=1):
    Y = np.full((batch.samples, features, dimension), np.nan, dtype=records.dtype)
    device = CpuDevice(threads)
    with device.running():
        embedding_bag_forward(device, records, batch.rows, batch.offsets, Y, mean=mean)
    return Y


def backward(dY, batch, table_rows, *, mean, threads=1):
    """(unique rows, dW)."""
    device = CpuDevice(threads)
    with device.running():
        plan = Coalescer(device, table_rows).plan(batch)
        dW = np.full((plan.unique, dY.shape[2]), np.nan, dtype=dY.dtype)
        embedding_bag_backward(device, dY, batch.offsets, plan, dW, mean=mean)
        return plan.unique_rows.copy(), dW


@pytest.mark.parametrize(
    ("dimension", "mean"),
    [(1, False), (2, True), (3, False), (15, False), (16, True), (17, False), (64, False), (128, True), (200, False)],
)
def test_forward_equals_loops_and_is_the_same_for_any_number_of_threads(dimension, mean):
    batch = random_batch(np.random.default_rng(dimension), TABLE_ROWS, 5, most_lookups=50)
    records = records_for(TABLE_ROWS, dimension + 3, np.float32)
    alone = forward(records, batch, 3, dimension, mean=mean)
    expected = reference.embedding_bag_forward(records[:, :dimension], batch.rows, batch.offsets, 5, 3, mean=mean)
    np.testing.assert_allclose(alone, expected, rtol=1e-5, atol=2e-5)
    for threads in THREADS[1:]:
        np.testing.assert_array_equal(
            forward(records, batch, 3, dimension, mean=mean, threads=threads), alone, err_msg=f"{threads} threads"
        )


def summed_in_order(total, vectors):
    """Their sum, one added after the other to a total: the bits that a loop gives."""
    total = total.copy()
    for vector in vectors:
        total += vector
    return total


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(
    ("dimension", "dtype"),
    [*((dimension, np.float32) for dimension in (1, 3, 5, 12, 16, 17, 31, 64, 200)), (3, np.float64), (17, np.float64)],
)
def test_bits_of_bags_about_as_long_as_is_asked_for_ahead(dimension, dtype, mean):
    random, ahead = np.random.default_rng(dimension), prefetched_rows(dimension * np.dtype(dtype).itemsize)
    lengths = [0, ahead - 1, 0, 1, ahead, ahead + 1, 2, 2 * ahead + 3, 0]
    rows = 20 * ahead  # many are looked up once
    # Rows up to the very end of the records.
    bags = [[random.integers(0, rows, length) for length in reversed(lengths)], [[98] * length for length in lengths]]
    batch = Batch.from_bags(np.zeros((9, 1)), bags, np.zeros(9), [rows, 99])
    records, dY = records_for((rows, 99), dimension + 1, dtype), random.standard_normal((9, 2, dimension)).astype(dtype)
    # Zeros with a sign, which is kept or not: 0 + -0 is 0.
    records[random.random(records.shape) < 0.2], dY[random.random(dY.shape) < 0.2] = -0.0, -0.0
    zeros, starts = np.zeros(dimension, dtype), batch.offsets
    lookups = [batch.rows[starts[bag] : starts[bag + 1]] for bag in range(18)]
    lengths_of = [dtype(max(len(places), 1) if mean else 1) for places in lookups]

    Y = np.empty((9, 2, dimension), dtype)
    for bag, places in enumerate(lookups):
        Y[bag % 9, bag // 9] = summed_in_order(zeros, records[places, :dimension]) / lengths_of[bag]
    terms = {}
    for bag, places in enumerate(lookups):
        for row in places:
            terms.setdefault(row, []).append(dY[bag % 9, bag // 9] / lengths_of[bag])
    first = 0 if mean else 1
    dW = [summed_in_order(zeros if mean else terms[row][0], terms[row][first:]) for row in sorted(terms)]
    for threads in (1, 3):
        assert forward(records, batch, 2, dimension, mean=mean, threads=threads).tobytes() == Y.tobytes()
        unique_rows, sums = backward(dY, batch, (rows, 99), mean=mean, threads=threads)
        assert (unique_rows.tolist(), sums.tobytes()) == (sorted(terms), np.array(dW).tobytes())


def test_sums_are_taken_in_lookup_order():
    # In float32 1e8 + 1 is 1e8: the sum is 1 when the 1 comes last, and 0 the other way round.
    values = np.repeat(np.float32([[1e8], [-1e8], [1]]), 3, axis=1)
    one_bag = Batch.from_bags(np.zeros((1, 1)), [[[0, 1, 2]]], np.zeros(1), [3])
    np.testing.assert_array_equal(forward(values, one_bag, 1, 3, mean=False), 1)
    one_row = Batch.from_bags(np.zeros((3, 1)), [[[0], [0], [0]]], np.zeros(3), [1])
    _, dW = backward(values.reshape(3, 1, 3), one_row, [1], mean=False)
    np.testing.assert_array_equal(dW, 1)


@pytest.mark.parametrize(("dimension", "mean"), [(3, False), (2, True)])
def test_empty_bags_give_zeros(dimension, mean):
    batch = Batch.from_bags(np.zeros((3, 1)), [[[], [2, 2, 1], []], [[], [], []]], np.zeros(3), [3, 1])
    records = np.array([[1, 10, 100], [2, 20, 200], [4, 40, 400], [np.nan] * 3], dtype=np.float32)
    Y = forward(records, batch, 2, dimension, mean=mean)
    expected = np.zeros((3, 2, dimension), dtype=np.float32)
    expected[1, 0] = (np.float32([10, 100, 1000]) / np.float32(3 if mean else 1))[:dimension]
    np.testing.assert_array_equal(Y, expected)


def test_no_samples():
    batch = Batch.from_bags(np.zeros((0, 1)), [[], []], np.zeros(0), [3, 1])
    assert forward(records_for((3, 1), 3, np.float32), batch, 2, 3, mean=False).shape == (0, 2, 3)
    unique_rows, dW = backward(np.zeros((0, 2, 3), dtype=np.float32), batch, [3, 1], mean=False)
    assert (unique_rows.size, dW.shape) == (0, (0, 3))


@pytest.mark.parametrize(
    ("samples", "dimension", "table_rows", "mean"),
    [(1, 1, (1,), False), (3, 5, (1, 4), False), (7, 16, (5, 1, 2, 3, 9), True), (3, 3, (1, 1), True)],
)
def test_gradients(samples, dimension, table_rows, mean):
    random = np.random.default_rng(samples)
    batch = random_batch(random, table_rows, samples)
    weights = records_for(table_rows, dimension, np.float64)
    C = random.standard_normal((samples, len(table_rows), dimension))
    unique_rows, dW = backward(C, batch, table_rows, mean=mean)
    gradient = np.zeros_like(weights)
    gradient[unique_rows] = dW
    assert_gradient(
        lambda: float((C * forward(weights, batch, len(table_rows), dimension, mean=mean)).sum()), weights, gradient
    )


@pytest.mark.parametrize("mean", [False, True])
def test_backward_equals_loops_and_is_the_same_for_any_number_of_threads(mean):
    dimension = 3
    batch = random_batch(np.random.default_rng(4), TABLE_ROWS, 9, most_lookups=20)
    dY = np.random.default_rng(5).standard_normal((9, 3, dimension)).astype(np.float32)
    unique_rows, alone = backward(dY, batch, TABLE_ROWS, mean=mean)
    expected = reference.embedding_bag_backward(dY, batch.rows, batch.offsets, mean=mean)
    assert unique_rows.tolist() == sorted(expected)
    np.testing.assert_allclose(alone, [expected[row] for row in unique_rows], rtol=1e-5, atol=2e-5)
    for threads in THREADS[1:]:
        np.testing.assert_array_equal(backward(dY, batch, TABLE_ROWS, mean=mean, threads=threads)[1], alone)


@pytest.mark.parametrize("threads", THREADS)
def test_parts_cover_every_unique_row_once_and_weigh_hot_rows(threads):
    # Row 0 of the only table is in all lookups but 50.
    bags = [[[0] * 20, list(range(1, 51)), [0] * 400]]
    batch = Batch.from_bags(np.zeros((3, 1)), bags, np.zeros(3), [60])
    device = CpuDevice(threads)
    plan = Coalescer(device, [60]).plan(batch)
    bounds = balanced_bounds(device, plan)
    assert bounds[0] == 0
    assert bounds[-1] == plan.unique == 51
    assert (np.diff(bounds) >= 0).all()
    if 1 < threads <= 5:
        # The hot row outweighs all others together: they fall to one other part or more.
        assert bounds[1] == 1 or bounds[1] == 0
        costs = plan.segment_offsets[bounds]
        assert np.sort(np.diff(costs))[-1] == 420


FORWARD = {"records": (38, 6), "places": (12,), "offsets": (13,), "Y": (4, 3, 5)}
BACKWARD = {"dY": (4, 3, 5), "offsets": (13,), "dW": (12, 5)}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"offsets": np.zeros(13, np.int32)}, TypeError, "offsets must be int64, but are int32"),
        (
            {"offsets": np.zeros(5, np.int64)},
            ValueError,
            r"Y must be \(B, F, D\), offsets \(F\*B \+ 1,\), but are .*\(5,\)",
        ),
        ({"Y": np.zeros((4, 3), np.float32)}, ValueError, r"Y must be \(B, F, D\)"),
        ({"Y": np.zeros((4, 3, 7), np.float32)}, ValueError, r"records must be \(places, 7 or more\)"),
        ({"Y": np.zeros((4, 3, 5))}, TypeError, "one dtype is needed.* records float32, Y float64"),
        ({"records": np.zeros(38, np.float32)}, ValueError, "records must be"),
        ({"records": np.zeros((38, 6))}, TypeError, "one dtype is needed.* records float64, Y float32"),
        ({"records": np.zeros((38, 6), np.int64), "Y": np.zeros((4, 3, 5), np.int64)}, TypeError, "float32 or float64"),
        ({"places": np.zeros((12, 1), np.int64)}, ValueError, r"places \(N,\), but are \(38, 6\), \(12, 1\)"),
        ({"places": np.zeros(12)}, TypeError, r"places must be int64 \(rows\) or int32 \(slots\), but are float64"),
    ],
)
def test_forward_refuses_other_shapes_and_dtypes(changed, error, message):
    good = {name: np.zeros(shape, np.int64 if len(shape) == 1 else np.float32) for name, shape in FORWARD.items()}
    embedding_bag_forward(CpuDevice(1), **good, mean=False)
    with pytest.raises(error, match=message):
        embedding_bag_forward(CpuDevice(1), **(good | changed), mean=False)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"offsets": np.zeros(13, np.int32)}, TypeError, "offsets must be int64, but are int32"),
        ({"offsets": np.zeros(12, np.int64)}, ValueError, r"dY must be \(B, F, D\), offsets"),
        ({"dW": np.zeros((12, 4), np.float32)}, ValueError, r"dW must be \(U, 5\), but is \(12, 4\)"),
        ({"dW": np.zeros((11, 5), np.float32)}, ValueError, "dW must have 12 rows, those of the plan, but is"),
        ({"dW": np.zeros((12, 5))}, TypeError, "one dtype is needed.* dY float32, dW float64"),
    ],
)
def test_backward_refuses_other_shapes_and_dtypes(changed, error, message):
    bags = [[[sample + 4 * feature] for sample in range(4)] for feature in range(3)]
    plan = Coalescer(CpuDevice(1), (12, 12, 12)).plan(
        Batch.from_bags(np.zeros((4, 1)), bags, np.zeros(4), (12, 12, 12))
    )
    good = {name: np.zeros(shape, np.int64 if len(shape) == 1 else np.float32) for name, shape in BACKWARD.items()}
    embedding_bag_backward(CpuDevice(1), **good, plan=plan, mean=False)
    with pytest.raises(error, match=message):
        embedding_bag_backward(CpuDevice(1), **(good | changed), plan=plan, mean=False)
