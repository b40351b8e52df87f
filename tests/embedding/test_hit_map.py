"""The hash table against a dict: finding, putting, erasing, growing; keys that meet in one place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.embedding.hit_map import EMPTY, erase, find, home, new_cells, shift_of, with_room

# Few places for many keys, so that runs of neighbours form, wrap around the end and are cut by erasing.
KEYS = st.one_of(st.integers(0, 40), st.integers(2**31 - 3, 2**31 + 3), st.integers(0, 2**62))


def put(cells, key, value):
    at = find(cells, shift_of(cells), key)
    cells[2 * at], cells[2 * at + 1] = key, value


def contents(cells):
    """{key: value}, each found from its own home."""
    keys = cells[::2][cells[::2] != EMPTY].tolist()
    assert len(set(keys)) == len(keys)
    found = {key: find(cells, shift_of(cells), key) for key in keys}
    assert all(cells[2 * at] == key for key, at in found.items())
    return {key: int(cells[2 * at + 1]) for key, at in found.items()}


@given(steps=st.lists(st.tuples(st.booleans(), KEYS), max_size=120))
def test_equals_a_dict(steps):
    cells, expected = new_cells(16), {}
    for number, (putting, key) in enumerate(steps):
        if putting and (key in expected or len(expected) < 16):
            put(cells, key, number)
            expected[key] = number
        elif expected and not putting:
            # One that is there: the nearest.
            key = min(expected, key=lambda each, wanted=key: abs(each - wanted))
            erase(cells, shift_of(cells), key)
            del expected[key]
        assert contents(cells) == expected
    for key in (0, 41, 2**61):
        if key not in expected:
            assert cells[2 * find(cells, shift_of(cells), key)] == EMPTY


def test_a_run_that_goes_around_the_end():
    cells = new_cells(8)
    capacity, shift = cells.shape[0] // 2, shift_of(cells)
    last = [key for key in range(2000) if home(key, shift) == capacity - 1][:5]
    for number, key in enumerate(last):
        put(cells, key, number)
    assert find(cells, shift, last[4]) == 3
    for gone in (1, 0, 3):
        erase(cells, shift, last[gone])
    assert contents(cells) == {last[2]: 2, last[4]: 4}


@given(keys=st.sets(KEYS, max_size=60), larger=st.integers(60, 500))
def test_growing_keeps_all(keys, larger):
    cells = new_cells(60)
    for number, key in enumerate(sorted(keys)):
        put(cells, key, number)
    before = contents(cells)
    grown = with_room(cells, larger)
    assert contents(grown) == before == contents(cells) == {key: number for number, key in enumerate(sorted(keys))}


def test_sizes():
    for entries in (0, 1, 4, 5, 64, 65, 1000):
        cells = new_cells(entries)
        capacity = cells.shape[0] // 2
        assert capacity >= max(2 * entries, 8)
        assert capacity & (capacity - 1) == 0
        assert (cells == EMPTY).all()
        assert capacity == 1 << (64 - shift_of(cells))
        assert 0 <= home(2**62 + 12345, shift_of(cells)) < capacity


def test_neighbouring_rows_are_spread():
    cells = new_cells(1000)
    shift, rows = shift_of(cells), np.arange(1000) + 123_456_789_012
    places = {home(int(row), shift) for row in rows}
    assert len(places) > 900


@pytest.mark.parametrize("entries", [0, 1, 4, 5, 64, 65, 100])
def test_a_table_has_room_until_it_is_half_full(entries):
    cells = new_cells(entries)
    most = cells.shape[0] // 4
    assert most >= entries
    assert with_room(cells, most) is cells
    assert with_room(cells, most + 1).shape == (2 * cells.shape[0],)
