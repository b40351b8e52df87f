// A batch's sorted lookups cut into one segment for each unique row, and its long segments into chunks.
//
// sorted_rows: (N,) int64, ascending. A lookup is a head where a segment begins, and a long head where that segment has
// more than LONG_SEGMENT lookups. Compaction as in scan.cuh, of both at once.
//
// compiled with: LONG_SEGMENT=64

#include "scan.cuh"

#ifndef LONG_SEGMENT
#error "LONG_SEGMENT must be defined: the lookups of a segment beyond which it is long"
#endif

// Whether a segment begins at this place.
__device__ __forceinline__ bool is_head(const int64* sorted_rows, int at) {
    return at == 0 || sorted_rows[at] != sorted_rows[at - 1];
}

// Whether a segment of more than LONG_SEGMENT lookups begins at this place: the one so many places on is of it too.
__device__ __forceinline__ bool is_long_head(const int64* sorted_rows, int N, int at) {
    return N - at > LONG_SEGMENT && sorted_rows[at + LONG_SEGMENT] == sorted_rows[at] && is_head(sorted_rows, at);
}

// The bag that a lookup is in: the last one that begins at or before it, which empty bags before it may do as well.
// offsets: (bags + 1,) int64.
__device__ __forceinline__ int bag_of(const int64* offsets, int bags, int lookup) {
    int low = 0, high = bags;
    while (high - low > 1) {
        const int middle = low + (high - low) / 2;
        if (offsets[middle] <= lookup) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// tile_heads: (2, tiles) int32, written: heads and long heads of each tile. One block a tile.
extern "C" __global__ void __launch_bounds__(TILE_THREADS) count_segments(
    const int64* __restrict__ sorted_rows, int N, int* __restrict__ tile_heads) {
    __shared__ int shared[WARP];
    const int heads = kept_in_tile(N, [=](int at) { return is_head(sorted_rows, at); }, shared);
    const int long_heads = kept_in_tile(N, [=](int at) { return is_long_head(sorted_rows, N, at); }, shared);
    if (threadIdx.x == 0) {
        tile_heads[blockIdx.x] = heads;
        tile_heads[gridDim.x + blockIdx.x] = long_heads;
    }
}

// tile_heads: (2, tiles) int32, scanned; totals: (2,) int32, how many segments and long segments there are.
// sorted_lookups: (N,) int32, the lookups in the order of sorted_rows; offsets: (bags + 1,) int64, of the batch.
// Written: unique_rows (U,) int64; segment_offsets (U + 1,) int64; segment_bags (N,) int32; unique_count (1,) int32;
// long_segments (long segments,) int32. One block a tile, at least one: U and the last offset are written for no
// lookups too.
extern "C" __global__ void __launch_bounds__(TILE_THREADS) write_segments(
    const int64* __restrict__ sorted_rows, int N, const int* __restrict__ tile_heads, const int* __restrict__ totals,
    const int* __restrict__ sorted_lookups, const int64* __restrict__ offsets, int bags,
    int64* __restrict__ unique_rows, int64* __restrict__ segment_offsets, int* __restrict__ segment_bags,
    int* __restrict__ unique_count, int* __restrict__ long_segments) {
    __shared__ int shared[WARP];
    int segments[TILE_ROUNDS], long_places[TILE_ROUNDS];
    kept_places(N, tile_heads[blockIdx.x], [=](int at) { return is_head(sorted_rows, at); }, shared, segments);
    kept_places(
        N, tile_heads[gridDim.x + blockIdx.x], [=](int at) { return is_long_head(sorted_rows, N, at); }, shared,
        long_places);
#pragma unroll
    for (int round = 0; round < TILE_ROUNDS; ++round) {
        const unsigned at = tile_item(round);
        if (at < (unsigned)N) segment_bags[at] = bag_of(offsets, bags, sorted_lookups[at]);
        if (segments[round] >= 0) {
            unique_rows[segments[round]] = sorted_rows[at];
            segment_offsets[segments[round]] = at;
        }
        if (long_places[round] >= 0) long_segments[long_places[round]] = segments[round];
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        segment_offsets[totals[0]] = N;
        *unique_count = totals[0];
    }
}

// Where the chunks of each long segment begin among the chunks of all.
//
// totals: (2,) int32, as above; long_segments: (long segments,) int32; segment_offsets: (U + 1,) int64.
// Written: long_offsets (long segments + 1,) int32, from 0; long_counts (2,) int32: long segments, chunks.
// One block of whole warps: long segments are few.
extern "C" __global__ void number_chunks(
    const int* __restrict__ totals, const int* __restrict__ long_segments, const int64* __restrict__ segment_offsets,
    int* __restrict__ long_offsets, int* __restrict__ long_counts) {
    __shared__ int shared[WARP];
    const int long_count = totals[1];
    int chunks_before = 0;
    for (int first = 0; first < long_count; first += blockDim.x) {
        const int at = first + threadIdx.x;
        int chunks = 0, total;
        if (at < long_count) {
            const int segment = long_segments[at];
            chunks = (int)((segment_offsets[segment + 1] - segment_offsets[segment] + LONG_SEGMENT - 1) / LONG_SEGMENT);
        }
        const int before = block_exclusive_scan(chunks, shared, total);
        if (at < long_count) long_offsets[at] = chunks_before + before;
        chunks_before += total;
    }
    if (threadIdx.x == 0) {
        long_offsets[long_count] = chunks_before;
        long_counts[0] = long_count;
        long_counts[1] = chunks_before;
    }
}
