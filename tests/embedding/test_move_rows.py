"""Gathering, scattering and copying of records: odd widths and counts, both place types, nothing else touched."""

import numpy as np
import pytest

from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.move_rows import copy_between, gather_records, scatter_records

LAUNCHERS = [CpuDevice(1).stream(), CpuDevice(1), CpuDevice(3)]
SHAPES = [(1, 4, 0), (1, 4, 1), (50, 4, 17), (50, 20, 50), (300, 36, 100), (40, 1, 33)]


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=["stream", "one thread", "three threads"])
@pytest.mark.parametrize("places_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "width", "count"), SHAPES)
def test_equals_indexing(launcher, places_dtype, dtype, rows, width, count):
    numbers = np.random.default_rng(rows + count)
    records = numbers.standard_normal((rows, width)).astype(dtype)
    places = numbers.permutation(rows)[:count].astype(places_dtype)
    before, gathered = records.copy(), np.full((count, width), np.nan, dtype)
    gather_records(launcher, records, places, gathered)
    np.testing.assert_array_equal(gathered, before[places])
    np.testing.assert_array_equal(records, before)

    scatter_records(launcher, -gathered, places, records)
    expected = before.copy()
    expected[places] = -before[places]
    np.testing.assert_array_equal(records, expected)

    target = np.full((rows + 3, width), np.nan, dtype)
    to = numbers.permutation(rows + 3)[:count]
    copy_between(launcher, records, places, target, to)
    expected_target = np.full_like(target, np.nan)
    expected_target[to] = records[places]
    np.testing.assert_array_equal(target, expected_target)
