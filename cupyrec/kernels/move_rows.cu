// Row records moved between arrays, each on the device or page-locked on the host: gathered, scattered, or both.
//
// WIDTH: elements of a record; where it is a multiple of 4, records are 16-byte aligned and are moved as float4.
// COUNTED: 1 where *count says how many rows are meant, at most `most`; 0 where `most` are, and count is not read.
// compiled with: WIDTH=33,128,132 COUNTED=0,1
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

// Row i is pad[slots[i]], or records[rows[i]] where that slot is -1.
struct TwoArrays {
    const float* __restrict__ pad;
    const int* __restrict__ slots;
    const float* __restrict__ records;
    const int64* __restrict__ rows;

    __device__ inline const Part* row(int64 i) const {
        const int slot = slots[i];
        return (const Part*)(slot < 0 ? records + rows[i] * WIDTH : pad + (int64)slot * WIDTH);
    }
};

// target[to[i]] = row i of the source, for the rows that are meant. To: InOrder or an array of places.
template <class Source, class To>
__device__ inline void move(
    const Source& source, float* __restrict__ target, To to, const int* __restrict__ count, int most) {
    const int64 parts = (int64)(COUNTED ? *count : most) * PARTS, stride = (int64)gridDim.x * blockDim.x;
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
extern "C" __global__ void gather_rows(
    const float* __restrict__ records, const int64* __restrict__ places, float* __restrict__ gathered,
    const int* __restrict__ count, int most) {
    move(OneArray<const int64*>{records, places}, gathered, InOrder(), count, most);
}

extern "C" __global__ void gather_slots(
    const float* __restrict__ records, const int* __restrict__ places, float* __restrict__ gathered,
    const int* __restrict__ count, int most) {
    move(OneArray<const int*>{records, places}, gathered, InOrder(), count, most);
}

// records[places[i]] = gathered[i]; the places differ from each other. Shapes as above; records is modified there.
extern "C" __global__ void scatter_rows(
    const float* __restrict__ gathered, float* __restrict__ records, const int64* __restrict__ places,
    const int* __restrict__ count, int most) {
    move(OneArray<InOrder>{gathered, InOrder()}, records, places, count, most);
}

extern "C" __global__ void scatter_slots(
    const float* __restrict__ gathered, float* __restrict__ records, const int* __restrict__ places,
    const int* __restrict__ count, int most) {
    move(OneArray<InOrder>{gathered, InOrder()}, records, places, count, most);
}

// target[to_places[i]] = source[from_places[i]]; the places in target differ from each other. source, target: (rows or
// slots, WIDTH), two arrays; target is modified there.
extern "C" __global__ void copy_rows_to_rows(
    const float* __restrict__ source, const int64* __restrict__ from_places, float* __restrict__ target,
    const int64* __restrict__ to_places, const int* __restrict__ count, int most) {
    move(OneArray<const int64*>{source, from_places}, target, to_places, count, most);
}

extern "C" __global__ void copy_rows_to_slots(
    const float* __restrict__ source, const int64* __restrict__ from_places, float* __restrict__ target,
    const int* __restrict__ to_places, const int* __restrict__ count, int most) {
    move(OneArray<const int64*>{source, from_places}, target, to_places, count, most);
}

extern "C" __global__ void copy_slots_to_rows(
    const float* __restrict__ source, const int* __restrict__ from_places, float* __restrict__ target,
    const int64* __restrict__ to_places, const int* __restrict__ count, int most) {
    move(OneArray<const int*>{source, from_places}, target, to_places, count, most);
}

extern "C" __global__ void copy_slots_to_slots(
    const float* __restrict__ source, const int* __restrict__ from_places, float* __restrict__ target,
    const int* __restrict__ to_places, const int* __restrict__ count, int most) {
    move(OneArray<const int*>{source, from_places}, target, to_places, count, most);
}

// gathered[i] = pad[slots[i]], or records[rows[i]] where slots[i] is -1. pad: (S, WIDTH); slots: (n,); records:
// (R, WIDTH); rows: (n,); gathered: (n, WIDTH), overwritten.
extern "C" __global__ void gather_from_two(
    const float* __restrict__ pad, const int* __restrict__ slots, const float* __restrict__ records,
    const int64* __restrict__ rows, float* __restrict__ gathered, const int* __restrict__ count, int most) {
    move(TwoArrays{pad, slots, records, rows}, gathered, InOrder(), count, most);
}
