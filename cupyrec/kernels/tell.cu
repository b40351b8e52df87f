// Numbers for the host, which a kernel writes over the link: they need not wait for a copy engine that moves rows.

#include "common.cuh"

// target[i] = source[i]. One thread an item, grid-stride.
template <typename T>
__device__ __forceinline__ void tell(const T* __restrict__ source, T* __restrict__ target, int64 items) {
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 at = (int64)blockIdx.x * blockDim.x + threadIdx.x; at < items; at += stride) target[at] = source[at];
}

// source: (items,), device; target: (items,), page-locked, overwritten. Moves 8 bytes an item, half of it over the link.
extern "C" __global__ void tell_int32(const int* __restrict__ source, int* __restrict__ target, int64 items) {
    tell(source, target, items);
}

// The same of 64 bits.
extern "C" __global__ void tell_int64(const int64* __restrict__ source, int64* __restrict__ target, int64 items) {
    tell(source, target, items);
}
