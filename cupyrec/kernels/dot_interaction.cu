// Dot interaction, forward and backward: the inner products of all pairs of Z = (X, Y[0], ..., Y[FEATURES-1]).
//
// FEATURES: F. DIMENSION: D. SELF_INTERACTION: 1 where a vector meets itself too, else 0. R has D columns, then one for
// each pair (i, j), j < i (j <= i), row by row. X, Y, dX, dY must be 16-byte aligned where D is a multiple of 4.
// ROWS, SAMPLES: what a block of the backward pass makes, see there.
//
// Products that are added to something are written as fmaf: every compiler gives the same bits.
//
// The vectors are not staged in shared memory: a sample's are read once from memory, and then some more times from the
// L1 cache, which is as fast.
//
// compiled with: FEATURES=8,26,26,1 DIMENSION=128,128,16,3 SELF_INTERACTION=0,0,1,0 ROWS=12,28,28,4 SAMPLES=2,1,9,85

#if !defined(FEATURES) || !defined(DIMENSION) || !defined(SELF_INTERACTION) || !defined(ROWS) || !defined(SAMPLES)
#error "FEATURES, DIMENSION, SELF_INTERACTION, ROWS and SAMPLES must be defined"
#endif

#include "common.cuh"

#define VECTORS (FEATURES + 1)
#define TILE 4
#define TILE_ROWS ((VECTORS + TILE - 1) / TILE)
#define WIDTH (DIMENSION + FIRST_PAIR(VECTORS))
// How many pairs come before the first one of vector i.
#define FIRST_PAIR(i) ((i) * ((i) - 1 + 2 * SELF_INTERACTION) / 2)

// What one thread loads of a vector at once, and how many such make it up.
#if DIMENSION % 4 == 0
typedef float4 Part;
#define PARTS (DIMENSION / 4)
#else
typedef float Part;
#define PARTS DIMENSION
#endif

__device__ __forceinline__ float add_product(float sum, float a, float b) { return fmaf(a, b, sum); }

__device__ __forceinline__ float add_product(float sum, float4 a, float4 b) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

__device__ __forceinline__ void add_scaled(float& sum, float c, float z) { sum = fmaf(c, z, sum); }

__device__ __forceinline__ void add_scaled(float4& sum, float c, float4 z) {
    sum = make_float4(fmaf(c, z.x, sum.x), fmaf(c, z.y, sum.y), fmaf(c, z.z, sum.z), fmaf(c, z.w, sum.w));
}

__device__ __forceinline__ float zero(float) { return 0.0f; }

__device__ __forceinline__ float4 zero(float4) { return make_float4(0.0f, 0.0f, 0.0f, 0.0f); }

__device__ __forceinline__ float plus_loaded(float sum, const float* from) { return sum + from[0]; }

__device__ __forceinline__ float4 plus_loaded(float4 sum, const float* from) {
    return make_float4(sum.x + from[0], sum.y + from[1], sum.z + from[2], sum.w + from[3]);
}

// Vector i of sample s.
__device__ __forceinline__ const Part* vector_of(const float* X, const float* Y, int64 s, int i) {
    return (const Part*)(i == 0 ? X + s * DIMENSION : Y + (s * FEATURES + i - 1) * DIMENSION);
}

#define LANES 8
#define TILES (TILE_ROWS * (TILE_ROWS + 1) / 2)
#define PRODUCTS (TILE * TILE)
#define LAST_START (VECTORS > TILE ? VECTORS - TILE : 0)

// Of 2 KEPT sums, a lane and the one `distance` from it add up half each: the lower lane sums[0 .. KEPT-1].
template <int KEPT>
__device__ __forceinline__ void keep_half(float* sums, int lane, int distance) {
    const bool is_upper = (lane & distance) != 0;
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
        const float given = is_upper ? sums[k] : sums[k + KEPT];
        const float own = is_upper ? sums[k + KEPT] : sums[k];
        sums[k] = own + __shfl_xor_sync(ALL_LANES, given, distance);
    }
}

// R[s] = concat(X[s], the products Z[i] . Z[j]).
//
// X: (samples, D), Y: (samples, F, D), R: (samples, WIDTH), float32; R is overwritten. Eight lanes for each tile of 4
// by 4 products of each sample, in a grid of one dimension with at least as many threads, and whole warps in a block.
// A lane adds up every eighth float4 of the vectors; the lanes' sums are then added in a tree: 0 with 4, 1 with 5,
// ..., then 0 with 2, and so on, in which each lane keeps half of its products, so that at the end each has two.
// Moves 4 (F D + D + WIDTH) bytes a sample; the L1 cache gives 8 vectors for each tile.
extern "C" __global__ void __launch_bounds__(256, 3) dot_interaction_forward(
    const float* __restrict__ X, const float* __restrict__ Y, float* __restrict__ R, int64 samples) {
    const int64 thread = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    const int64 item = thread / LANES;
    // Threads beyond the last item do some of the last sample's once more, because whole warps exchange their sums.
    const int64 s = min(item / TILES, samples - 1);
    const int lane = (int)(thread % LANES), tile = (int)(item % TILES);
    // All lanes of the sample copy X.
    for (int d = tile * LANES + lane; d < DIMENSION; d += TILES * LANES) {
        R[s * WIDTH + d] = X[s * DIMENSION + d];
    }

    int row = 0, column = tile;
    while (column > row) column -= ++row;

    // The last tile begins early enough to be full; what the one before has too is not stored again.
    const int first_i = min(TILE * row, LAST_START), first_j = min(TILE * column, LAST_START);
    const Part* const row_zero = vector_of(X, Y, s, first_i);
    const Part* const column_zero = vector_of(X, Y, s, first_j);
    // Those of the vectors first_i + 1 and first_j + 1, which are of Y.
    const Part* const row_others = (const Part*)(Y + (s * FEATURES + first_i) * DIMENSION);
    const Part* const column_others = (const Part*)(Y + (s * FEATURES + first_j) * DIMENSION);
    float sums[PRODUCTS];
#pragma unroll
    for (int k = 0; k < PRODUCTS; ++k) sums[k] = 0.0f;
    for (int p = lane; p < PARTS; p += LANES) {
        Part a[TILE], b[TILE];
#pragma unroll
        for (int k = 0; k < TILE; ++k) {
            // With fewer vectors than make a tile the last one is repeated.
            const int other = min(k, VECTORS - 1) - 1;
            a[k] = other < 0 ? row_zero[p] : row_others[other * PARTS + p];
            b[k] = other < 0 ? column_zero[p] : column_others[other * PARTS + p];
        }
#pragma unroll
        for (int k = 0; k < PRODUCTS; ++k) sums[k] = add_product(sums[k], a[k / TILE], b[k % TILE]);
    }
    keep_half<PRODUCTS / 2>(sums, lane, 4);
    keep_half<PRODUCTS / 4>(sums, lane, 2);
    keep_half<PRODUCTS / 8>(sums, lane, 1);
    const int per_lane = PRODUCTS / LANES;
#pragma unroll
    for (int k = 0; k < per_lane; ++k) {
        const int product = per_lane * lane + k;
        const int i = first_i + product / TILE, j = first_j + product % TILE;
        if (i >= TILE * row && i < VECTORS && j >= TILE * column && j < i + SELF_INTERACTION) {
            R[s * WIDTH + DIMENSION + FIRST_PAIR(i) + j] = sums[k];
        }
    }
}

// S is stored in rows of an odd number of float4: reading a column of it hits different banks.
#define STRIDE (ROWS % 8 == 0 ? ROWS + 4 : ROWS)
#define ITEMS (SAMPLES * (ROWS / TILE) * PARTS)

// dZ[i] = sum over j of S[i, j] Z[j], in ascending order, with S symmetric from the pairs' dR and twice theirs on the
// diagonal;  dX = dR[:, :D] + dZ[0], dY[f] = dZ[f + 1].
//
// dR: (samples, WIDTH), X, dX: (samples, D), Y, dY: (samples, F, D), float32; dX and dY are overwritten.
// Grid: (ceil(samples / SAMPLES), ceil(VECTORS / ROWS)); a block makes ROWS of the vectors dZ, a multiple of 4, of
// SAMPLES samples. It first writes the S that it needs to shared memory. Then a thread makes one Part of four dZ: it
// reads Z[j], the warp side by side, and S[i .. i+3, j], which are the same for many threads.
// Moves 4 (2 F D + 2 D + WIDTH) bytes a sample; the L1 cache gives all vectors once for each four of dZ.
extern "C" __global__ void __launch_bounds__(256) dot_interaction_backward(
    const float* __restrict__ dR, const float* __restrict__ X, const float* __restrict__ Y, float* __restrict__ dX,
    float* __restrict__ dY, int64 samples) {
    __shared__ float4 aligned_S[SAMPLES * VECTORS * STRIDE / 4];
    float* S = (float*)aligned_S;
    const int first_row = blockIdx.y * ROWS;
    const int64 first_sample = (int64)blockIdx.x * SAMPLES;
    const int block_samples = (int)min((int64)SAMPLES, samples - first_sample);

    // S[at, j, i - first_row] of sample `at` of the block. Where i is beyond the last vector it is not set, nor of use.
    for (int e = threadIdx.x; e < block_samples * VECTORS * VECTORS; e += blockDim.x) {
        const int at = e / (VECTORS * VECTORS), j = e / VECTORS % VECTORS, i = e % VECTORS;
        if (i > j) continue;
        // Both halves from one load, in which the warp reads side by side.
        float c = 0.0f;
        if (i < j + SELF_INTERACTION) c = dR[(first_sample + at) * WIDTH + DIMENSION + FIRST_PAIR(j) + i];
        if (i == j) c *= 2.0f;
        float* S_at = S + at * VECTORS * STRIDE;
        if (i >= first_row && i < first_row + ROWS) S_at[j * STRIDE + i - first_row] = c;
        if (j >= first_row && j < first_row + ROWS) S_at[i * STRIDE + j - first_row] = c;
    }
    __syncthreads();

    for (int item = threadIdx.x; item < ITEMS; item += blockDim.x) {
        const int p = item % PARTS, tile = item / PARTS % (ROWS / TILE), at = item / (PARTS * (ROWS / TILE));
        const int first = first_row + TILE * tile;
        if (at >= block_samples || first >= VECTORS) continue;
        const int64 s = first_sample + at;
        const float* coefficients = S + at * VECTORS * STRIDE + TILE * tile;
        Part dz[TILE];
#pragma unroll
        for (int k = 0; k < TILE; ++k) dz[k] = zero(Part());
#pragma unroll 4
        for (int j = 0; j < VECTORS; ++j) {
            const Part z = vector_of(X, Y, s, j)[p];
            const float4 c = *(const float4*)(coefficients + j * STRIDE);
            add_scaled(dz[0], c.x, z);
            add_scaled(dz[1], c.y, z);
            add_scaled(dz[2], c.z, z);
            add_scaled(dz[3], c.w, z);
        }
#pragma unroll
        for (int k = 0; k < TILE; ++k) {
            const int i = first + k;
            if (i == 0) {
                const float* direct = dR + s * WIDTH + p * (DIMENSION / PARTS);
                ((Part*)dX)[s * PARTS + p] = plus_loaded(dz[k], direct);
            } else if (i < VECTORS) {
                ((Part*)dY)[(s * FEATURES + i - 1) * PARTS + p] = dz[k];
            }
        }
    }
}
