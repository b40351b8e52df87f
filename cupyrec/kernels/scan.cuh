// Sums over a block, and compaction that keeps the order: which items are kept, and where each of them goes.
//
// Compaction of n items takes three launches, of one block of TILE_THREADS threads for each tile of TILE_ITEMS items
// (cupyrec/kernels/compaction.py has the same numbers and says how many tiles there are; at least one):
//
//   count   tile_counts[blockIdx.x] = kept_in_tile(n, keep, shared)        every block, thread 0
//   scan    exclusive_scan of scan.cu, one block: tile_counts become where the kept items of each tile begin; the total
//   write   kept_places(n, tile_counts[blockIdx.x], keep, shared, places)  and then, for each round
//               if (places[round] >= 0) target[places[round]] = ... of item tile_item(round)
//
// `keep` is a lambda `[=](int item) { return ...; }`, asked for items 0 to n - 1 alone. n may be a number that only the
// device knows, with as many tiles as the largest n would have: tiles without items keep none.
// `shared` is `__shared__ int shared[WARP]`, of the kernel; it may be used again at once.

#pragma once

#include "common.cuh"

#define TILE_THREADS 256
// Items of each thread of a tile. A warp takes TILE_ROUNDS * WARP neighbours, WARP of them a round.
#define TILE_ROUNDS 4
#define TILE_ITEMS (TILE_THREADS * TILE_ROUNDS)

// The lanes of the warp before this thread's.
__device__ __forceinline__ unsigned lanes_before() { return (1u << (threadIdx.x % WARP)) - 1u; }

// The sum of `value` over this thread and the lanes before it. The whole warp calls it.
__device__ __forceinline__ int warp_inclusive_scan(int value) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        const int before = __shfl_up_sync(ALL_LANES, value, distance);
        if (lane >= distance) value += before;
    }
    return value;
}

// The sum of `value` over the threads of the block before this one; `total` becomes that of all threads. The whole
// block calls it: one-dimensional, of whole warps. shared: WARP numbers; free again on return.
__device__ __forceinline__ int block_exclusive_scan(int value, int* shared, int& total) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const int up_to_this = warp_inclusive_scan(value);
    if (lane == WARP - 1) shared[warp] = up_to_this;
    __syncthreads();
    // Each warp sums up the warps for itself: that spares a barrier.
    const int of_warp = lane < warps ? shared[lane] : 0;
    const int up_to_warp = warp_inclusive_scan(of_warp);
    __syncthreads();
    total = __shfl_sync(ALL_LANES, up_to_warp, WARP - 1);
    return __shfl_sync(ALL_LANES, up_to_warp - of_warp, warp) + up_to_this - value;
}

// The item that this thread looks at in a round, 0 to TILE_ROUNDS - 1; unsigned, as it may pass the last by a tile.
__device__ __forceinline__ unsigned tile_item(int round) {
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    return blockIdx.x * TILE_ITEMS + (warp * TILE_ROUNDS + round) * WARP + lane;
}

// Which lanes of the warp keep their item of a round.
template <typename Keep>
__device__ __forceinline__ unsigned kept_lanes(int items, int round, Keep keep) {
    const unsigned item = tile_item(round);
    return __ballot_sync(ALL_LANES, item < (unsigned)items && keep((int)item));
}

// How many items of the block's tile are kept, for each of its threads. The whole block calls it.
template <typename Keep>
__device__ __forceinline__ int kept_in_tile(int items, Keep keep, int* shared) {
    int kept = 0;
#pragma unroll
    for (int round = 0; round < TILE_ROUNDS; ++round) kept += __popc(kept_lanes(items, round, keep));
    int total;
    block_exclusive_scan(threadIdx.x % WARP == 0 ? kept : 0, shared, total);
    return total;
}

// places[round] = start + how many items of the tile before tile_item(round) are kept; -1 where it is not kept itself.
// The whole block calls it. start: the place of the first kept item of the tile.
template <typename Keep>
__device__ __forceinline__ void kept_places(int items, int start, Keep keep, int* shared, int (&places)[TILE_ROUNDS]) {
    unsigned lanes[TILE_ROUNDS];
    int kept = 0;
#pragma unroll
    for (int round = 0; round < TILE_ROUNDS; ++round) {
        lanes[round] = kept_lanes(items, round, keep);
        places[round] = kept + __popc(lanes[round] & lanes_before());
        kept += __popc(lanes[round]);
    }
    int total;
    const int before = block_exclusive_scan(threadIdx.x % WARP == 0 ? kept : 0, shared, total);
    const int warp_start = start + __shfl_sync(ALL_LANES, before, 0);
#pragma unroll
    for (int round = 0; round < TILE_ROUNDS; ++round) {
        const bool is_kept = lanes[round] >> (threadIdx.x % WARP) & 1u;
        places[round] = is_kept ? warp_start + places[round] : -1;
    }
}
