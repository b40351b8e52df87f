// Embedding bags: the rows of each bag pooled into one vector, for all tables in one launch, and the gradient.
//
// DIMENSION: D; MEAN: 1 where bags are averaged, else 0; LONG_SEGMENT: as in cupyrec.batch. D % 4 == 0 is fast.
// compiled with: DIMENSION=128,3,200,1024 MEAN=0,1,0,1 LONG_SEGMENT=64

#include "segments.cuh"

// The records of the lookups in order. records: (places, width), the first D columns are weights; places: (N,).
template <class Place>
struct LookedUp {
    typedef Place Key;
    const float* __restrict__ records;
    int width;
    const Place* __restrict__ places;

    __device__ inline Key key(unsigned at) const {
        return places[at];
    }

    __device__ inline Vector load(Key key) const {
        return load_vector(records + (int64)key * width);
    }

    __device__ inline void add(Vector& sum, const Vector& vector, Key) const {
        add_vector(sum, vector);
    }
};

template <class Place>
__device__ inline void pool(
    const LookedUp<Place>& lookups, const int64* __restrict__ offsets, float* __restrict__ Y, int samples,
    int features) {
    const int64 bags = (int64)samples * features;
    for (int64 bag = group_of_grid(); bag < bags; bag += groups_of_grid()) {
        const unsigned first = offsets[bag], last = offsets[bag + 1];
        const int f = (int)bag / samples, b = (int)bag - f * samples;
        Vector sum = sum_in_order(lookups, first, last);
        if (MEAN && last - first > 1) divide_vector(sum, (float)(last - first));
        store_vector(Y + ((int64)b * features + f) * DIMENSION, sum);
    }
}

// Y[b, f] = the sum of records[places[l], :D] over the lookups l of bag f*B + b, in order; divided by their number
// where MEAN; 0 for an empty bag.
//
// records: (places, width) float32, width a multiple of 4; places: (N,), rows or slots; offsets: (F*B + 1,);
// Y: (B, F, D), overwritten. B = samples, F = features. A group of lanes a bag; groups stride over bags.
// Moves N * (4 D + bytes of a place) + 4 B F D + 8 B F bytes.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) embedding_bag_of_rows(
    const float* __restrict__ records, int width, const int64* __restrict__ places, const int64* __restrict__ offsets,
    float* __restrict__ Y, int samples, int features) {
    pool(LookedUp<int64>{records, width, places}, offsets, Y, samples, features);
}

extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) embedding_bag_of_slots(
    const float* __restrict__ records, int width, const int* __restrict__ places, const int64* __restrict__ offsets,
    float* __restrict__ Y, int samples, int features) {
    pool(LookedUp<int>{records, width, places}, offsets, Y, samples, features);
}

// Keeps the gradient of unique row u as dW[u].
struct Keep {
    typedef int64 Place;
    struct Loaded {};
    float* __restrict__ dW;

    __device__ inline Place place(int64 u) const {
        return u;
    }

    __device__ inline Loaded load(Place) const {
        return Loaded();
    }

    __device__ inline void apply(Place place, Loaded, const Vector& g) const {
        store_vector(dW + place * DIMENSION, g);
    }
};

// dW[u] = the sum of dY[bag(l)] over the lookups l of unique row u; each divided by the length of its bag where MEAN.
// Three kernels, in this order: segments that are not long, chunks of the long ones, long ones. See segments.cuh.
//
// dY: (B, F, D); offsets: (F*B + 1,); dW: (N, D), the first U rows are overwritten; partial_sums: (most_chunks(N), D),
// overwritten. The others as in GpuCoalescePlan. Together they move N * (4 D + 4) + U * (4 D + 8) bytes and, where
// segments are long, the sums of their chunks twice.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT_AHEAD) gradient_of_short(
    const float* __restrict__ dY, const int64* __restrict__ offsets, const int* __restrict__ segment_bags, int samples,
    int features, const int64* __restrict__ segment_offsets, const int* __restrict__ unique_count,
    float* __restrict__ dW) {
    const LookupGradients gradients = {dY, offsets, segment_bags, samples, features};
    each_short_segment(gradients, segment_offsets, unique_count, Keep{dW});
}

extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) gradient_of_chunks(
    const float* __restrict__ dY, const int64* __restrict__ offsets, const int* __restrict__ segment_bags, int samples,
    int features, const int64* __restrict__ segment_offsets, const int* __restrict__ long_segments,
    const int* __restrict__ long_offsets, const int* __restrict__ long_counts, float* __restrict__ partial_sums) {
    const LookupGradients gradients = {dY, offsets, segment_bags, samples, features};
    sum_each_chunk(gradients, segment_offsets, long_segments, long_offsets, long_counts, partial_sums);
}

extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) gradient_of_long(
    const float* __restrict__ partial_sums, const int* __restrict__ long_segments,
    const int* __restrict__ long_offsets, const int* __restrict__ long_counts, float* __restrict__ dW) {
    each_long_segment(PartialSums{partial_sums}, long_segments, long_offsets, long_counts, Keep{dW});
}
