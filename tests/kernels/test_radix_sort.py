"""The GPU's sort against NumPy's stable one: borders of tiles, bits of all kinds, few and many distinct keys."""

import numpy as np
import pytest
from cuda_on_cpu import ORDERS
from gpu_devices import emulated_device

from cupyrec.embedding.radix_sort import SORT_ITEMS, RadixSort

UNTOUCHED = 0x11


def sort(device, keys, values, *, bits, count=None, sorter=None):
    """(sorted keys, sorted values) of host arrays, each as long as keys."""
    given = device.upload(keys), None if values is None else device.upload(values)
    sorted_keys, sorted_values = device.empty(keys.shape, np.int64), device.empty(keys.shape, np.int32)
    for array in (sorted_keys, sorted_values):
        device.fill(array, UNTOUCHED)
    sorter = sorter or RadixSort(device, keys.shape[0])
    on_device = None if count is None else device.upload(np.array([count], np.int32))
    sorter.sort(*given, sorted_keys, sorted_values, bits=bits, count=on_device)
    result = device.download(sorted_keys), device.download(sorted_values)
    np.testing.assert_array_equal(device.download(given[0]), keys)
    if values is not None:
        np.testing.assert_array_equal(device.download(given[1]), values)
    return result


def expected_sort(keys, values, bits):
    values = np.arange(keys.shape[0], dtype=np.int32) if values is None else values
    order = np.argsort(keys.view(np.uint64) & np.uint64((1 << bits) - 1), kind="stable")
    return keys[order], values[order]


def check(device, keys, values=None, *, bits, **options):
    for got, expected in zip(
        sort(device, keys, values, bits=bits, **options), expected_sort(keys, values, bits), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def random_keys(random, n, distinct=2**63 - 1):
    """n keys of any bits, negative ones too; distinct: of so few values at most."""
    any_keys = random.integers(-(2**63), 2**63 - 1, min(n, distinct) + 1)
    return any_keys[random.integers(0, any_keys.shape[0], n)]


@pytest.mark.parametrize(
    "n", [1, 31, 32, 33, 255, 256, 257, SORT_ITEMS - 1, SORT_ITEMS, SORT_ITEMS + 1, 3 * SORT_ITEMS + 77]
)
def test_sizes_at_the_borders_of_warps_and_tiles(gpu_device, n):
    random = np.random.default_rng(n)
    values = random.integers(-(2**31), 2**31 - 1, n).astype(np.int32)
    check(gpu_device, random_keys(random, n, distinct=n // 2 + 1), values, bits=11)


@pytest.mark.parametrize("bits", [*range(1, 10), 15, 16, 17, 24, 25, 27, 31, 32, 33, 41, 57, 63, 64])
def test_bits(bits):
    """The bits above are left out of the order, and kept."""
    check(emulated_device(), random_keys(np.random.default_rng(bits), 333), bits=bits)


@pytest.mark.parametrize("distinct", [1, 2, 3, 40])
def test_few_distinct_keys_keep_their_order(distinct):
    random = np.random.default_rng(distinct)
    check(emulated_device(), random_keys(random, SORT_ITEMS + 500, distinct), bits=64 if distinct == 3 else 14)


def test_all_keys_equal():
    check(emulated_device(), np.full(2 * SORT_ITEMS + 1, 2**27 - 1), bits=27)


def test_sorted_and_reversed_keys():
    keys = np.arange(SORT_ITEMS + 100, dtype=np.int64) * 3
    for given in (keys, keys[::-1].copy()):
        check(emulated_device(), given, bits=13)


def test_no_bits_are_a_copy():
    check(emulated_device(), random_keys(np.random.default_rng(0), 300), bits=0)


@pytest.mark.parametrize("values", [None, np.empty(0, np.int32)])
def test_nothing_to_sort(values):
    check(emulated_device(), np.empty(0, np.int64), values, bits=20)


@pytest.mark.parametrize("count", [0, 1, 300, SORT_ITEMS, SORT_ITEMS + 1, 2 * SORT_ITEMS + 9, 2 * SORT_ITEMS + 10])
def test_only_as_many_as_the_device_counts(count):
    n, bits = 2 * SORT_ITEMS + 9, 12
    keys = random_keys(np.random.default_rng(count), n)
    got = sort(emulated_device(), keys, None, bits=bits, count=count)
    for sorted_array, expected in zip(got, expected_sort(keys[:count], None, bits), strict=True):
        np.testing.assert_array_equal(sorted_array[:count], expected)
        assert np.all(sorted_array[count:].view(np.uint8) == UNTOUCHED)


@pytest.mark.parametrize("thread_order", [*ORDERS[1:], "shuffled-3"])
def test_no_order_of_threads_changes_the_result(thread_order):
    device = emulated_device(thread_order=thread_order)
    check(device, random_keys(np.random.default_rng(5), SORT_ITEMS + 300, distinct=50), bits=9)


def test_a_sorter_is_used_again_without_allocating():
    device, random = emulated_device(), np.random.default_rng(6)
    sorter = RadixSort(device, 600)
    for n, bits in ((600, 17), (1, 3), (0, 8), (257, 8), (600, 40)):
        check(device, random_keys(random, n), bits=bits, sorter=sorter)
    keys, values, other = device.empty(600, np.int64), device.empty(600, np.int32), device.empty(600, np.int64)
    free = device.runtime.memory_bytes()
    sorter.sort(keys, None, other, values, bits=20)
    assert device.runtime.memory_bytes() == free
    device.synchronize()


def test_what_cannot_be_sorted():
    device = emulated_device()
    sorter = RadixSort(device, 10)
    keys, values = device.empty(10, np.int64), device.empty(10, np.int32)
    with pytest.raises(ValueError, match=r"values must be \(10,\) as keys are, but is \(9,\)"):
        sorter.sort(keys, values[:9], keys, values, bits=3)
    with pytest.raises(ValueError, match=r"sorted_keys must be \(10,\)"):
        sorter.sort(keys, None, keys[:3], values, bits=3)
    with pytest.raises(ValueError, match="10 items by 65 bits"):
        sorter.sort(keys, None, keys, values, bits=65)
    with pytest.raises(ValueError, match="11 items by 3 bits, but at most 10"):
        sorter.sort(device.empty(11, np.int64), None, device.empty(11, np.int64), device.empty(11, np.int32), bits=3)
