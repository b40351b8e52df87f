// Pooled vectors of which a part was summed elsewhere.
//
// DIMENSION: D; MEAN: 1 where bags are averaged, else 0.
// compiled with: DIMENSION=3,128 MEAN=0,1

#include "row_parts.cuh"

// Y[b, f] += other_Y[b, f]; then divided by the length of bag f*B + b where MEAN and that is above 0.
//
// Y, other_Y: (B, F, D) float32, Y is modified; offsets: (F*B + 1,), read where MEAN alone. B = samples, F = features.
// One thread a part of a vector, grid-stride. Moves 12 B F D bytes.
extern "C" __global__ void __launch_bounds__(BLOCK) join_pooled(
    float* __restrict__ Y, const float* __restrict__ other_Y, const int64* __restrict__ offsets, int samples,
    int features) {
    const int64 parts = (int64)samples * features * PARTS, stride = (int64)gridDim.x * BLOCK;
    for (int64 at = (int64)blockIdx.x * BLOCK + threadIdx.x; at < parts; at += stride) {
        Part sum = ((const Part*)Y)[at];
        add(sum, ((const Part*)other_Y)[at]);
        if (MEAN) {
            const int vector = (int)(at / PARTS), b = vector / features, f = vector - b * features;
            const int64 bag = (int64)f * samples + b, length = offsets[bag + 1] - offsets[bag];
            if (length > 1) divide(sum, (float)length);
        }
        ((Part*)Y)[at] = sum;
    }
}
