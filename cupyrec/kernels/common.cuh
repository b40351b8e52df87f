// What the kernels share. Warps have 32 threads.

#pragma once

typedef long long int64;
typedef unsigned long long uint64;

#define WARP 32
#define ALL_LANES 0xffffffffu
