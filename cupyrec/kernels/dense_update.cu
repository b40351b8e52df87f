// One optimizer step on dense parameters.
//
// Products that are added to something are written as fmaf: every compiler gives the same bits.

#include "common.cuh"

struct SgdStep {
    float learning_rate;

    // h is not there.
    __device__ __forceinline__ void operator()(float& w, float g, float&) const { w = fmaf(-learning_rate, g, w); }
};

struct AdagradStep {
    float learning_rate, eps;

    __device__ __forceinline__ void operator()(float& w, float g, float& h) const {
        h = fmaf(g, g, h);
        w -= learning_rate * g / (sqrtf(h) + eps);
    }
};

// step on each of the parameters 0 .. size-1; h may be null. A thread takes four neighbours at once where all arrays
// allow 128-bit accesses, and one at a time what then is left, grid-stride.
template <typename Step>
__device__ __forceinline__ void update(Step step, float* w, const float* g, float* h, int64 size) {
    const int64 stride = (int64)gridDim.x * blockDim.x;
    const int64 thread = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    const int64 fours = is_aligned16(w) && is_aligned16(g) && is_aligned16(h) ? size / 4 : 0;
    for (int64 p = thread; p < fours; p += stride) {
        float4 w4 = ((const float4*)w)[p], h4 = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        const float4 g4 = ((const float4*)g)[p];
        if (h) h4 = ((const float4*)h)[p];
        step(w4.x, g4.x, h4.x);
        step(w4.y, g4.y, h4.y);
        step(w4.z, g4.z, h4.z);
        step(w4.w, g4.w, h4.w);
        if (h) ((float4*)h)[p] = h4;
        ((float4*)w)[p] = w4;
    }
    for (int64 p = 4 * fours + thread; p < size; p += stride) {
        float w1 = w[p], h1 = h ? h[p] : 0.0f;
        step(w1, g[p], h1);
        if (h) h[p] = h1;
        w[p] = w1;
    }
}

// w -= learning_rate * g.
//
// w, g: (size,) float32; w is modified. Any grid and block of one dimension. Moves 12 bytes a parameter.
extern "C" __global__ void dense_sgd(
    float* __restrict__ w, const float* __restrict__ g, int64 size, float learning_rate) {
    update(SgdStep{learning_rate}, w, g, nullptr, size);
}

// h += g^2;  w -= learning_rate * g / (sqrt(h) + eps): root and quotient are rounded correctly, as on the CPU.
//
// w, g, h: (size,) float32; w and h are modified. Any grid and block of one dimension. Moves 20 bytes a parameter.
extern "C" __global__ void dense_adagrad(
    float* __restrict__ w, const float* __restrict__ g, float* __restrict__ h, int64 size, float learning_rate,
    float eps) {
    update(AdagradStep{learning_rate, eps}, w, g, h, size);
}
