"""Vectors in kernels: any number of items, what is rounded, nothing else touched, what is no vector."""

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.devices.numba_vector import load_vector, prefetch_vector, square_roots, store_vector, zero_vector

ITEMS = [1, 2, 3, 5, 8, 12, 16, 17, 31, 32, 64, 100, 200, 513]


def kernel_of(items):
    @cpu_kernel
    def combine(a, at, factor, target, to):
        """target[to] = factor / (root of a[at] + a[at]) - (a[at] + 0), and so on for so many items."""
        prefetch_vector(a, (at, 1), items)
        prefetch_vector(target, (to, 2), items)
        x = load_vector(a, (at, 1), items)
        store_vector(target, (to, 2), factor / (square_roots(x) + x) - (x + zero_vector(a, x)))

    return combine


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("items", ITEMS)
def test_equals_numpy_and_touches_no_other_item(items, dtype):
    a = np.random.default_rng(items).uniform(0.1, 9, (4, items + 1)).astype(dtype)
    target = np.full((3, items + 4), np.nan, dtype)
    expected = target.copy()
    kernel_of(items)(a, 3, dtype(1.7), target, 1)
    x = a[3, 1:]
    expected[1, 2:-2] = dtype(1.7) / (np.sqrt(x) + x) - x
    assert target.tobytes() == expected.tobytes()


def test_a_number_stands_on_either_side():
    @cpu_kernel
    def both_sides(a, number):
        x = load_vector(a, (0,), 3)
        store_vector(a, (0,), number - x)
        store_vector(a, (3,), x - number)
        store_vector(a, (6,), number * x)
        store_vector(a, (9,), x / number)

    a = np.arange(1.0, 13)
    both_sides(a, 4.0)
    np.testing.assert_array_equal(a, [3, 2, 1, -3, -2, -1, 4, 8, 12, 0.25, 0.5, 0.75])


def test_signs_of_zeros_and_what_is_no_number():
    a = np.float32([-0.0, np.inf, np.nan, 1e-45])

    @cpu_kernel
    def add_to_zeros(a):
        store_vector(a, (0,), zero_vector(a, 4) + load_vector(a, (0,), 4))

    add_to_zeros(a)
    assert not np.signbit(a[0])
    np.testing.assert_array_equal(a, np.float32([0, np.inf, np.nan, 1e-45]))


def test_what_lies_outside_may_be_asked_for():
    @cpu_kernel
    def ask(a):
        prefetch_vector(a, (2**40, 0), 40)

    ask(np.zeros((1, 40)))


@pytest.mark.parametrize(("items", "lines"), [(1, 1), (2, 2), (16, 2), (17, 2), (18, 3), (128, 9), (132, 10)])
def test_each_line_and_the_last_item_are_asked_for(items, lines):
    @numba.njit
    def ask(a):
        prefetch_vector(a, (0,), items)

    ask(np.zeros(200, np.float32))
    (code,) = ask.inspect_llvm().values()
    assert code.count("call void @llvm.prefetch") == lines


def test_other_arrays_and_numbers_are_no_kernel():
    @cpu_kernel
    def double(a, items):
        x = load_vector(a, (0,), items)
        store_vector(a, (0,), x + x)

    @cpu_kernel
    def multiply(a, number):
        store_vector(a, (0,), load_vector(a, (0,), 4) * number)

    with pytest.raises(TypingError, match="a number of items that the compiler knows"):
        double(np.zeros(8), 4)
    with pytest.raises(TypingError, match="parts of C-contiguous arrays"):
        multiply(np.zeros(8)[::2], 1.0)
    with pytest.raises(TypingError, match="No implementation of function"):
        multiply(np.zeros(8, np.float32), 1.0)
