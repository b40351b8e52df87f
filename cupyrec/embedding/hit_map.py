"""The hash table from rows to small numbers, for kernels: open addressing with linear probing, int64 keys.

cells: (2 * capacity,) int64, capacity a power of two: key and value of each place beside each other, so that a probe
costs one access to memory; the key EMPTY marks a free place. It is kept at most half full, by `with_room`. Erasing
moves later entries back, so no marks pile up.

Source: multiplicative hashing and the removal without marks, Knuth, The Art of Computer Programming 3, section 6.4.
"""

from __future__ import annotations

import numpy as np

from cupyrec.devices.numba_kernel import cpu_kernel

EMPTY = -1
# 2**64 over the golden ratio: neighbouring keys come to lie far apart.
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def new_cells(entries: int) -> np.ndarray:
    """An empty table for so many entries."""
    return np.full(2 * _capacity(entries), EMPTY, dtype=np.int64)


def with_room(cells: np.ndarray, entries: int) -> np.ndarray:
    """A table for so many entries: the same, or a larger one with the same entries. Sizes double."""
    if cells.shape[0] >= 2 * _capacity(entries):
        return cells
    larger = new_cells(entries)
    rehash(cells, larger)
    return larger


def _capacity(entries: int) -> int:
    return max(8, 1 << (2 * entries - 1).bit_length()) if entries else 8


@cpu_kernel
def shift_of(cells):
    """What `home` needs to know of the size of a table: 64 - log2(capacity)."""
    shift = 64
    while (cells.shape[0] >> 1) >> (64 - shift) > 1:
        shift -= 1
    return shift


@cpu_kernel
def home(key, shift):
    """The place where the search for a key begins."""
    return np.int64((np.uint64(key) * MULTIPLIER) >> np.uint64(shift))


@cpu_kernel
def find(cells, shift, key):
    """The place of a key, or the free place where it would be put."""
    mask = (cells.shape[0] >> 1) - 1
    at = home(key, shift)
    while cells[2 * at] != key and cells[2 * at] != EMPTY:
        at = (at + 1) & mask
    return at


@cpu_kernel
def erase(cells, shift, key):
    """Take out a key that is there."""
    mask = (cells.shape[0] >> 1) - 1
    hole = find(cells, shift, key)
    at = hole
    while True:
        at = (at + 1) & mask
        moved = cells[2 * at]
        if moved == EMPTY:
            break
        # An entry may fill the hole unless its search begins after it.
        if ((at - home(moved, shift)) & mask) >= ((at - hole) & mask):
            cells[2 * hole] = moved
            cells[2 * hole + 1] = cells[2 * at + 1]
            hole = at
    cells[2 * hole] = EMPTY


@cpu_kernel
def rehash(cells, larger):
    """Put every entry of a table into an empty one."""
    shift = shift_of(larger)
    for at in range(cells.shape[0] >> 1):
        key = cells[2 * at]
        if key != EMPTY:
            to = find(larger, shift, key)
            larger[2 * to] = key
            larger[2 * to + 1] = cells[2 * at + 1]
