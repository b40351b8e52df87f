// Bulk operations on the hash table of hit_map.cuh. One thread a key, grid-stride, in whole warps.
//
// places: (1,) int32: how many places are not EMPTY_KEY; changed by what is done.

#include "hit_map.cuh"

// values: (items,) int64, overwritten: the value of each key, -1 where it is not there. keys: (items,) int64, from 0 on.
extern "C" __global__ void find_keys(
    const int64* __restrict__ keys, int items, const int64* __restrict__ cells, int shift, int64* __restrict__ values) {
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < items; i += stride) {
        const int64 at = hit_map_find(cells, shift, keys[i]);
        values[i] = at < 0 ? -1 : cells[2 * at + 1];
    }
}

// Put each key that is from 0 on, with its place in `keys` as its value; none of them may be there, and none twice.
// keys: (items,) int64. cells, places: modified.
extern "C" __global__ void insert_keys(
    const int64* __restrict__ keys, int items, int64* cells, int shift, int* places) {
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < items; first += stride) {
        const int64 i = first + threadIdx.x;
        const int64 key = i < items ? keys[i] : -1;
        const bool one_more = key >= 0 && hit_map_insert(cells, shift, key, i);
        warp_reserve(places, one_more, 1);
    }
}

// Take out each key; all must be there, and none twice. keys: (items,) int64. cells, places: modified.
extern "C" __global__ void erase_keys(
    const int64* __restrict__ keys, int items, int64* cells, int shift, int* places) {
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < items; first += stride) {
        const int64 i = first + threadIdx.x;
        const bool one_less = i < items && hit_map_erase(cells, shift, keys[i]);
        warp_reserve(places, one_less, -1);
    }
}
