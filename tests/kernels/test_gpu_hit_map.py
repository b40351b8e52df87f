"""The hash table of hit_map.cuh against a dict: bulk operations on a GPU, and in several orders of threads."""

import numpy as np
import pytest
from cuda_on_cpu import ORDERS
from gpu_devices import GPU_DEVICES, emulated_device, gpu_device_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cupyrec.kernels import kernel

EMPTY_KEY, ERASED_KEY = -1, -2
MULTIPLIER = 0x9E3779B97F4A7C15


class GpuHitMap:
    """A table of 2 ** bits places; its kernels run with so many threads in all."""

    def __init__(self, bits, device, *, grid=1, block=32):
        self.shift, self.device, self.grid, self.block = np.int32(64 - bits), device, grid, block
        self._cells = device.upload(np.full(2 << bits, EMPTY_KEY, np.int64))
        self._places = device.upload(np.zeros(1, np.int32))

    @property
    def cells(self):
        return self.device.download(self._cells)

    @property
    def places(self):
        """How many are in use."""
        return int(self.device.download(self._places)[0])

    def run(self, name, keys, *more):
        keys = np.array(keys, np.int64)
        on_device = self.device.upload(keys)
        arguments = on_device, np.int32(keys.shape[0]), self._cells, self.shift, *more
        self.device.launch(kernel("hit_map", name), self.grid, self.block, *arguments)
        np.testing.assert_array_equal(self.device.download(on_device), keys)

    def find(self, keys):
        values = self.device.upload(np.full(len(keys), -7, np.int64))
        before = self.cells
        self.run("find_keys", keys, values)
        np.testing.assert_array_equal(self.cells, before)
        return self.device.download(values).tolist()

    def insert(self, keys):
        self.run("insert_keys", keys, self._places)

    def erase(self, keys):
        self.run("erase_keys", keys, self._places)

    def check(self, expected, others=()):
        """That it holds what a dict does and nothing else, and counts the places in use."""
        there = self.cells[::2]
        assert sorted(there[there >= 0].tolist()) == sorted(expected)
        assert set(there[there < 0].tolist()) <= {EMPTY_KEY, ERASED_KEY}
        assert self.places == (there != EMPTY_KEY).sum()
        assert self.find(list(expected)) == list(expected.values())
        assert self.find(list(others)) == [-1] * len(others)


def home(key, bits):
    return (key * MULTIPLIER % 2**64) >> (64 - bits)


def colliding_keys(bits, place, count, first=0):
    """Keys that all begin their search at one place."""
    found, key = [], first
    while len(found) < count:
        if home(key, bits) == place:
            found.append(key)
        key += 1
    return found


@pytest.fixture(params=[*ORDERS, *GPU_DEVICES[1:]])
def device(request):
    """An emulated GPU in each order of threads, and a real one where there is one."""
    return emulated_device(thread_order=request.param) if request.param in ORDERS else gpu_device_of(request.param)


def test_keys_that_collide_are_told_apart(device):
    """At the end of the table, so that searches go on at its beginning."""
    keys = colliding_keys(6, 62, 40)
    table = GpuHitMap(6, device)
    table.insert(keys[:30])
    expected = dict(zip(keys[:30], range(30), strict=True))
    table.check(expected, keys[30:])
    table.erase(keys[5:25])
    for key in keys[5:25]:
        del expected[key]
    table.check(expected, keys[5:25])
    # What was erased is used again: no more places are in use than before.
    places = table.places
    table.insert(keys[30:])
    expected.update(zip(keys[30:], range(10), strict=True))
    table.check(expected, keys[5:25])
    assert table.places == max(places, len(expected))


@settings(max_examples=60)
@given(
    rounds=st.lists(
        st.tuples(st.lists(st.integers(0, 70), max_size=25, unique=True), st.integers(0, 25)), min_size=1, max_size=10
    ),
    first=st.sampled_from([0, 2**31 - 5, 2**45, 2**63 - 100]),
    bits=st.integers(6, 8),
    grid=st.integers(1, 3),
    order=st.sampled_from(ORDERS),
)
def test_equals_a_dict(rounds, first, bits, grid, order):
    check_rounds(GpuHitMap(bits, emulated_device(thread_order=order), grid=grid), bits, rounds, first)


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_dict_with_many_threads(gpu_device, seed):
    random = np.random.default_rng(seed)
    rounds = [(random.permutation(3000)[:400].tolist(), int(random.integers(0, 400))) for _ in range(6)]
    check_rounds(GpuHitMap(11, gpu_device, grid=4, block=128), 11, rounds, first=2**40, keys_of_all=3000)


def check_rounds(table, bits, rounds, first, keys_of_all=71):
    """rounds: the keys that are inserted, less `first`, and how many are erased then."""
    expected, random = {}, np.random.default_rng(0)
    everything = [first + key for key in range(keys_of_all)]
    for keys, erased in rounds:
        new = [first + key for key in keys if first + key not in expected]
        # Not more than what leaves places free.
        new = new[: (1 << bits) * 3 // 4 - table.places]
        table.insert(new)
        expected.update(zip(new, range(len(new)), strict=True))
        table.check(expected, [key for key in everything if key not in expected])
        leaving = random.permutation(list(expected))[:erased].tolist()
        table.erase(leaving)
        for key in leaving:
            del expected[key]
        table.check(expected, [key for key in everything if key not in expected])


def test_keys_below_0_are_left_out_and_values_are_places(device):
    table = GpuHitMap(8, device, grid=2, block=64)
    keys = np.where(np.arange(150) % 3 == 0, -1, np.arange(150) * 2**33)
    table.insert(keys)
    table.check({int(key): at for at, key in enumerate(keys) if key >= 0}, [1, 2])


def test_erasing_all_ends_every_search_at_once(device):
    """A search stops at an empty place: where all keys of a run are erased, the last of it is empty in any order."""
    table = GpuHitMap(6, device)
    keys = colliding_keys(6, 3, 20)
    table.insert(keys)
    table.erase(keys)
    table.check({}, keys)
    assert table.places < 20


def test_places_of_erased_keys_are_used_again(gpu_device):
    """Were they not, three quarters of the table would be in use after as many keys."""
    random, table, inside, inserted = np.random.default_rng(1), GpuHitMap(9, gpu_device, grid=2), [], 0
    while table.places <= 512 * 3 // 4:
        new = random.integers(0, 2**62, 32).tolist()
        table.insert(new)
        inside, inserted = inside + new, inserted + 32
        if len(inside) > 160:
            leaving = [inside.pop(int(random.integers(0, len(inside)))) for _ in range(32)]
            table.erase(leaving)
    assert inserted > 2 * 512 * 3 // 4
