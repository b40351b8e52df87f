// The gradients of the biases of several layers: sums of partial sums.
//
// SUM_BLOCK: rows that are brought to shared memory at once. COLUMNS, ROW_THREADS: the block.
//
// compiled with: SUM_BLOCK=64 COLUMNS=32 ROW_THREADS=8

#if !defined(SUM_BLOCK) || !defined(COLUMNS) || !defined(ROW_THREADS)
#error "SUM_BLOCK, COLUMNS and ROW_THREADS must be defined"
#endif

#include "common.cuh"

// db[o] = sum over k of partial_sums[k, o], in ascending order, for each column o of each layer.
//
// layers: (layer_count, 4) int64, a row for each layer: its first block of this grid, its width, where its partial sums
// begin in partial_sums, (blocks, width) float32, and where its biases begin in gradients; the first blocks ascend from
// 0. gradients: float32, where db is overwritten and nothing else. Block: (COLUMNS, ROW_THREADS); grid: ceil(width /
// COLUMNS) blocks for each layer, layer after layer. A block takes COLUMNS columns of a layer, which it brings to shared
// memory SUM_BLOCK rows at a time; its first warp adds them up, one lane a column.
// Moves 4 bytes for each partial sum.
extern "C" __global__ void __launch_bounds__(COLUMNS * ROW_THREADS) add_partial_sums(
    const float* __restrict__ partial_sums, int64 blocks, const int64* __restrict__ layers, int layer_count,
    float* __restrict__ gradients) {
    __shared__ float tile[SUM_BLOCK][COLUMNS];
    int layer = 0;
    while (layer + 1 < layer_count && layers[4 * (layer + 1)] <= (int64)blockIdx.x) ++layer;
    const int64* of_layer = layers + 4 * layer;
    const int64 width = of_layer[1];
    const float* sums = partial_sums + of_layer[2];
    const int64 o = ((int64)blockIdx.x - of_layer[0]) * COLUMNS + threadIdx.x;
    float sum = 0.0f;
    for (int64 first = 0; first < blocks; first += SUM_BLOCK) {
        const int rows = (int)min((int64)SUM_BLOCK, blocks - first);
        if (o < width) {
#pragma unroll
            for (int k = 0; k < SUM_BLOCK / ROW_THREADS; ++k) {
                const int r = k * ROW_THREADS + threadIdx.y;
                if (r < rows) tile[r][threadIdx.x] = sums[(first + r) * width + o];
            }
        }
        __syncthreads();
        if (threadIdx.y == 0) {
#pragma unroll 8
            for (int r = 0; r < rows; ++r) sum += tile[r][threadIdx.x];
        }
        // The tile is filled again when its sum has been taken.
        __syncthreads();
    }
    if (threadIdx.y == 0 && o < width) gradients[of_layer[3] + o] = sum;
}
