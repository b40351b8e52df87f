// The gradient of each unique row: the sum of dY over the lookups of its segment, in an order that their number fixes.
//
// A segment of at most LONG_SEGMENT lookups is summed in lookup order by one group of lanes. A longer one is cut into
// chunks of so many, each summed by a group into partial_sums; then one block adds the chunks' sums: each group a
// contiguous run of them, in order, and the groups' sums in order. So a hot row keeps many groups busy, not one, no
// sum depends on timing, and no atomics are used.
//
// What is done with a gradient is a Step; all lanes of one group call it:
//     Place place(int64 u)                               where unique row u is; read ahead
//     Loaded load(Place place)                           what the step needs; read while the gradient is summed
//     void apply(Place place, Loaded loaded, Vector g)
//
// DIMENSION, MEAN, LONG_SEGMENT. Shapes as in cupyrec.batch.GpuCoalescePlan.

#pragma once

#include "row_parts.cuh"

// Blocks that a multiprocessor is to hold at once: as many as leave a lane the registers for its parts in flight.
constexpr int RESIDENT = LANE_FLOATS <= 4 ? (MEAN ? 4 : 5) : LANE_FLOATS <= 8 ? 3 : 2;
// Whether records are read a row ahead, and how many blocks of those that do it a multiprocessor is to hold.
constexpr bool RECORDS_AHEAD = LANE_FLOATS <= 4 && !MEAN;
constexpr int RESIDENT_AHEAD = RECORDS_AHEAD ? 4 : RESIDENT;

// Which vector of dY a lookup takes its gradient from, and the length of its bag.
struct BagKey {
    int vector;
#if MEAN
    float length;
#endif
};

__device__ inline BagKey key_of_lane(unsigned mask, BagKey key, int lane) {
    key.vector = __shfl_sync(mask, key.vector, lane, LANES);
#if MEAN
    key.length = __shfl_sync(mask, key.length, lane, LANES);
#endif
    return key;
}

// The gradients of the lookups in segment order. dY: (B, F, D); offsets: (F*B + 1,), read where MEAN alone;
// segment_bags: (N,), f*B + b.
struct LookupGradients {
    typedef BagKey Key;
    const float* __restrict__ dY;
    const int64* __restrict__ offsets;
    const int* __restrict__ segment_bags;
    int samples, features;

    __device__ inline Key key(unsigned at) const {
        return key_of_bag(segment_bags[at]);
    }

    __device__ inline Key key_of_bag(int bag) const {
        const int f = bag / samples, b = bag - f * samples;
        Key key;
        key.vector = b * features + f;
#if MEAN
        key.length = (float)(offsets[bag + 1] - offsets[bag]);
#endif
        return key;
    }

    __device__ inline Vector load(Key key) const {
        return load_vector(dY + (int64)key.vector * DIMENSION);
    }

    __device__ inline void add(Vector& sum, Vector vector, Key key) const {
#if MEAN
        divide_vector(vector, key.length);
#endif
        add_vector(sum, vector);
    }
};

// The sums of chunks, (chunks, D).
struct PartialSums {
    typedef int Key;
    const float* __restrict__ sums;

    __device__ inline Key key(unsigned at) const {
        return (int)at;
    }

    __device__ inline Vector load(Key key) const {
        return load_vector(sums + (int64)key * DIMENSION);
    }

    __device__ inline void add(Vector& sum, const Vector& vector, Key) const {
        add_vector(sum, vector);
    }
};

// A segment: its lookups, and where its row is.
template <class Step>
struct Segment {
    unsigned first, last;
    typename Step::Place place;

    __device__ inline void read(const int64* __restrict__ segment_offsets, const Step& step, int64 u) {
        first = segment_offsets[u];
        last = segment_offsets[u + 1];
        place = step.place(u);
    }
};

// What is read ahead of a segment that is next: what the step needs, and the bag of the calling lane's lookup.
template <class Step>
struct ReadAhead {
    typename Step::Loaded loaded;
    int bag;

    __device__ inline void read(const LookupGradients& gradients, const Step& step, const Segment<Step>& segment) {
        loaded = step.load(segment.place);
        const unsigned at = segment.first + lane_of_group();
        bag = at < segment.last ? gradients.segment_bags[at] : 0;
    }
};

// Every segment that is not long, one group each; groups stride over them.
//
// Where registers allow, three rows are under way: of one the segment is being read, of the one before the record and
// the bags, and the one before that is done. So a row waits for memory about once, where it would three times.
template <class Step>
__device__ inline void each_short_segment(
    const LookupGradients& gradients, const int64* __restrict__ segment_offsets, const int* __restrict__ unique_count,
    const Step& step) {
    const int64 unique = *unique_count, stride = groups_of_grid();
    Segment<Step> segment = {}, next = {}, after = {};
    ReadAhead<Step> ahead = {}, next_ahead = {};
    int64 u = group_of_grid();
    if (u < unique) next.read(segment_offsets, step, u);
    if (RECORDS_AHEAD) {
        if (u < unique) next_ahead.read(gradients, step, next);
        if (u + stride < unique) after.read(segment_offsets, step, u + stride);
    }
    while (u < unique) {
        segment = next;
        u += stride;
        if (RECORDS_AHEAD) {
            ahead = next_ahead, next = after;
            if (u < unique) next_ahead.read(gradients, step, next);
            if (u + stride < unique) after.read(segment_offsets, step, u + stride);
        } else {
            if (u < unique) next.read(segment_offsets, step, u);
            ahead.read(gradients, step, segment);
        }
        if (segment.last - segment.first <= LONG_SEGMENT) {
            const BagKey head = gradients.key_of_bag(ahead.bag);
            step.apply(segment.place, ahead.loaded, sum_in_order(gradients, segment.first, segment.last, head));
        }
    }
}

// partial_sums[c] = the sum of chunk c, one group each; groups stride over them.
__device__ inline void sum_each_chunk(
    const LookupGradients& gradients, const int64* __restrict__ segment_offsets, const int* __restrict__ long_segments,
    const int* __restrict__ long_offsets, const int* __restrict__ long_counts, float* __restrict__ partial_sums) {
    const int long_count = long_counts[0];
    const int64 chunks = long_counts[1];
    for (int64 chunk = group_of_grid(); chunk < chunks; chunk += groups_of_grid()) {
        // long_offsets[i] <= chunk < long_offsets[beyond], until these are neighbours.
        int i = 0, beyond = long_count;
        while (beyond - i > 1) {
            const int middle = i + (beyond - i) / 2;
            if (long_offsets[middle] <= chunk)
                i = middle;
            else
                beyond = middle;
        }
        const int64 u = long_segments[i];
        const unsigned first = segment_offsets[u] + (chunk - long_offsets[i]) * LONG_SEGMENT;
        const unsigned last = min(first + LONG_SEGMENT, (unsigned)segment_offsets[u + 1]);
        store_vector(partial_sums + chunk * DIMENSION, sum_in_order(gradients, first, last));
    }
}

// The sum of the chunks' sums begin .. begin + chunks - 1, by a whole block; its first group gets it.
__device__ inline Vector sum_of_chunks(const PartialSums& partial_sums, int begin, int chunks) {
    __shared__ Part sums[LANE_PARTS][BLOCK];
    const int group = threadIdx.x / LANES, run = (chunks + GROUPS - 1) / GROUPS;
    const int first = min(group * run, chunks), last = min(first + run, chunks);
    Vector g = sum_in_order(partial_sums, begin + first, begin + last);
    __syncthreads();  // what the block has summed before has been read
#pragma unroll
    for (int p = 0; p < LANE_PARTS; ++p) sums[p][threadIdx.x] = g.part[p];
    __syncthreads();
    if (group == 0) {
        for (int other = 1; other * run < chunks; ++other) {
#pragma unroll
            for (int p = 0; p < LANE_PARTS; ++p) add(g.part[p], sums[p][other * LANES + threadIdx.x]);
        }
    }
    return g;
}

// Every long segment from the sums of its chunks, one block each; blocks stride over them.
template <class Step>
__device__ inline void each_long_segment(
    const PartialSums& partial_sums, const int* __restrict__ long_segments, const int* __restrict__ long_offsets,
    const int* __restrict__ long_counts, const Step& step) {
    const int long_count = long_counts[0];
    for (int i = blockIdx.x; i < long_count; i += gridDim.x) {
        const int begin = long_offsets[i], chunks = long_offsets[i + 1] - begin;
        const Vector g = sum_of_chunks(partial_sums, begin, chunks);
        if (threadIdx.x < LANES) {
            const typename Step::Place place = step.place(long_segments[i]);
            step.apply(place, step.load(place), g);
        }
    }
}
