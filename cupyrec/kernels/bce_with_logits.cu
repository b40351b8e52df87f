// Binary cross-entropy on logits, with its gradient. THREADS: of the one block, a power of two.
//
// compiled with: THREADS=1024

#ifndef THREADS
#error "THREADS must be defined"
#endif

#include "common.cuh"

// loss_sum[0] = sum over s of max(z, 0) - z y + log(1 + exp(-|z|));  dlogits = (sigmoid(z) - y) / samples.
//
// logits, labels: (samples,) float32; dlogits: (samples,) float32, overwritten; loss_sum: (1,) float64, overwritten.
// One block of THREADS. Thread t takes the samples t, t + THREADS, ... in ascending order, in double precision. Then
// the threads' sums are added in a tree: 0 with THREADS/2, 1 with THREADS/2 + 1, ..., then 0 with THREADS/4, and so on.
// Moves 12 bytes a sample: it is not memory that bounds it, but the double-precision units of one multiprocessor.
extern "C" __global__ void __launch_bounds__(THREADS) bce_with_logits(
    const float* __restrict__ logits, const float* __restrict__ labels, float* __restrict__ dlogits,
    double* __restrict__ loss_sum, int64 samples) {
    __shared__ double sums[THREADS];
    const int t = threadIdx.x;
    double sum = 0.0;
    for (int64 s = t; s < samples; s += THREADS) {
        const double z = logits[s], y = labels[s];
        const double e = exp(-fabs(z));
        sum += fmax(z, 0.0) - z * y + log1p(e);
        const double probability = (z >= 0.0 ? 1.0 : e) / (1.0 + e);
        dlogits[s] = (float)((probability - y) / (double)samples);
    }
    sums[t] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half) sums[t] += sums[t + half];
    }
    if (t == 0) loss_sum[0] = sums[0];
}
