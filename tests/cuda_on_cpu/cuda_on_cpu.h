// What CUDA C++ has and plain C++ has not, for kernels that g++ compiles. scheduler.cpp executes them.
//
// It has what the kernels of cupyrec use. What it does not have is an error of compilation.
#pragma once

#include "scheduler.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// The scheduler exchanges it where several blocks are in flight. `extern __shared__ unsigned char name[];` in a
// function of a .cu file is rewritten before it comes here.
#define __shared__ static

namespace {

typedef cuda_on_cpu::Three uint3;

struct dim3 : cuda_on_cpu::Three {};

const cuda_on_cpu::Three& threadIdx = cuda_on_cpu::thread_index;
const cuda_on_cpu::Three& blockIdx = cuda_on_cpu::block_index;
const cuda_on_cpu::Three& blockDim = cuda_on_cpu::block_size;
const cuda_on_cpu::Three& gridDim = cuda_on_cpu::grid_size;
const int warpSize = 32;

// ---- Vectors ----

#define CUDA_ON_CPU_VECTORS(type, name)                                                            \
    struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                       \
    struct alignas(16) name##4 { type x, y, z, w; };                                               \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                               \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
CUDA_ON_CPU_VECTORS(float, float)
CUDA_ON_CPU_VECTORS(int, int)
CUDA_ON_CPU_VECTORS(unsigned, uint)
#undef CUDA_ON_CPU_VECTORS
struct alignas(16) double2 { double x, y; };
struct alignas(16) longlong2 { long long x, y; };
struct alignas(16) ulonglong2 { unsigned long long x, y; };
inline double2 make_double2(double x, double y) { return {x, y}; }
inline longlong2 make_longlong2(long long x, long long y) { return {x, y}; }
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }

// ---- Barriers and warps ----

inline void __syncthreads() { cuda_on_cpu::barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_on_cpu::collective(cuda_on_cpu::SYNCWARP, mask, 0, 0, 32); }
inline void __threadfence() { cuda_on_cpu::switch_point(); }
inline void __threadfence_block() { cuda_on_cpu::switch_point(); }
inline void __threadfence_system() { cuda_on_cpu::switch_point(); }
inline void __nanosleep(unsigned) { cuda_on_cpu::switch_point(); }

// The calling lane alone: hardware may say so, and what needs more lanes must name them.
inline unsigned __activemask() { return cuda_on_cpu::lane_bit(); }

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return (unsigned)cuda_on_cpu::collective(cuda_on_cpu::BALLOT, mask, predicate != 0, 0, 32);
}
inline int __any_sync(unsigned mask, int predicate) {
    return (int)cuda_on_cpu::collective(cuda_on_cpu::ANY, mask, predicate != 0, 0, 32);
}
inline int __all_sync(unsigned mask, int predicate) {
    return (int)cuda_on_cpu::collective(cuda_on_cpu::ALL, mask, predicate != 0, 0, 32);
}

// By bits, as CUDA does it. Other types are errors, as in CUDA.
#define CUDA_ON_CPU_LANES(type)                                                                                    \
    inline type cuda_on_cpu_shuffle(cuda_on_cpu::Collective what, unsigned mask, type value, int lane, int width) { \
        cuda_on_cpu::Word bits = 0;                                                                                \
        __builtin_memcpy(&bits, &value, sizeof(type));                                                             \
        bits = cuda_on_cpu::collective(what, mask, bits, lane, width);                                             \
        __builtin_memcpy(&value, &bits, sizeof(type));                                                             \
        return value;                                                                                              \
    }                                                                                                              \
    inline type __shfl_sync(unsigned mask, type value, int lane, int width = 32) {                                 \
        return cuda_on_cpu_shuffle(cuda_on_cpu::SHUFFLE, mask, value, lane, width);                                \
    }                                                                                                              \
    inline type __shfl_up_sync(unsigned mask, type value, unsigned delta, int width = 32) {                        \
        return cuda_on_cpu_shuffle(cuda_on_cpu::SHUFFLE_UP, mask, value, (int)delta, width);                       \
    }                                                                                                              \
    inline type __shfl_down_sync(unsigned mask, type value, unsigned delta, int width = 32) {                      \
        return cuda_on_cpu_shuffle(cuda_on_cpu::SHUFFLE_DOWN, mask, value, (int)delta, width);                     \
    }                                                                                                              \
    inline type __shfl_xor_sync(unsigned mask, type value, int lanes, int width = 32) {                            \
        return cuda_on_cpu_shuffle(cuda_on_cpu::SHUFFLE_XOR, mask, value, lanes, width);                           \
    }                                                                                                              \
    inline unsigned __match_any_sync(unsigned mask, type value) {                                                  \
        cuda_on_cpu::Word bits = 0;                                                                                \
        __builtin_memcpy(&bits, &value, sizeof(type));                                                             \
        return (unsigned)cuda_on_cpu::collective(cuda_on_cpu::MATCH_ANY, mask, bits, 0, 32);                       \
    }
CUDA_ON_CPU_LANES(int)
CUDA_ON_CPU_LANES(unsigned)
CUDA_ON_CPU_LANES(long)
CUDA_ON_CPU_LANES(unsigned long)
CUDA_ON_CPU_LANES(long long)
CUDA_ON_CPU_LANES(unsigned long long)
CUDA_ON_CPU_LANES(float)
CUDA_ON_CPU_LANES(double)
#undef CUDA_ON_CPU_LANES

// ---- Atomics: on integers alone, as sums of floats would depend on their order ----

#define CUDA_ON_CPU_ATOMIC_UPDATE(type, name, updated)                                                     \
    inline type name(type* address, type value) {                                                          \
        cuda_on_cpu::atomic_point(address, sizeof(type));                                                  \
        type old = cuda_on_cpu::atomic_load(address);                                                      \
        while (!cuda_on_cpu::atomic_exchange_if(address, &old, (type)(updated))) {                         \
        }                                                                                                  \
        return old;                                                                                        \
    }
#define CUDA_ON_CPU_ATOMICS(type)                                                 \
    CUDA_ON_CPU_ATOMIC_UPDATE(type, atomicExch, value)                            \
    CUDA_ON_CPU_ATOMIC_UPDATE(type, atomicMax, old > value ? old : value)         \
    CUDA_ON_CPU_ATOMIC_UPDATE(type, atomicMin, old < value ? old : value)         \
    CUDA_ON_CPU_ATOMIC_UPDATE(type, atomicOr, old | value)                        \
    CUDA_ON_CPU_ATOMIC_UPDATE(type, atomicAnd, old & value)                       \
    CUDA_ON_CPU_ATOMIC_UPDATE(type, atomicXor, old ^ value)                       \
    inline type atomicCAS(type* address, type compare, type value) {              \
        cuda_on_cpu::atomic_point(address, sizeof(type));                         \
        type old = compare;                                                       \
        cuda_on_cpu::atomic_exchange_if(address, &old, value);                    \
        return old;                                                               \
    }
}  // namespace

namespace cuda_on_cpu {
#define CUDA_ON_CPU_QUIET __attribute__((no_sanitize("thread", "undefined"))) inline
template <class T>
CUDA_ON_CPU_QUIET T atomic_load(T* address) { return __atomic_load_n(address, __ATOMIC_SEQ_CST); }
template <class T>
CUDA_ON_CPU_QUIET bool atomic_exchange_if(T* address, T* expected, T value) {
    return __atomic_compare_exchange_n(address, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
}  // namespace cuda_on_cpu

namespace {
CUDA_ON_CPU_ATOMIC_UPDATE(int, atomicAdd, (unsigned)old + (unsigned)value)
CUDA_ON_CPU_ATOMIC_UPDATE(int, atomicSub, (unsigned)old - (unsigned)value)
CUDA_ON_CPU_ATOMIC_UPDATE(unsigned, atomicAdd, old + value)
CUDA_ON_CPU_ATOMIC_UPDATE(unsigned, atomicSub, old - value)
CUDA_ON_CPU_ATOMIC_UPDATE(unsigned long long, atomicAdd, old + value)
CUDA_ON_CPU_ATOMICS(int)
CUDA_ON_CPU_ATOMICS(unsigned)
CUDA_ON_CPU_ATOMICS(unsigned long long)
#undef CUDA_ON_CPU_ATOMICS
#undef CUDA_ON_CPU_ATOMIC_UPDATE
template <class T>
T atomicAdd(T*, T) = delete;  // CUDA has no such atomic, or it sums floats

// ---- Memory ----

template <class T>
inline T __ldg(const T* address) { return *address; }
template <class T>
inline T __ldcs(const T* address) { return *address; }
template <class T>
inline T __ldcg(const T* address) { return *(const volatile T*)address; }
template <class T>
inline void __stcs(T* address, T value) { *address = value; }
template <class T>
inline void __stcg(T* address, T value) { *address = value; }

// ---- Bits ----

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
    return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
#define CUDA_ON_CPU_BITS(to, name, from)                \
    inline to name(from x) {                            \
        to bits;                                        \
        __builtin_memcpy(&bits, &x, sizeof bits);       \
        return bits;                                    \
    }
CUDA_ON_CPU_BITS(unsigned, __float_as_uint, float)
CUDA_ON_CPU_BITS(int, __float_as_int, float)
CUDA_ON_CPU_BITS(float, __uint_as_float, unsigned)
CUDA_ON_CPU_BITS(float, __int_as_float, int)
CUDA_ON_CPU_BITS(long long, __double_as_longlong, double)
CUDA_ON_CPU_BITS(double, __longlong_as_double, long long)
#undef CUDA_ON_CPU_BITS

// ---- Mathematics ----

#define CUDA_ON_CPU_MIN_MAX(type)                                    \
    inline type min(type a, type b) { return b < a ? b : a; }        \
    inline type max(type a, type b) { return a < b ? b : a; }
CUDA_ON_CPU_MIN_MAX(int)
CUDA_ON_CPU_MIN_MAX(unsigned)
CUDA_ON_CPU_MIN_MAX(long)
CUDA_ON_CPU_MIN_MAX(unsigned long)
CUDA_ON_CPU_MIN_MAX(long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long)
#undef CUDA_ON_CPU_MIN_MAX
inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
// As in CUDA: of a number and a NaN it is the number.
inline float min(float a, float b) { return __builtin_fminf(a, b); }
inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
inline double min(double a, double b) { return __builtin_fmin(a, b); }
inline double max(double a, double b) { return __builtin_fmax(a, b); }
inline int abs(int x) { return __builtin_abs(x); }
inline long long abs(long long x) { return __builtin_llabs(x); }
inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }

#define CUDA_ON_CPU_FUNCTION(name)                                        \
    inline float name##f(float x) { return __builtin_##name##f(x); }      \
    inline float name(float x) { return __builtin_##name##f(x); }         \
    inline double name(double x) { return __builtin_##name(x); }
CUDA_ON_CPU_FUNCTION(exp)
CUDA_ON_CPU_FUNCTION(expm1)
CUDA_ON_CPU_FUNCTION(log)
CUDA_ON_CPU_FUNCTION(log1p)
CUDA_ON_CPU_FUNCTION(log2)
CUDA_ON_CPU_FUNCTION(exp2)
CUDA_ON_CPU_FUNCTION(sqrt)
CUDA_ON_CPU_FUNCTION(tanh)
CUDA_ON_CPU_FUNCTION(fabs)
CUDA_ON_CPU_FUNCTION(floor)
CUDA_ON_CPU_FUNCTION(ceil)
CUDA_ON_CPU_FUNCTION(rint)
CUDA_ON_CPU_FUNCTION(trunc)
#undef CUDA_ON_CPU_FUNCTION
#define CUDA_ON_CPU_FUNCTION(name)                                                       \
    inline float name##f(float x, float y) { return __builtin_##name##f(x, y); }         \
    inline float name(float x, float y) { return __builtin_##name##f(x, y); }            \
    inline double name(double x, double y) { return __builtin_##name(x, y); }
CUDA_ON_CPU_FUNCTION(fmin)
CUDA_ON_CPU_FUNCTION(fmax)
CUDA_ON_CPU_FUNCTION(pow)
CUDA_ON_CPU_FUNCTION(copysign)
#undef CUDA_ON_CPU_FUNCTION
inline float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
inline float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isnan(double x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isinf(double x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }

}  // namespace
