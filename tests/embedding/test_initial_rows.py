"""Initial rows: plain-integer reference, independence of threads and order, statistics."""

import numpy as np
import pytest
import reference

from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.initial_rows import _fill, fill_initial_rows


def initial_rows(rows, dimension, *, seed=1, table=0, bound=1.0, threads=1, dtype=np.float32):
    device, records = CpuDevice(threads), np.full((rows, dimension + 2), 9, dtype=dtype)
    with device.running():
        fill_initial_rows(device, records, dimension, seed=seed, table=table, bound=bound)
    np.testing.assert_array_equal(records[:, dimension:], 9)
    return records[:, :dimension]


@pytest.mark.parametrize(("seed", "table"), [(0, 0), (1, 0), (1, 25), (2**64 - 1, 3), (-1, 3), (2**70 + 5, 2)])
def test_equals_plain_integers(seed, table):
    bound = 1 / np.sqrt(7)
    expected = [[reference.initial_value(seed, table, r, d, 3, bound) for d in range(3)] for r in range(4)]
    settings = {"seed": seed, "table": table, "bound": bound}
    # A processor without a fused multiply-add rounds once more.
    np.testing.assert_allclose(initial_rows(4, 3, dtype=np.float64, **settings), expected, rtol=0, atol=1e-16)
    np.testing.assert_allclose(initial_rows(4, 3, **settings), np.float32(expected), rtol=1.2e-7, atol=0)


def test_splitmix_known_answer():
    # The first outputs of splitmix64 from seed 0, as its authors' implementation gives them.
    gamma = 0x9E3779B97F4A7C15
    outputs = [reference.mix64(gamma * step % 2**64) for step in (1, 2, 3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("threads", [2, 3, 7, 200])
def test_same_bits_for_any_number_of_threads(threads):
    np.testing.assert_array_equal(initial_rows(101, 5, threads=threads), initial_rows(101, 5))


@pytest.mark.parametrize("row", [2**31, 2**33, 2**55])
def test_rows_of_large_numbers(row):
    """A table of so many rows, all of which lie in the same place."""
    drawn = np.zeros((1, 3))
    key = np.uint64(reference.mix64((reference.mix64(5) + 2) % 2**64))
    records = np.lib.stride_tricks.as_strided(drawn, (row + 1, 3), (0, drawn.itemsize))
    _fill(row, row + 1, records, 3, key, 1.0)
    expected = [reference.initial_value(5, 2, row, d, 3, 1.0) for d in range(3)]
    np.testing.assert_allclose(drawn[0], expected, rtol=0, atol=1e-16)


def test_tables_and_seeds_differ():
    drawn = [initial_rows(50, 4, seed=seed, table=table) for seed in (0, 1, 2) for table in (0, 1, 2)]
    values = np.concatenate([each.ravel() for each in drawn])
    # 1,800 draws out of 2**24 meet about 0.1 times by chance.
    assert len(np.unique(values)) >= values.size - 3


@pytest.mark.parametrize("bound", [1.0, 0.02])
def test_statistics_of_a_uniform_distribution(bound):
    values = initial_rows(20_000, 8, bound=bound).astype(np.float64)
    assert np.abs(values).max() <= bound
    assert np.abs(values).max() > 0.9999 * bound
    # Five standard errors of the mean and of the variance of 160,000 draws.
    deviation = bound / np.sqrt(3)
    assert abs(values.mean()) < 5 * deviation / 400
    assert values.var() == pytest.approx(deviation**2, rel=5 * np.sqrt(0.8) / 400)
    counts = np.histogram(values, bins=16, range=(-bound, bound))[0]
    assert np.abs(counts - 10_000).max() < 5 * 100
    assert len(np.unique(values, axis=0)) == 20_000, "no row twice"
    # Neighbours in a row and rows next to each other are not related: five standard errors again.
    for one, other in ((values[:, :-1], values[:, 1:]), (values[:-1], values[1:])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / 370


def test_no_rows():
    assert initial_rows(0, 5).shape == (0, 5)
