// Where each part begins, from how long each is.

#include "scan.cuh"

// values: (rows, items) int32; each row is overwritten by the sums of the values before each, from 0.
// totals: (rows,) int32, written: the sum of each row.
// One block a row, of whole warps; it goes through the row a block's width at a time and carries the sum on.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) exclusive_scan(
    int* __restrict__ values, int items, int* __restrict__ totals) {
    __shared__ int shared[WARP];
    int* const row = values + (int64)blockIdx.x * items;
    int carry = 0;
    for (int64 start = 0; start < items; start += blockDim.x) {
        const int64 at = start + threadIdx.x;
        int total;
        const int before = block_exclusive_scan(at < items ? row[at] : 0, shared, total);
        if (at < items) row[at] = carry + before;
        carry += total;
    }
    if (threadIdx.x == 0) totals[blockIdx.x] = carry;
}
