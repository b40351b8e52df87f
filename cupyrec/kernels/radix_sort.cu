// One pass of a stable radix sort: count the digits of each tile, (scan.cu,) move the items to where they belong.
//
// A digit is `(key >> shift) & (digits - 1)`; digits, a power of two, is at most MOST_DIGITS. One block of SORT_THREADS
// threads takes a tile of SORT_ITEMS neighbours, each warp of it SORT_ROUNDS * WARP neighbours, WARP of them a round:
// the order of warps, rounds and lanes is that of the items, which is what keeps the sort stable.
//
// items: how many there are at most; count: (1,) int32, how many of them are meant, all where it is negative.
// Source: the pass by match and shared counters follows Adinets and Merrill, Onesweep, 2022 (arXiv 2206.01784), with
// the tiles' places from a scan of their own.

#include "scan.cuh"

// As in embedding/radix_sort.py.
#define MOST_DIGITS 256
#define SORT_THREADS 256
#define SORT_ROUNDS 8
#define SORT_ITEMS (SORT_THREADS * SORT_ROUNDS)
#define SORT_WARPS (SORT_THREADS / WARP)

__device__ __forceinline__ int items_meant(int items, const int* count) {
    return *count < 0 || *count > items ? items : *count;
}

// The item that this thread takes in a round; unsigned, as it may pass the last by a tile.
__device__ __forceinline__ unsigned sort_item(int round) {
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    return blockIdx.x * SORT_ITEMS + (warp * SORT_ROUNDS + round) * WARP + lane;
}

__device__ __forceinline__ int digit_of(int64 key, int shift, int digits) {
    return (int)((uint64)key >> shift) & (digits - 1);
}

// keys: (items,) int64. tile_counts: (digits, tiles) int32, written: how often each digit is in each tile. Grid: tiles.
extern "C" __global__ void __launch_bounds__(SORT_THREADS) count_digits(
    const int64* __restrict__ keys, int items, const int* __restrict__ count, int shift, int digits,
    int* __restrict__ tile_counts) {
    __shared__ int counts[MOST_DIGITS];
    const unsigned n = items_meant(items, count);
    counts[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (int round = 0; round < SORT_ROUNDS; ++round) {
        const unsigned item = sort_item(round);
        const int digit = item < n ? digit_of(keys[item], shift, digits) : -1;
        // One lane counts for all that have its digit: else a hot row's lookups would wait for each other.
        const unsigned peers = __match_any_sync(ALL_LANES, digit);
        if (digit >= 0 && (peers & lanes_before()) == 0) atomicAdd(&counts[digit], __popc(peers));
    }
    __syncthreads();
    if (threadIdx.x < digits) tile_counts[threadIdx.x * gridDim.x + blockIdx.x] = counts[threadIdx.x];
}

// keys, values: (items,) int64 and int32; values_given: 0: the value of an item is its place, and values is not read.
// tile_counts: (digits, tiles) int32, scanned along tiles; digit_totals: (digits,) int32, how often each digit occurs.
// sorted_keys, sorted_values: (items,), written as far as items are meant; not the arrays given. Grid: tiles.
extern "C" __global__ void __launch_bounds__(SORT_THREADS) move_by_digit(
    const int64* __restrict__ keys, const int* __restrict__ values, int values_given, int items,
    const int* __restrict__ count, int shift, int digits, const int* __restrict__ tile_counts,
    const int* __restrict__ digit_totals, int64* __restrict__ sorted_keys, int* __restrict__ sorted_values) {
    __shared__ int shared[WARP];
    // Of each warp and digit: how many items; then how many those before it in the tile have.
    __shared__ int warp_counts[SORT_WARPS * MOST_DIGITS];
    // Of each digit: where it begins in the tile; how far its items move from there to the sorted arrays.
    __shared__ int digit_starts[MOST_DIGITS];
    __shared__ int moves[MOST_DIGITS];
    __shared__ int64 tile_keys[SORT_ITEMS];
    __shared__ int tile_values[SORT_ITEMS];
    const unsigned n = items_meant(items, count), first = blockIdx.x * SORT_ITEMS;
    if (first >= n) return;
    const int thread = threadIdx.x;
    int* const counts = warp_counts + thread / WARP * MOST_DIGITS;
    for (int digit = thread % WARP; digit < digits; digit += WARP) counts[digit] = 0;
    __syncwarp();

    int64 key[SORT_ROUNDS];
    // How many items of the warp with the same digit come before.
    int rank[SORT_ROUNDS];
#pragma unroll
    for (int round = 0; round < SORT_ROUNDS; ++round) {
        const unsigned item = sort_item(round);
        key[round] = item < n ? keys[item] : 0;
    }
#pragma unroll
    for (int round = 0; round < SORT_ROUNDS; ++round) {
        const int digit = sort_item(round) < n ? digit_of(key[round], shift, digits) : -1;
        const unsigned peers = __match_any_sync(ALL_LANES, digit);
        const int in_rounds_before = digit >= 0 ? counts[digit] : 0;
        __syncwarp();
        if (digit >= 0 && (peers & lanes_before()) == 0) counts[digit] = in_rounds_before + __popc(peers);
        __syncwarp();
        rank[round] = in_rounds_before + __popc(peers & lanes_before());
    }
    __syncthreads();

    // From here on a thread is also a digit.
    int in_tile = 0;
    if (thread < digits) {
        for (int warp = 0; warp < SORT_WARPS; ++warp) {
            const int in_warp = warp_counts[warp * MOST_DIGITS + thread];
            warp_counts[warp * MOST_DIGITS + thread] = in_tile;
            in_tile += in_warp;
        }
    }
    int total;
    const int digit_start = block_exclusive_scan(in_tile, shared, total);
    const int lower_digits = block_exclusive_scan(thread < digits ? digit_totals[thread] : 0, shared, total);
    if (thread < digits) {
        digit_starts[thread] = digit_start;
        moves[thread] = lower_digits + tile_counts[thread * gridDim.x + blockIdx.x] - digit_start;
    }
    __syncthreads();

    // Sorted within the tile first, so that neighbouring threads write neighbouring items.
#pragma unroll
    for (int round = 0; round < SORT_ROUNDS; ++round) {
        const unsigned item = sort_item(round);
        if (item < n) {
            const int digit = digit_of(key[round], shift, digits);
            const int place = digit_starts[digit] + counts[digit] + rank[round];
            tile_keys[place] = key[round];
            tile_values[place] = values_given ? values[item] : (int)item;
        }
    }
    __syncthreads();
    const int tile_items = min(n - first, (unsigned)SORT_ITEMS);
    for (int place = thread; place < tile_items; place += SORT_THREADS) {
        const int64 placed = tile_keys[place];
        const int to = moves[digit_of(placed, shift, digits)] + place;
        sorted_keys[to] = placed;
        sorted_values[to] = tile_values[place];
    }
}
