// Initial embedding weights from a counter: the same bits as cupyrec/embedding/initial_rows.py makes.
//
//   bits  = mix(key + (row * D + d + 1) * gamma)
//   value = (bound / 2^23) * ((bits >> 40) - 2^23 + 0.5)
//
// Source: splitmix64, Steele, Lea and Flood 2014.

typedef unsigned long long uint64;

__device__ inline uint64 mix(uint64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// records: (rows, record_width) float32; the first `dimension` columns are overwritten. One thread an element,
// grid-stride. first_row: the row within the table that records[0] is.
extern "C" __global__ void init_rows(
    float* __restrict__ records, long long rows, int record_width, int dimension, uint64 key, double bound,
    long long first_row) {
    const uint64 gamma = 0x9E3779B97F4A7C15ull;
    const double scale = bound / 8388608.0;
    const long long elements = rows * dimension;
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x; e < elements; e += stride) {
        const long long r = e / dimension;
        const int d = (int)(e - r * dimension);
        const uint64 bits = mix(key + ((uint64)(first_row + r) * (uint64)dimension + (uint64)d + 1) * gamma);
        // The difference is exact and one product is left to round: the same bits on every device.
        records[r * record_width + d] = (float)(scale * ((double)(bits >> 40) - 8388608.0 + 0.5));
    }
}
