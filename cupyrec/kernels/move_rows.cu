// Row records moved between arrays, each on the device or page-locked on the host: gathered or scattered.
//
// WIDTH: elements of a record; where it is a multiple of 4, records are 16-byte aligned and are moved as float4.
// compiled with: WIDTH=33,128,132
//
// One thread a part of a record, grid-stride: a warp reads and writes neighbouring parts, whole lines of 128 bytes
// where records have them. Each thread has IN_FLIGHT parts under way, as a link with its long way needs many.
// All move 2 * 4 * WIDTH bytes a row and read its places.

#include "common.cuh"

#if WIDTH % 4 == 0
typedef float4 Part;
#else
typedef float Part;
#endif

constexpr int PARTS = WIDTH * sizeof(float) / sizeof(Part);
constexpr int IN_FLIGHT = 4;

// Places that are the numbers of the rows themselves.
struct InOrder {
    __device__ inline int64 operator[](int64 i) const {
        return i;
    }
};

// Row i is records[from[i]]. From: InOrder or an array of places.
template <class From>
struct OneArray {
    const float* __restrict__ records;
    From from;

    __device__ inline const Part* row(int64 i) const {
        return (const Part*)(records + (int64)from[i] * WIDTH);
    }
};

// target[to[i]] = row i of the source, for n rows. To: InOrder or an array of places.
template <class Source, class To>
__device__ inline void move(
    const Source& source, float* __restrict__ target, To to, int n) {
    const int64 parts = (int64)n * PARTS, stride = (int64)gridDim.x * blockDim.x;
    for (int64 first = (int64)blockIdx.x * blockDim.x + threadIdx.x; first < parts; first += IN_FLIGHT * stride) {
        Part part[IN_FLIGHT];
        Part* there[IN_FLIGHT];
#pragma unroll
        for (int j = 0; j < IN_FLIGHT; ++j) {
            const int64 at = first + j * stride, i = at / PARTS;
            const int p = (int)(at - i * PARTS);
            there[j] = nullptr;
            if (at < parts) {
                part[j] = source.row(i)[p];
                there[j] = (Part*)(target + (int64)to[i] * WIDTH) + p;
            }
        }
#pragma unroll
        for (int j = 0; j < IN_FLIGHT; ++j)
            if (there[j] != nullptr) *there[j] = part[j];
    }
}

// gathered[i] = records[places[i]]. records: (rows or slots, WIDTH); places: (n,); gathered: (n, WIDTH), overwritten.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) gather_rows(
    const float* __restrict__ records, const int64* __restrict__ places, float* __restrict__ gathered, int n) {
    move(OneArray<const int64*>{records, places}, gathered, InOrder(), n);
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS) gather_slots(
    const float* __restrict__ records, const int* __restrict__ places, float* __restrict__ gathered, int n) {
    move(OneArray<const int*>{records, places}, gathered, InOrder(), n);
}

// records[places[i]] = gathered[i]; the places differ from each other. Shapes as above; records is modified there.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) scatter_rows(
    float* __restrict__ records, const int64* __restrict__ places, const float* __restrict__ gathered, int n) {
    move(OneArray<InOrder>{gathered, InOrder()}, records, places, n);
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS) scatter_slots(
    float* __restrict__ records, const int* __restrict__ places, const float* __restrict__ gathered, int n) {
    move(OneArray<InOrder>{gathered, InOrder()}, records, places, n);
}

// scratchpad[slots[i]] = gathered[i], and slot_rows[slots[i]] = rows[i]: in one launch, so that what a slot holds and what is
// written down of it are queued together or not at all. slots: (n,), which differ from each other; rows: (n,); gathered:
// (n, WIDTH); scratchpad: (S, WIDTH) and slot_rows: (S,), both modified there.
extern "C" __global__ void insert_records(
    const float* __restrict__ gathered, const int* __restrict__ slots, const int64* __restrict__ rows,
    float* __restrict__ scratchpad, int64* __restrict__ slot_rows, int n) {
    move(OneArray<InOrder>{gathered, InOrder()}, scratchpad, slots, n);
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) slot_rows[slots[i]] = rows[i];
}
