// Which row is in each slot.
//
// COUNTED: 1 where *count says how many slots are meant, at most `most`; 0 where `most` are, and count is not read.
// compiled with: COUNTED=0,1

#include "common.cuh"

// slot_rows[slots[i]] = rows[i]. slot_rows: (S,), modified; slots: (n,), which differ from each other; rows: (n,).
// One thread a slot, grid-stride.
extern "C" __global__ void mark_rows(
    int64* __restrict__ slot_rows, const int* __restrict__ slots, const int64* __restrict__ rows,
    const int* __restrict__ count, int most) {
    const int64 meant = COUNTED ? *count : most, stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < meant; i += stride) slot_rows[slots[i]] = rows[i];
}

// slot_rows[slots[i]] = -1, which is no row.
extern "C" __global__ void mark_empty(
    int64* __restrict__ slot_rows, const int* __restrict__ slots, const int* __restrict__ count, int most) {
    const int64 meant = COUNTED ? *count : most, stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < meant; i += stride) slot_rows[slots[i]] = -1;
}
