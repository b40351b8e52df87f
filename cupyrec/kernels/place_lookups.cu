// The place of each lookup, from the places of the unique rows.

#include "common.cuh"

// lookup_places[l] = places[u] for every lookup l of unique row u.
//
// segment_offsets: (N + 1,), the first U + 1 are meant; segment_lookups: (N,); places: (U,) at least; unique_count:
// (1,), U; lookup_places: (N,), overwritten. One thread a lookup in segment order, grid-stride: a hot row's lookups
// are many threads' work. Moves 8 N + 12 U bytes, half of it scattered, and searches in the cache.
extern "C" __global__ void place_lookups(
    const int64* __restrict__ segment_offsets, const int* __restrict__ segment_lookups, const int* __restrict__ places,
    const int* __restrict__ unique_count, int* __restrict__ lookup_places, int lookups) {
    const int64 unique = *unique_count, stride = (int64)gridDim.x * blockDim.x;
    for (int64 at = (int64)blockIdx.x * blockDim.x + threadIdx.x; at < lookups; at += stride) {
        // segment_offsets[u] <= at < segment_offsets[beyond], until these are neighbours. Every segment has a lookup:
        // at most `at` segments come before, and at most lookups - 1 - at after.
        int64 u = max(at - (lookups - unique), (int64)0), beyond = min(at + 1, unique);
        while (beyond - u > 1) {
            const int64 middle = u + (beyond - u) / 2;
            if (segment_offsets[middle] <= at)
                u = middle;
            else
                beyond = middle;
        }
        lookup_places[segment_lookups[at]] = places[u];
    }
}
