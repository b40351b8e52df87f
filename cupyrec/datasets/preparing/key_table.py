"""Numba kernels of a hash table from 64-bit keys to ids: open addressing, every 64-bit key allowed.

Two arrays, so that a lookup touches one cache line of each:

    slots:   (power of two,) uint64. 0 is an empty slot; otherwise the lower half is an id, the upper half a tag, 32
             bits of the mixed key. A key is looked for from the slot that the upper bits of its mix name, onwards.
    records: (room, 2) uint64, indexed by id: the key and how often it has been counted. Record 0 has no key.

Large tables lie in memory, not in caches: of a block of keys first all slots are asked for, then the record of the
first slot that has the tag of each key, and only then are keys compared.
"""

from __future__ import annotations

import numpy as np

from cupyrec.devices.kernel_cache import cached_njit
from cupyrec.devices.numba_kernel import prefetch

# Keys whose slots and records are asked for together.
BLOCK_KEYS = 128

MIX_1, MIX_2 = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)
HALF = np.uint64(32)
LOWER_HALF = np.uint64(0xFFFFFFFF)
ZERO, ONE = np.uint64(0), np.uint64(1)


@cached_njit()
def mix(key):
    """Spread a key over 64 bits, one to one: keys that differ little differ in the upper and in the lower half."""
    key = key * MIX_1
    key ^= key >> HALF
    key = key * MIX_2
    return key ^ (key >> HALF)


@cached_njit()
def _find(slots, records, key, mixed, shift):
    """The id of a key, or 0; and the slot where it is, or would be put."""
    last = np.uint64(slots.shape[0] - 1)
    tag = mixed << HALF
    slot = mixed >> shift
    while True:
        entry = slots[slot]
        if entry == ZERO:
            return ZERO, slot
        found = entry & LOWER_HALF
        if entry ^ tag == found and records[found, 0] == key:
            return found, slot
        slot = (slot + ONE) & last


@cached_njit()
def _guess(slots, records, keys, start, stop, mixes, guesses, shift):
    """Mix keys[start:stop], find the first id with the tag of each, 0 where there is none, and ask for its record."""
    last = np.uint64(slots.shape[0] - 1)
    for position in range(start, stop):
        mixed = mix(keys[position])
        mixes[position - start] = mixed
        prefetch(slots, (np.intp(mixed >> shift),))
    for index in range(stop - start):
        mixed = mixes[index]
        slot = mixed >> shift
        entry = slots[slot]
        tag = mixed & LOWER_HALF
        while entry != ZERO and entry >> HALF != tag:
            slot = (slot + ONE) & last
            entry = slots[slot]
        guesses[index] = entry & LOWER_HALF
        prefetch(records, (np.intp(entry & LOWER_HALF), np.intp(0)))


@cached_njit()
def encode_keys(slots, records, shift, size, room, keys, start, weight, ids, new_positions):
    """Look keys[start:] up, adding those that are new, until there is no room for one.

    shift:         64 - log2(slots).
    size, room:    ids in use, 0 included, and how many there may be.
    weight:        what is added to the count of a key for each time it is met.
    ids:           (n,) uint32. Modified from start on.
    new_positions: (n,) int64. Modified: from 0 on, the positions of keys that were new.

    Returns the position where it stopped, len(keys) at the end, and the new size.
    """
    mixes, guesses = np.empty(BLOCK_KEYS, dtype=np.uint64), np.empty(BLOCK_KEYS, dtype=np.uint64)
    first_new = size
    while start < keys.shape[0]:
        stop = min(start + BLOCK_KEYS, keys.shape[0])
        _guess(slots, records, keys, start, stop, mixes, guesses, shift)
        for position in range(start, stop):
            key, found = keys[position], guesses[position - start]
            if found == ZERO or records[found, 0] != key:
                found, slot = _find(slots, records, key, mixes[position - start], shift)
                if found == ZERO:
                    if size >= room:
                        return position, size
                    found = np.uint64(size)
                    slots[slot] = (mixes[position - start] << HALF) | found
                    records[found, 0] = key
                    records[found, 1] = ZERO
                    new_positions[size - first_new] = position
                    size += 1
            records[found, 1] += weight
            ids[position] = found
        start = stop
    return start, size


@cached_njit()
def lookup_keys(slots, records, shift, keys, ids):
    """ids[i] becomes the id of keys[i], 0 when there is none. ids: (n,) uint32. Modified."""
    mixes, guesses = np.empty(BLOCK_KEYS, dtype=np.uint64), np.empty(BLOCK_KEYS, dtype=np.uint64)
    for start in range(0, keys.shape[0], BLOCK_KEYS):
        stop = min(start + BLOCK_KEYS, keys.shape[0])
        _guess(slots, records, keys, start, stop, mixes, guesses, shift)
        for position in range(start, stop):
            key, found = keys[position], guesses[position - start]
            if found != ZERO and records[found, 0] != key:
                found = _find(slots, records, key, mixes[position - start], shift)[0]
            ids[position] = found


@cached_njit()
def fill_slots(slots, records, shift, size):
    """Enter the keys of the records 1 .. size - 1, all different, into slots that are all empty. slots: modified."""
    last = np.uint64(slots.shape[0] - 1)
    mixes = np.empty(BLOCK_KEYS, dtype=np.uint64)
    for start in range(1, size, BLOCK_KEYS):
        stop = min(start + BLOCK_KEYS, size)
        for number in range(start, stop):
            mixed = mix(records[number, 0])
            mixes[number - start] = mixed
            prefetch(slots, (np.intp(mixed >> shift),))
        for number in range(start, stop):
            mixed = mixes[number - start]
            slot = mixed >> shift
            while slots[slot] != ZERO:
                slot = (slot + ONE) & last
            slots[slot] = (mixed << HALF) | np.uint64(number)


@cached_njit()
def count_ids(records, size, ids):
    """Add 1 to the count of each id, unless one is not below size: returns its position then, -1 when all is well."""
    for position in range(ids.shape[0]):
        if ids[position] >= size:
            return position
    for position in range(ids.shape[0]):
        records[ids[position], 1] += ONE
    return -1
