// How lanes hold vectors of D floats in registers, and sum many of them in order.
//
// A vector is cut into parts: float4 where D % 4 == 0, floats otherwise. LANES neighbouring lanes of a warp, a group,
// hold it together: lane i of the group has the parts i, i + LANES, ..., so that neighbouring lanes read neighbouring
// parts. Groups of one warp go their own ways; what exchanges values names the lanes of its group.
//
// DIMENSION: D, at least 1. Blocks have BLOCK threads.

#pragma once

#include "common.cuh"

#define BLOCK 256

#if DIMENSION % 4 == 0
typedef float4 Part;
#else
typedef float Part;
#endif

constexpr int PART_FLOATS = sizeof(Part) / sizeof(float);
constexpr int PARTS = DIMENSION / PART_FLOATS;
// The least power of two that gives each part a lane, or a whole warp. Python computes it too: embedding_bag.py.
constexpr int LANES = PARTS > 16 ? 32 : PARTS > 8 ? 16 : PARTS > 4 ? 8 : PARTS > 2 ? 4 : PARTS > 1 ? 2 : 1;
constexpr int LANE_PARTS = (PARTS + LANES - 1) / LANES;
constexpr int GROUPS = BLOCK / LANES;
// Vectors whose loads are under way at once: four, fewer where one alone takes many registers of a lane.
constexpr int LANE_FLOATS = LANE_PARTS * PART_FLOATS;
constexpr int IN_FLIGHT = LANE_FLOATS <= 4 ? 4 : LANE_FLOATS <= 8 ? 2 : 1;

// A lane's parts of a vector; those that the vector does not have are 0.
struct Vector {
    Part part[LANE_PARTS];
};

__device__ inline unsigned lane_of_group() {
    return threadIdx.x % LANES;
}

// The lanes of the calling thread's group, as a mask.
__device__ inline unsigned group_mask() {
    return LANES == WARP ? ALL_LANES : ((1u << (LANES % WARP)) - 1) << (threadIdx.x % WARP / LANES * LANES);
}

// Which group of all blocks this is, and how many there are.
__device__ inline int64 group_of_grid() {
    return (int64)blockIdx.x * GROUPS + threadIdx.x / LANES;
}

__device__ inline int64 groups_of_grid() {
    return (int64)gridDim.x * GROUPS;
}

__device__ inline bool has_part(int p) {
    return PARTS % LANES == 0 || lane_of_group() + p * LANES < PARTS;
}

__device__ inline void set_zero(float& part) {
    part = 0.0f;
}

__device__ inline void set_zero(float4& part) {
    part = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

__device__ inline void add(float& sum, float part) {
    sum += part;
}

__device__ inline void add(float4& sum, float4 part) {
    sum.x += part.x;
    sum.y += part.y;
    sum.z += part.z;
    sum.w += part.w;
}

__device__ inline void divide(float& part, float divisor) {
    part /= divisor;
}

__device__ inline void divide(float4& part, float divisor) {
    part.x /= divisor;
    part.y /= divisor;
    part.z /= divisor;
    part.w /= divisor;
}

__device__ inline Vector zero_vector() {
    Vector zero;
#pragma unroll
    for (int p = 0; p < LANE_PARTS; ++p) set_zero(zero.part[p]);
    return zero;
}

// from, to: (D,), aligned to a part.
__device__ inline Vector load_vector(const float* __restrict__ from) {
    Vector vector = zero_vector();
#pragma unroll
    for (int p = 0; p < LANE_PARTS; ++p)
        if (has_part(p)) vector.part[p] = ((const Part*)from)[lane_of_group() + p * LANES];
    return vector;
}

__device__ inline void store_vector(float* __restrict__ to, const Vector& vector) {
#pragma unroll
    for (int p = 0; p < LANE_PARTS; ++p)
        if (has_part(p)) ((Part*)to)[lane_of_group() + p * LANES] = vector.part[p];
}

__device__ inline void add_vector(Vector& sum, const Vector& vector) {
#pragma unroll
    for (int p = 0; p < LANE_PARTS; ++p) add(sum.part[p], vector.part[p]);
}

__device__ inline void divide_vector(Vector& vector, float divisor) {
#pragma unroll
    for (int p = 0; p < LANE_PARTS; ++p) divide(vector.part[p], divisor);
}

// The key that a lane of the group holds. Lanes beyond the group give any.
__device__ inline int key_of_lane(unsigned mask, int key, int lane) {
    return __shfl_sync(mask, key, lane, LANES);
}

__device__ inline int64 key_of_lane(unsigned mask, int64 key, int lane) {
    return __shfl_sync(mask, key, lane, LANES);
}

// The sum of the terms first .. last-1, one after another in this order. All lanes of a group call it together.
// Terms are numbered below 2^31, as the lookups of a batch are.
//
// terms.key(at): where term `at` is; the lanes read a key each and tell the others, so that vectors need not wait for
// their keys one by one, and keys of the next terms are under way meanwhile.
// terms.load(key): the term as a Vector; terms.add(sum, vector, key) adds it.
// next: the calling lane's of the first keys, as many as the group has lanes; any where there is no such term.
template <class Terms>
__device__ inline Vector sum_in_order(
    const Terms& terms, unsigned first, unsigned last, typename Terms::Key next) {
    typedef typename Terms::Key Key;
    const unsigned mask = group_mask();
    Vector sum = zero_vector();
    for (unsigned begin = first; begin < last; begin += LANES) {
        const Key mine = next;
        if (begin + LANES + lane_of_group() < last) next = terms.key(begin + LANES + lane_of_group());
        const int here = min(last - begin, (unsigned)LANES);
#pragma unroll 1
        for (int k = 0; k < here; k += IN_FLIGHT) {
            Key keys[IN_FLIGHT];
            Vector loaded[IN_FLIGHT];
#pragma unroll
            for (int j = 0; j < IN_FLIGHT; ++j) keys[j] = key_of_lane(mask, mine, k + j);
#pragma unroll
            for (int j = 0; j < IN_FLIGHT; ++j) loaded[j] = k + j < here ? terms.load(keys[j]) : zero_vector();
#pragma unroll
            for (int j = 0; j < IN_FLIGHT; ++j)
                if (k + j < here) terms.add(sum, loaded[j], keys[j]);
        }
    }
    return sum;
}

template <class Terms>
__device__ inline Vector sum_in_order(const Terms& terms, unsigned first, unsigned last) {
    typename Terms::Key next = typename Terms::Key();
    if (first + lane_of_group() < last) next = terms.key(first + lane_of_group());
    return sum_in_order(terms, first, last, next);
}
