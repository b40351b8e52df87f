// What the kernels (cuda_on_cpu.h) and the scheduler (scheduler.cpp) have in common.
#pragma once

#define CUDA_ON_CPU_HIDDEN __attribute__((visibility("hidden")))

namespace cuda_on_cpu {

typedef unsigned long long Word;

// What the lanes of a warp do together. The order is that of COLLECTIVE_NAMES.
enum Collective { SYNCWARP, SHUFFLE, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR, BALLOT, ANY, ALL, MATCH_ANY };

struct Three {
    unsigned x, y, z;
};

// To the kernels they are constants, as they never change for one thread.
#if defined(CUDA_ON_CPU_SCHEDULER)
#define CUDA_ON_CPU_INDEX
#else
#define CUDA_ON_CPU_INDEX const
#endif
extern CUDA_ON_CPU_HIDDEN CUDA_ON_CPU_INDEX Three thread_index, block_index, block_size, grid_size;

// __syncthreads.
CUDA_ON_CPU_HIDDEN void barrier();

// Waits for all lanes of `mask` that have not ended; `value`, `lane` and `width` as the collective needs them.
CUDA_ON_CPU_HIDDEN Word collective(Collective what, unsigned mask, Word value, int lane, int width);

// A place at which another thread may go on.
CUDA_ON_CPU_HIDDEN void switch_point();

// Before an atomic: the access is checked, and another thread may go first.
CUDA_ON_CPU_HIDDEN void atomic_point(void* address, Word bytes);

// This thread's bit in the masks of its warp.
CUDA_ON_CPU_HIDDEN unsigned lane_bit();

// The dynamic shared memory of the block that runs.
CUDA_ON_CPU_HIDDEN unsigned char* dynamic_shared();

// One array that the kernel was given. Mirrored in __init__.py, as is Launch.
struct Array {
    unsigned char* begin;
    unsigned char* end;
    const char* name;
    unsigned element_bytes;
    int is_writable;
};

// In which order threads and blocks run. The order is that of KINDS in __init__.py.
enum Order { ASCENDING, DESCENDING, SHUFFLED, FIRST_AHEAD, LAST_AHEAD };

struct Launch {
    unsigned grid[3], block[3];
    unsigned shared_bytes;
    int order;                  // an Order
    Word seed;                  // of the shuffled order
    unsigned char* stacks;      // stack_count of stack_bytes each
    Word stack_bytes;
    unsigned stack_count;
    unsigned array_count;
    const Array* arrays;
    void** arguments;
    char* message;              // what went wrong; empty where nothing did
    Word message_bytes;
};

// Runs a launch to its end. most_threads: of a block; invoke: calls the kernel with the arguments of the launch.
CUDA_ON_CPU_HIDDEN void run(const Launch& launch, unsigned most_threads, void (*invoke)(void**));

}  // namespace cuda_on_cpu
