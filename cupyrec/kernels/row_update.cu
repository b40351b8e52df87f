// The coalesced update of embedding rows: each unique row's gradient summed and one optimizer step applied, in place.
//
// One of SGD, ADAGRAD and ROWWISE_ADAGRAD is defined: the step, as in cupyrec/optim. DIMENSION: D; MEAN: 1 where bags
// were averaged, else 0; LONG_SEGMENT: as in cupyrec.batch. D % 4 == 0 is fast.
// compiled with: SGD=1 DIMENSION=128,3 MEAN=0,1 LONG_SEGMENT=64
// compiled with: ADAGRAD=1 DIMENSION=128,1024 MEAN=0,1 LONG_SEGMENT=64
// compiled with: ADAGRAD=1 DIMENSION=128 MEAN=1 LONG_SEGMENT=64
// compiled with: ROWWISE_ADAGRAD=1 DIMENSION=128,200 MEAN=0,1 LONG_SEGMENT=64
//
// Products that are added to something are written as fmaf: every compiler, and both place types, give the same bits.

#include "segments.cuh"

__device__ inline void descend(float& w, float g, float rate) {
    w = fmaf(-rate, g, w);
}

__device__ inline void descend(float4& w, float4 g, float rate) {
    descend(w.x, g.x, rate);
    descend(w.y, g.y, rate);
    descend(w.z, g.z, rate);
    descend(w.w, g.w, rate);
}

__device__ inline void descend(float& w, float& h, float g, float rate, float eps) {
    h = fmaf(g, g, h);
    w -= rate * g / (sqrtf(h) + eps);
}

__device__ inline void descend(float4& w, float4& h, float4 g, float rate, float eps) {
    descend(w.x, h.x, g.x, rate, eps);
    descend(w.y, h.y, g.y, rate, eps);
    descend(w.z, h.z, g.z, rate, eps);
    descend(w.w, h.w, g.w, rate, eps);
}

__device__ inline float add_squares(float sum, float g) {
    return fmaf(g, g, sum);
}

__device__ inline float add_squares(float sum, float4 g) {
    return fmaf(g.w, g.w, fmaf(g.z, g.z, fmaf(g.y, g.y, fmaf(g.x, g.x, sum))));
}

// The sum of g**2 over D, on every lane of the group: each lane's in order, then lanes in a fixed tree.
__device__ inline float sum_of_squares(const Vector& g) {
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < LANE_PARTS; ++p) sum = add_squares(sum, g.part[p]);
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(group_mask(), sum, distance);
    return sum;
}

// The optimizer's step on the record of unique row u, which is read and written once.
template <class AnyPlace>
struct Descend {
    typedef AnyPlace Place;
    struct Loaded {
        Vector w;
#if defined(ADAGRAD)
        Vector h;
#elif defined(ROWWISE_ADAGRAD)
        float h;
#endif
    };
    float* __restrict__ records;
    int width;
    const Place* __restrict__ places;
    float rate, eps;

    __device__ inline Place place(int64 u) const {
        return places[u];
    }

    __device__ inline Loaded load(Place place) const {
        const float* record = records + (int64)place * width;
        Loaded loaded;
        loaded.w = load_vector(record);
#if defined(ADAGRAD)
        loaded.h = load_vector(record + DIMENSION);
#elif defined(ROWWISE_ADAGRAD)
        // One lane reads it and writes it: the others must not see what is written.
        loaded.h = lane_of_group() == 0 ? record[DIMENSION] : 0.0f;
#endif
        return loaded;
    }

    __device__ inline void apply(Place place, Loaded loaded, const Vector& g) const {
        float* record = records + (int64)place * width;
#if defined(SGD)
#pragma unroll
        for (int p = 0; p < LANE_PARTS; ++p) descend(loaded.w.part[p], g.part[p], rate);
#elif defined(ADAGRAD)
#pragma unroll
        for (int p = 0; p < LANE_PARTS; ++p) descend(loaded.w.part[p], loaded.h.part[p], g.part[p], rate, eps);
        store_vector(record + DIMENSION, loaded.h);
#elif defined(ROWWISE_ADAGRAD)
        const float h = __shfl_sync(group_mask(), loaded.h, 0, LANES) + sum_of_squares(g) / (float)DIMENSION;
        if (lane_of_group() == 0) record[DIMENSION] = h;
        const float row_rate = rate / (sqrtf(h) + eps);
#pragma unroll
        for (int p = 0; p < LANE_PARTS; ++p) descend(loaded.w.part[p], g.part[p], row_rate);
#else
#error "define SGD, ADAGRAD or ROWWISE_ADAGRAD"
#endif
        store_vector(record, loaded.w);
    }
};

// Three kernels, in this order: rows whose segments are not long, chunks of the long ones, rows whose segments are
// long. See segments.cuh.
//
// dY: (B, F, D); offsets: (F*B + 1,), read where MEAN alone; records: (rows or slots, width), a record is D weights,
// the state and padding, width a multiple of 4; modified at the places of the plan, padding excepted; places: (U,) at
// least, which differ from each other; partial_sums: (most_chunks(N), D), overwritten. eps: not read by SGD.
// The others as in GpuCoalescePlan.
// Together they move 2 * U * 4 * (D + state) bytes of records, N * 4 D of dY, which the cache mostly holds, N * 4 and
// U * (8 + bytes of a place) of the plan and, where segments are long, the sums of their chunks twice.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT_AHEAD) update_short_at_rows(
    const float* __restrict__ dY, const int64* __restrict__ offsets, const int* __restrict__ segment_bags, int samples,
    int features, const int64* __restrict__ segment_offsets, const int* __restrict__ unique_count,
    float* __restrict__ records, int width, const int64* __restrict__ places, float rate, float eps) {
    const LookupGradients gradients = {dY, offsets, segment_bags, samples, features};
    each_short_segment(gradients, segment_offsets, unique_count, Descend<int64>{records, width, places, rate, eps});
}

extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT_AHEAD) update_short_at_slots(
    const float* __restrict__ dY, const int64* __restrict__ offsets, const int* __restrict__ segment_bags, int samples,
    int features, const int64* __restrict__ segment_offsets, const int* __restrict__ unique_count,
    float* __restrict__ records, int width, const int* __restrict__ places, float rate, float eps) {
    const LookupGradients gradients = {dY, offsets, segment_bags, samples, features};
    each_short_segment(gradients, segment_offsets, unique_count, Descend<int>{records, width, places, rate, eps});
}

extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) sum_chunks(
    const float* __restrict__ dY, const int64* __restrict__ offsets, const int* __restrict__ segment_bags, int samples,
    int features, const int64* __restrict__ segment_offsets, const int* __restrict__ long_segments,
    const int* __restrict__ long_offsets, const int* __restrict__ long_counts, float* __restrict__ partial_sums) {
    const LookupGradients gradients = {dY, offsets, segment_bags, samples, features};
    sum_each_chunk(gradients, segment_offsets, long_segments, long_offsets, long_counts, partial_sums);
}

extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) update_long_at_rows(
    const float* __restrict__ partial_sums, const int* __restrict__ long_segments,
    const int* __restrict__ long_offsets, const int* __restrict__ long_counts, float* __restrict__ records, int width,
    const int64* __restrict__ places, float rate, float eps) {
    each_long_segment(
        PartialSums{partial_sums}, long_segments, long_offsets, long_counts,
        Descend<int64>{records, width, places, rate, eps});
}

extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) update_long_at_slots(
    const float* __restrict__ partial_sums, const int* __restrict__ long_segments,
    const int* __restrict__ long_offsets, const int* __restrict__ long_counts, float* __restrict__ records, int width,
    const int* __restrict__ places, float rate, float eps) {
    each_long_segment(
        PartialSums{partial_sums}, long_segments, long_offsets, long_counts,
        Descend<int>{records, width, places, rate, eps});
}
