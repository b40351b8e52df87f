// Bias and activation, forward and backward.
//
// RELU: 1 for max(x, 0), 0 for none. ROWS_A_THREAD: of the forward pass. SUM_BLOCK: samples that are summed as one.
// COLUMNS, ROW_THREADS: the block of the backward pass.
//
// compiled with: RELU=0,1 ROWS_A_THREAD=4 SUM_BLOCK=64 COLUMNS=32 ROW_THREADS=8

#if !defined(RELU) || !defined(ROWS_A_THREAD) || !defined(SUM_BLOCK) || !defined(COLUMNS) || !defined(ROW_THREADS)
#error "RELU, ROWS_A_THREAD, SUM_BLOCK, COLUMNS and ROW_THREADS must be defined"
#endif

#include "common.cuh"

__device__ __forceinline__ float activated(float y, float bias) {
    y += bias;
    // Not fmaxf: a NaN must reach the loss, where it is reported.
    return RELU && y < 0.0f ? 0.0f : y;
}

__device__ __forceinline__ float4 activated(float4 y, float4 bias) {
    return make_float4(
        activated(y.x, bias.x), activated(y.y, bias.y), activated(y.z, bias.z), activated(y.w, bias.w));
}

// Y: (samples, columns), b: (columns,), of float or float4. A thread takes one column, or some far apart, and
// ROWS_A_THREAD rows at once, all loaded before the first is stored.
template <typename Element>
__device__ __forceinline__ void add_bias(Element* Y, const Element* b, int64 samples, int columns) {
    const int64 rows_a_grid = (int64)gridDim.y * blockDim.y * ROWS_A_THREAD;
    const int64 first_row = (int64)blockIdx.y * blockDim.y * ROWS_A_THREAD + threadIdx.y;
    for (int o = blockIdx.x * blockDim.x + threadIdx.x; o < columns; o += gridDim.x * blockDim.x) {
        const Element bias = b[o];
        for (int64 first = first_row; first < samples; first += rows_a_grid) {
            Element y[ROWS_A_THREAD];
#pragma unroll
            for (int r = 0; r < ROWS_A_THREAD; ++r) {
                const int64 s = first + r * (int)blockDim.y;
                if (s < samples) y[r] = Y[s * columns + o];
            }
#pragma unroll
            for (int r = 0; r < ROWS_A_THREAD; ++r) {
                const int64 s = first + r * (int)blockDim.y;
                if (s < samples) Y[s * columns + o] = activated(y[r], bias);
            }
        }
    }
}

// Y[s, o] = max(Y[s, o] + b[o], 0), or Y[s, o] + b[o] where RELU is 0.
//
// Y: (samples, width) float32, modified; b: (width,) float32. Any grid and block of two dimensions: x is for columns,
// four a thread where the width and both arrays allow 128-bit accesses, y for samples.
// Moves 8 bytes an element: Y is read and written once.
extern "C" __global__ void bias_activation_forward(
    float* __restrict__ Y, const float* __restrict__ b, int64 samples, int width) {
    if (width % 4 == 0 && is_aligned16(Y) && is_aligned16(b)) {
        add_bias((float4*)Y, (const float4*)b, samples, width / 4);
    } else {
        add_bias(Y, b, samples, width);
    }
}

// dY[s, o] = 0 where RELU and Y[s, o] <= 0;  partial_sums[k, o] = sum of dY[s, o] over the samples s of block k, which
// are k SUM_BLOCK .. (k + 1) SUM_BLOCK - 1, in ascending order.
//
// dY, Y: (samples, width) float32; dY is modified where RELU, and Y read only there; partial_sums:
// (ceil(samples / SUM_BLOCK), width) float32, overwritten. Block: (COLUMNS, ROW_THREADS). Grid: ceil(width / COLUMNS) x
// ceil(samples / SUM_BLOCK) blocks, columns fastest; each has one tile of SUM_BLOCK samples by COLUMNS. All its threads
// bring the tile to shared memory, with many loads in flight; then the first warp adds it up, one lane a column.
// Moves 12 bytes an element (4 where RELU is 0), and 4 / SUM_BLOCK for the sums.
extern "C" __global__ void __launch_bounds__(COLUMNS * ROW_THREADS) bias_activation_backward(
    float* __restrict__ dY, const float* __restrict__ Y, float* __restrict__ partial_sums, int64 samples, int width) {
    __shared__ float tile[SUM_BLOCK][COLUMNS];
    const int column_tiles = (width + COLUMNS - 1) / COLUMNS;
    const int64 sum_block = blockIdx.x / column_tiles;
    const int o = (int)(blockIdx.x % column_tiles) * COLUMNS + threadIdx.x;
    const int64 first = sum_block * SUM_BLOCK;
    const int rows = (int)min((int64)SUM_BLOCK, samples - first);
    if (o < width) {
        float d[SUM_BLOCK / ROW_THREADS];
#pragma unroll
        for (int k = 0; k < SUM_BLOCK / ROW_THREADS; ++k) {
            const int r = k * ROW_THREADS + threadIdx.y;
            if (r < rows) {
                d[k] = dY[(first + r) * width + o];
                if (RELU && Y[(first + r) * width + o] <= 0.0f) d[k] = 0.0f;
            }
        }
#pragma unroll
        for (int k = 0; k < SUM_BLOCK / ROW_THREADS; ++k) {
            const int r = k * ROW_THREADS + threadIdx.y;
            if (r < rows) {
                if (RELU) dY[(first + r) * width + o] = d[k];
                tile[r][threadIdx.x] = d[k];
            }
        }
    }
    __syncthreads();
    if (threadIdx.y == 0 && o < width) {
        float sum = 0.0f;
#pragma unroll 8
        for (int r = 0; r < rows; ++r) sum += tile[r][threadIdx.x];
        partial_sums[sum_block * width + o] = sum;
    }
}
