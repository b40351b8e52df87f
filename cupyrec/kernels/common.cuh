// What the kernels share. Warps have 32 threads.

#pragma once

typedef long long int64;
typedef unsigned long long uint64;

#define WARP 32
#define ALL_LANES 0xffffffffu
// Of a block. A kernel that may be launched with as many must say so: else it may be given more registers than there are.
#define MOST_THREADS 1024

// Whether 128-bit accesses may begin at p.
__device__ __forceinline__ bool is_aligned16(const void* p) { return ((uint64)p & 15) == 0; }

// A number of its own for each lane that wants one: *counter, and on in steps of `step`, which is where *counter is left.
// One lane counts for the warp. The whole warp calls it. Which number a lane gets depends on timing.
__device__ __forceinline__ int warp_reserve(int* counter, bool wanted, int step) {
    const unsigned lanes = __ballot_sync(ALL_LANES, wanted);
    if (lanes == 0) return 0;
    const unsigned lane = threadIdx.x % WARP;
    const int first_lane = __ffs((int)lanes) - 1;
    int first = 0;
    if ((int)lane == first_lane) first = atomicAdd(counter, step * __popc(lanes));
    first = __shfl_sync(ALL_LANES, first, first_lane);
    return first + step * __popc(lanes & ((1u << lane) - 1u));
}
