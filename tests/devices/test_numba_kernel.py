"""What CPU kernels are made of: copies of items, counting by several threads."""

import numpy as np
import pytest
from numba.core.errors import TypingError

from cupyrec.devices.numba_kernel import copy_items, cpu_kernel, prefetched_rows


@cpu_kernel
def copy_run(target, to, source, at, count):
    copy_items(target, (to,), source, (at,), count)


@cpu_kernel
def copy_77(target, to, source, at):
    copy_items(target, (to,), source, (at,), 77)


@cpu_kernel
def copy_row(target, to, source, at):
    copy_items(target, (to, 1), source, (at, 2), 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.int64, np.float64])
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 77, 1000])
def test_copies_so_many_items_and_no_others(dtype, count):
    source = np.random.default_rng(count).integers(1, 200, 1100).astype(dtype)
    for to, at in ((0, 0), (3, 0), (0, 5), (7, 11)):
        target, expected = np.zeros(1100, dtype), np.zeros(1100, dtype)
        copy_run(target, to, source, at, count)
        expected[to : to + count] = source[at : at + count]
        np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.int64, np.float64])
def test_a_number_that_the_compiler_knows(dtype):
    source, target, expected = np.arange(1, 100).astype(dtype), np.zeros(100, dtype), np.zeros(100, dtype)
    copy_77(target, 5, source, 3)
    expected[5:82] = source[3:80]
    np.testing.assert_array_equal(target, expected)


def test_parts_of_rows():
    source, target, expected = np.arange(1.0, 51).reshape(10, 5), np.zeros((4, 7)), np.zeros((4, 7))
    copy_row(target, 3, source, 8)
    expected[3, 1:4] = source[8, 2:5]
    np.testing.assert_array_equal(target, expected)


def test_other_arrays_are_no_kernel():
    contiguous = np.zeros(20, np.float32)
    for target, source in (
        (contiguous, np.zeros(20)),
        (contiguous, np.zeros(40, np.float32)[::2]),
        (np.zeros(40, np.float32)[::2], contiguous),
    ):
        with pytest.raises(TypingError, match="between C-contiguous arrays of one dtype"):
            copy_run(target, 0, source, 0, 1)


def test_narrow_records_are_asked_for_further_ahead():
    assert [prefetched_rows(4 * width) for width in (1, 4, 32, 64, 128, 132, 1024)] == [64, 64, 64, 32, 16, 16, 16]
