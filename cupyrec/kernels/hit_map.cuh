// The hash table from rows to small numbers: open addressing with linear probing, int64 keys.
//
// cells: (2 * capacity,) int64, capacity a power of two: key and value of each place beside each other, in one sector of
// 32 bytes. A place is EMPTY_KEY, or has a key from 0 on, or is ERASED_KEY: left by a key, and searches go on beyond it.
// shift: 64 - log2(capacity). At least one place must be EMPTY_KEY. Nothing here grows.
//
// A kernel may find and insert, or erase, but not both; the keys that one launch inserts must be different from each
// other, and so must those that it erases. Which place a key gets depends on timing; what is found does not.
//
// Source: multiplicative hashing, Knuth, The Art of Computer Programming 3, section 6.4.

#pragma once

#include "common.cuh"

// As in pipeline/gpu_planner.py, where a table is filled with bytes 0xFF to be empty.
#define EMPTY_KEY (-1ll)
#define ERASED_KEY (-2ll)

// The place where the search for a key begins. 2**64 over the golden ratio: neighbouring keys come to lie far apart.
__device__ __forceinline__ int64 hit_map_home(int64 key, int shift) {
    return (int64)((uint64)key * 0x9E3779B97F4A7C15ull >> shift);
}

__device__ __forceinline__ int64 hit_map_after(int64 place, int shift) { return (place + 1) & ((1ll << (64 - shift)) - 1); }

// The place of a key; -1 where it is not there.
__device__ __forceinline__ int64 hit_map_find(const int64* cells, int shift, int64 key) {
    for (int64 at = hit_map_home(key, shift);; at = hit_map_after(at, shift)) {
        const int64 there = cells[2 * at];
        if (there == key) return at;
        if (there == EMPTY_KEY) return -1;
    }
}

// Put a key that is not there. Returns whether its place was EMPTY_KEY: one more place is in use then.
__device__ __forceinline__ bool hit_map_insert(int64* cells, int shift, int64 key, int64 value) {
    for (int64 at = hit_map_home(key, shift);; at = hit_map_after(at, shift)) {
        const int64 there = cells[2 * at];
        if (there >= 0) continue;
        // Another thread may be first with its own key; then the search goes on.
        if (atomicCAS((uint64*)cells + 2 * at, (uint64)there, (uint64)key) != (uint64)there) continue;
        cells[2 * at + 1] = value;
        return there == EMPTY_KEY;
    }
}

// Take out a key that is there. Returns whether its place is EMPTY_KEY now: one place less is in use then.
//
// That may be when the next place is empty: no search ever went on there. Other threads make places empty at the same
// time, but only such that no key still to be erased is looked for beyond them.
__device__ __forceinline__ bool hit_map_erase(int64* cells, int shift, int64 key) {
    const int64 at = hit_map_find(cells, shift, key);
    const bool ends_here = cells[2 * hit_map_after(at, shift)] == EMPTY_KEY;
    cells[2 * at] = ends_here ? EMPTY_KEY : ERASED_KEY;
    return ends_here;
}
