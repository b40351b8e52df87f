"""The harness that executes kernels on the CPU: what CUDA promises holds, and faults in kernels are found."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cuda_on_cpu import ORDERS, CompileError, KernelFault, run_kernel

from cupyrec.devices.cuda_kernel import CudaKernel

SHUFFLED = tuple(f"shuffled-{seed}" for seed in range(1, 9))
POISON = np.frombuffer(b"\xcd" * 8, np.int32)[0]


@pytest.fixture
def kernel(tmp_path):
    """kernel(parameters, body, before="", **defines): a kernel `k` of this text."""

    def made(parameters, body, before="", **defines):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        path = folder / "k.cu"
        path.write_text(f'{before}\nextern "C" __global__ void k({parameters}) {{\n{body}\n}}\n', encoding="utf-8")
        return CudaKernel(path, "k", tuple(defines.items()))

    return made


def outcomes(kernel, grid, block, arguments, orders=(*ORDERS, *SHUFFLED), **options):
    """The different contents of the first array after a run in each order."""
    found = set()
    for order in orders:
        copies = [each.copy() if isinstance(each, np.ndarray) else each for each in arguments]
        run_kernel(kernel, grid, block, copies, order=order, **options)
        found.add(copies[0].tobytes())
    return found


# ---- What CUDA promises ----


@pytest.mark.parametrize("order", ORDERS)
def test_every_thread_of_a_grid_in_three_directions_runs_once(kernel, order):
    k = kernel(
        "int* out",
        """const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
        out[block * blockDim.x * blockDim.y * blockDim.z + thread] += block * 1000 + thread + 1;""",
    )
    out = np.zeros((2 * 3 * 2, 5 * 3 * 4), np.int32)
    run_kernel(k, (2, 3, 2), (5, 3, 4), (out,), order=order)
    np.testing.assert_array_equal(out, np.arange(12)[:, None] * 1000 + np.arange(60) + 1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threads", [1, 32, 40, 256, 1024])
def test_barriers_and_static_shared_memory(kernel, threads, order):
    """Each block turns its part around, again and again."""
    k = kernel(
        "int* x, int rounds",
        """__shared__ int part[1024];
        int* mine = x + blockIdx.x * blockDim.x;
        for (int i = 0; i < rounds; ++i) {
            part[threadIdx.x] = mine[threadIdx.x];
            __syncthreads();
            mine[threadIdx.x] = part[blockDim.x - 1 - threadIdx.x] + i;
            __syncthreads();
        }""",
    )
    x = np.arange(7 * threads, dtype=np.int32).reshape(7, threads)
    wanted = x[:, ::-1] + 3
    run_kernel(k, 7, threads, (x, np.int32(3)), order=order)
    np.testing.assert_array_equal(x, wanted)


@pytest.mark.parametrize("order", ORDERS)
def test_shared_memory_of_functions_and_templates(kernel, order):
    k = kernel(
        "int* out",
        """const int turns = turned<int>(blockIdx.x) + turned<short>(100);
        out[blockIdx.x * blockDim.x + threadIdx.x] = turns + inner(threadIdx.x);""",
        """template <class T> __device__ int turned(int base) {
            __shared__ T of_template[32];
            of_template[threadIdx.x] = (T)(base + threadIdx.x);
            __syncthreads();
            return of_template[31 - threadIdx.x];
        }
        __device__ inline int inner(int x) {
            __shared__ int of_function[32];
            of_function[x] = x * 1000;
            __syncwarp();
            return of_function[x ^ 1];
        }""",
    )
    out = np.zeros((9, 32), np.int32)
    run_kernel(k, 9, 32, (out,), order=order)
    lanes = np.arange(32)
    wanted = np.arange(9)[:, None] + (31 - lanes) + 100 + (31 - lanes) + (lanes ^ 1) * 1000
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize(
    "declared", ["extern __shared__ unsigned char", "extern __shared__ __align__(16) unsigned char"]
)
@pytest.mark.parametrize("order", ORDERS)
def test_dynamic_shared_memory(kernel, declared, order):
    k = kernel(
        "float* x, int n",
        f"""{declared} bytes[];
        float4* part = (float4*)bytes;
        part[threadIdx.x] = ((const float4*)x)[blockIdx.x * n + threadIdx.x];
        __syncthreads();
        ((float4*)x)[blockIdx.x * n + threadIdx.x] = part[n - 1 - threadIdx.x];""",
    )
    x = np.arange(5 * 48 * 4, dtype=np.float32).reshape(5, 48, 4)
    wanted = x[:, ::-1].copy()
    run_kernel(k, 5, 48, (x, np.int32(48)), shared_bytes=48 * 16, order=order)
    np.testing.assert_array_equal(x, wanted)


TYPES = {"int": np.int32, "unsigned": np.uint32, "float": np.float32, "double": np.float64, "long long": np.int64}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("width", [32, 8])
def test_shuffles(kernel, kind, width, order):
    k = kernel(
        f"{kind}* out, const {kind}* in",
        """const int t = threadIdx.x;
        out[t] = __shfl_sync(0xffffffffu, in[t], t * 7 + 3, WIDTH);
        out[64 + t] = __shfl_up_sync(0xffffffffu, in[t], 3, WIDTH);
        out[128 + t] = __shfl_down_sync(0xffffffffu, in[t], 3, WIDTH);
        out[192 + t] = __shfl_xor_sync(0xffffffffu, in[t], 5, WIDTH);
        out[256 + t] = __shfl_sync(0xffffffffu, in[t], 0);""",
        WIDTH=width,
    )
    values = (np.random.default_rng(1).random(64) * 2**30).astype(TYPES[kind])
    out = np.zeros((5, 64), TYPES[kind])
    run_kernel(k, 1, 64, (out, values), order=order)
    t = np.arange(64)
    place, first = t % width, t - t % width
    np.testing.assert_array_equal(out[0], values[first + (t % 64 * 7 + 3) % width])
    np.testing.assert_array_equal(out[1], values[np.where(place >= 3, t - 3, t)])
    np.testing.assert_array_equal(out[2], values[np.where(place + 3 < width, t + 3, t)])
    np.testing.assert_array_equal(out[3], values[t ^ 5])
    np.testing.assert_array_equal(out[4], values[t // 32 * 32])


@pytest.mark.parametrize("order", ORDERS)
def test_shuffles_of_some_lanes(kernel, order):
    """The halves of a warp do different things; a lane that takes no part has no value for the others."""
    k = kernel(
        "int* out",
        """const int t = threadIdx.x;
        if (t < 16) {
            out[t] = __shfl_xor_sync(0x0000ffffu, t, 1);
            __syncwarp(0x0000ffffu);
        } else {
            out[t] = __shfl_sync(0xffff0000u, t, t == 20 ? 2 : 17);
        }""",
    )
    out = np.zeros(32, np.int32)
    run_kernel(k, 1, 32, (out,), order=order)
    wanted = np.r_[np.arange(16) ^ 1, np.full(16, 17)]
    wanted[20] = POISON
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("order", ORDERS)
def test_votes_and_matches(kernel, order):
    k = kernel(
        "unsigned* out, const int64* in",
        """const unsigned t = threadIdx.x, all = 0xffffffffu;
        out[t] = __ballot_sync(all, in[t] > 2);
        out[64 + t] = __match_any_sync(all, in[t]);
        out[128 + t] = __any_sync(all, in[t] == 4) + 2 * __all_sync(all, in[t] < 4);
        out[192 + t] = __activemask() >> (t % 32) & 1;""",
        "typedef long long int64;",
    )
    values = np.random.default_rng(2).integers(0, 5, 64)
    values[32:] %= 4
    out = np.zeros((4, 64), np.uint32)
    run_kernel(k, 1, 64, (out, values), order=order)
    for first in (0, 32):
        warp, got = values[first : first + 32], out[:, first : first + 32]
        bits = 1 << np.arange(32)
        assert (got[0] == bits[warp > 2].sum()).all()
        assert got[1].tolist() == [bits[warp == value].sum() for value in warp]
        assert (got[2] == (warp == 4).any() + 2 * (warp < 4).all()).all()
    assert (out[3] == 1).all()


@pytest.mark.parametrize("order", ORDERS)
def test_threads_that_have_ended_are_not_waited_for(kernel, order):
    k = kernel(
        "int* out, int n",
        """if (threadIdx.x >= n) return;
        __syncthreads();
        out[threadIdx.x] = __popc(__ballot_sync(0xffffffffu, 1));
        __syncthreads();""",
    )
    out = np.zeros(100, np.int32)
    run_kernel(k, 1, 100, (out, np.int32(70)), order=order)
    np.testing.assert_array_equal(out, [32] * 64 + [6] * 6 + [0] * 30)


@pytest.mark.parametrize("kind", ["int", "unsigned", "unsigned long long"])
@pytest.mark.parametrize("order", ORDERS)
def test_atomics(kernel, kind, order):
    dtype = {"int": np.int32, "unsigned": np.uint32, "unsigned long long": np.uint64}[kind]
    k = kernel(
        f"{kind}* out, {kind}* old",
        f"""const {kind} i = blockIdx.x * blockDim.x + threadIdx.x;
        old[i] = atomicAdd(out, ({kind})1);
        atomicMax(out + 1, i);
        atomicMin(out + 2, i);
        atomicOr(out + 3, ({kind})1 << (i % 20));
        atomicAnd(out + 4, ~(({kind})1 << (i % 20)));
        atomicExch(out + 5, i);
        {kind} seen = out[6];
        while (true) {{
            const {kind} before = atomicCAS(out + 6, seen, seen + 2);
            if (before == seen) break;
            seen = before;
        }}""",
    )
    out, old = np.array([0, 0, 99, 0, 2**25 - 1, 77, 0], dtype), np.zeros(120, dtype)
    run_kernel(k, 4, 30, (out, old), order=order)
    assert sorted(old) == list(range(120))
    assert out[:5].tolist() == [120, 119, 0, 2**20 - 1, 2**25 - 2**20]
    assert out[5] < 120
    assert out[6] == 240


@pytest.mark.parametrize("order", ORDERS)
def test_a_block_may_wait_for_one_that_began_before(kernel, order):
    """Each block adds to what the block before it says; which one that is, is counted when a block begins."""
    k = kernel(
        "int* sums, int* begun",
        """__shared__ int place;
        if (threadIdx.x == 0) place = atomicAdd(begun, 1);
        __syncthreads();
        if (threadIdx.x == 0) {
            int before = 0;
            if (place > 0) while ((before = atomicAdd(sums + place - 1, 0)) == 0) __nanosleep(10);
            __threadfence();
            atomicExch(sums + place, before + place + 1);
        }""",
    )
    sums, begun = np.zeros(20, np.int32), np.zeros(1, np.int32)
    run_kernel(k, 20, 33, (sums, begun), order=order)
    np.testing.assert_array_equal(sums, np.cumsum(np.arange(1, 21)))


def test_numbers_are_those_of_cuda(kernel):
    k = kernel(
        "float* out, float x",
        """out[0] = expf(x); out[1] = log1p(x); out[2] = sqrtf(x); out[3] = fmaxf(x, 9.0f); out[4] = max(3, 4);
        out[5] = __uint_as_float(__float_as_uint(x)); out[6] = __clz(1) + __clzll(1) + __ffs(8) + __popcll(-1ll);
        out[7] = __ldg(out + 6); out[8] = 0.1f * x + x; out[9] = fmaf(x, x, -6.25f);
        const float2 pair = make_float2(1.0f, 2.0f); out[10] = pair.y; out[11] = isnan(x - x);""",
    )
    out, x = np.zeros(12, np.float32), np.float32(2.5)
    run_kernel(k, 1, 1, (out, x))
    wanted = [np.exp(x), np.log1p(x), np.sqrt(x), 9, 4, x, 31 + 63 + 4 + 64, 162, np.float32(0.1) * x + x, 0, 2, 0]
    np.testing.assert_allclose(out, wanted, rtol=1e-6)


def test_an_order_gives_the_same_every_time_and_another_one_another_order(kernel):
    k = kernel(
        "int* order, int* next",
        """for (int i = 0; i < 3; ++i) {
            order[atomicAdd(next, 1)] = blockIdx.x * blockDim.x + threadIdx.x;
            if (i == 0) __syncwarp();
        }""",
    )
    seen = {}
    for order in (*ORDERS, "shuffled-12345"):
        runs = [np.zeros(3 * 192, np.int32) for _ in range(2)]
        for run in runs:
            run_kernel(k, 2, 96, (run, np.zeros(1, np.int32)), order=order)
        np.testing.assert_array_equal(*runs)
        assert sorted(runs[0]) == sorted([*range(192)] * 3)
        seen[order] = runs[0].tolist()
    assert len({tuple(each) for each in seen.values()}) == len(seen)

    def once_then_twice(threads):
        return [*threads, *np.repeat(threads, 2).tolist()]

    def of_all(first_to_last, size):
        return [each for at in range(0, 192, size) for each in once_then_twice(first_to_last[at : at + size])]

    up, down = list(range(192)), list(range(191, -1, -1))
    # All threads of a block have their turn; or a warp comes as far as it can before the next one does.
    assert seen["ascending"] == of_all(up, 96)
    assert seen["descending"] == of_all(down, 96)
    assert seen["first-ahead"] == of_all(up, 32)
    assert seen["last-ahead"] == of_all(down, 32)


@pytest.mark.parametrize("order", ORDERS)
def test_threads_that_wait_by_an_atomic_let_the_others_on(kernel, order):
    """Each waits for the one beside it, whichever is ahead."""
    k = kernel(
        "int* done, int from, int step",
        """const int t = threadIdx.x;
        if (t != from) while (atomicAdd(done + t - step, 0) == 0) {}
        atomicExch(done + t, 1);""",
    )
    for first, step in ((0, 1), (69, -1)):
        done = np.zeros(70, np.int32)
        run_kernel(k, 1, 70, (done, np.int32(first), np.int32(step)), order=order)
        assert done.all()


def test_several_threads_of_python_at_once(kernel):
    k = kernel(
        "int* x, int rounds",
        """__shared__ int part[64];
        for (int i = 0; i < rounds; ++i) {
            part[threadIdx.x] = x[threadIdx.x];
            __syncthreads();
            x[threadIdx.x] = part[63 - threadIdx.x] + __shfl_xor_sync(0xffffffffu, 1, 1);
            __syncthreads();
        }""",
    )
    same, other = k, CudaKernel(k.path, k.name, (("OTHER", 1),))
    arrays = [np.arange(64, dtype=np.int32) + 100 * i for i in range(12)]
    wanted = [array + 20 for array in arrays]
    with ThreadPoolExecutor(4) as pool:
        done = [
            pool.submit(run_kernel, (same, other)[i % 2], 1, 64, (array, np.int32(20)), order=ORDERS[i % len(ORDERS)])
            for i, array in enumerate(arrays)
        ]
        for each in done:
            each.result()
    np.testing.assert_array_equal(arrays, wanted)


# ---- Threads that do not wait for each other are seen ----

BLOCK_SUM = """__shared__ float part[128];
part[threadIdx.x] = in[blockIdx.x * 128 + threadIdx.x];
__syncthreads();
for (int half = 64; half > 0; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    SYNC;
}
if (threadIdx.x == 0) out[blockIdx.x] = part[0];"""
WARP_SUM = """__shared__ float part[32];
part[threadIdx.x] = in[blockIdx.x * 32 + threadIdx.x];
SYNC;
for (int half = 16; half > 0; half /= 2) {
    const float sum = part[threadIdx.x] + part[threadIdx.x ^ half];
    SYNC;
    part[threadIdx.x] = sum;
    SYNC;
}
if (threadIdx.x == 0) out[blockIdx.x] = part[0];"""
# Each warp hands its value to the next one: the warps must be as far as each other, and their lanes are.
WARP_TO_WARP = """__shared__ float part[4];
const int warp = threadIdx.x / 32;
const float sum = __shfl_xor_sync(0xffffffffu, in[blockIdx.x * 128 + threadIdx.x], 3);
if (threadIdx.x % 32 == 0) part[warp] = sum;
SYNC;
const float other = __shfl_sync(0xffffffffu, part[(warp + 1) % 4], 5);
if (threadIdx.x % 32 == 0) out[blockIdx.x * 4 + warp] = other;"""

# The first warp reads what all have written. Without a barrier another one may be at the next round already: but only
# if it comes through all of a round's work while the first one starves.
ROUNDS = """__shared__ float part[128];
for (int i = 0; i < 2; ++i) {
    float x = 0;
    for (int k = 0; k < 24; ++k) x += __shfl_xor_sync(0xffffffffu, in[(blockIdx.x + i) % 5 * 128 + threadIdx.x], k);
    SYNC;
    part[threadIdx.x] = x;
    __syncthreads();
    if (threadIdx.x < 2) out[blockIdx.x * 4 + i * 2 + threadIdx.x] = part[threadIdx.x + 96] + part[threadIdx.x + 32];
}"""
# The same, in a warp.
LANE_ROUNDS = """__shared__ float part[32];
for (int i = 0; i < 2; ++i) {
    const float x = in[(blockIdx.x + i) % 5 * 32 + threadIdx.x];
    SYNC;
    part[threadIdx.x] = x;
    __syncwarp();
    if (threadIdx.x < 2) out[blockIdx.x * 4 + i * 2 + threadIdx.x] = part[threadIdx.x + 30] + part[threadIdx.x + 10];
}"""


@pytest.mark.parametrize(
    ("body", "sync", "threads"),
    [
        (BLOCK_SUM, "__syncthreads()", 128),
        (WARP_SUM, "__syncwarp()", 32),
        (WARP_TO_WARP, "__syncthreads()", 128),
        (ROUNDS, "__syncthreads()", 128),
        (LANE_ROUNDS, "__syncwarp()", 32),
    ],
)
def test_a_missing_barrier_is_seen(kernel, body, sync, threads):
    values = np.random.default_rng(3).random(5 * threads).astype(np.float32)
    arguments = (np.zeros(20, np.float32), values)
    right = kernel("float* out, const float* in", body.replace("SYNC", sync))
    wrong = kernel("float* out, const float* in", body.replace("SYNC", ""))
    assert len(outcomes(right, 5, threads, arguments)) == 1
    assert len(outcomes(wrong, 5, threads, arguments, orders=ORDERS)) > 1


@pytest.mark.parametrize(("grid", "block"), [(40, 1), (1, 40), (3, 32)])
def test_a_sum_without_atomics_is_seen(kernel, grid, block):
    right = kernel("int* x", "atomicAdd(x, 1);")
    wrong = kernel("int* x", "x[0] += 1;")
    assert outcomes(right, grid, block, (np.zeros(1, np.int32),)) == {np.int32(grid * block).tobytes()}
    assert len(outcomes(wrong, grid, block, (np.zeros(1, np.int32),), orders=ORDERS)) > 1


def test_blocks_that_depend_on_their_order_are_seen(kernel):
    k = kernel("int* x", "if (threadIdx.x == 0) x[0] = x[0] * 3 + blockIdx.x;")
    assert len(outcomes(k, 6, 32, (np.zeros(1, np.int32),), orders=("ascending", "descending"))) == 2


def test_unwritten_shared_memory_is_seen(kernel):
    k = kernel(
        "int* out",
        """extern __shared__ unsigned char bytes[];
        __shared__ int part[8];
        if (threadIdx.x < 7) part[threadIdx.x] = 1;
        __syncthreads();
        out[threadIdx.x] = part[threadIdx.x];
        if (threadIdx.x == 0) out[8] = ((int*)bytes)[0];""",
    )
    for order in ORDERS:
        out = np.zeros(9, np.int32)
        run_kernel(k, 3, 8, (out,), shared_bytes=4, order=order)
        np.testing.assert_array_equal(out, [1] * 7 + [POISON] * 2)


# ---- Faults ----


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("if (i <= n) x[i] = 1.0f;", r"writes 4 bytes at element 10 of x, which has 10 elements"),
        ("if (i < n) x[i] = y[i + 1];", r"reads 4 bytes at element 10 of y, which has 10 elements"),
        ("if (i < n) x[i] = y[i - 1];", r"reads 4 bytes at element -1 of y"),
        ("if (i < n / 4 + 1) ((float4*)x)[i] = make_float4(1, 2, 3, 4);", "writes 16 bytes at element 8 of x"),
        ("if (i < 3) ((float4*)x)[i].w = 1;", "writes 4 bytes at element 11 of x"),
        ("float4* p = (float4*)(x + 1); if (i == 0) p[0] = make_float4(1, 2, 3, 4);", r"not aligned.*\.cu:4"),
        ("if (i == 0) for (int k = 0; k < 11; ++k) x[k] = 0.0f;", "writes 4 bytes at element 10 of x"),
        ("((float*)y)[0] = 1.0f;", "writes into y, which is read-only"),
        (
            "__shared__ float part[8]; part[i] = 1.0f; x[0] = part[0];",
            r"takes element \d+ of an array that has fewer, at k\.cu:4",
        ),
        ("__shared__ float part[8]; float* p = part; p[i * 100000] = 1.0f; x[0] = part[0];", "writes 4 bytes"),
        ("float mine[4] = {1, 2, 3, 4}; x[0] = mine[n - 6];", "element 4 of an array that has fewer"),
        (
            "extern __shared__ unsigned char b[]; ((int*)b)[i] = 1;",
            "of the dynamic shared memory, which has 16",
        ),
        ("x[0] = (float)(2147483640 + n);", r"overflows a signed integer \(\+\) at k\.cu:4"),
        ("x[0] = (float)(2147483640 * n);", r"overflows a signed integer \(\*\)"),
        ("x[0] = (float)(1u << (n + 22));", "shifts by 32"),
        ("x[0] = (float)(n / (n - 10));", "divides an integer by zero"),
        ("atomicAdd((int*)x + n, 1);", "writes 4 bytes at element 10 of x"),
        ("x[0] = __shfl_sync(1u, 1, 0);", "calls __shfl_sync for the lanes 00000001 without being one"),
        ("if (i < 3) __syncthreads(); else __syncwarp();", "waits for threads that never come"),
        (
            "if (i < 8) __syncwarp(0xffffu); else __syncthreads();",
            "0 to 7 are at __syncwarp of lanes 0000ffff; threads 8",
        ),
        ("if (i % 2) __syncwarp(); else x[0] = __shfl_sync(0xffffffffu, 1, 0);", "never come.*__shfl_sync"),
        ("if (i == 0) while (atomicAdd((int*)x, 0) == 0) {}", "waits for something that does not come"),
    ],
)
def test_a_fault_is_found(kernel, body, fault, order):
    k = kernel("float* x, const float* y, int n", f"const int i = threadIdx.x;\n{body}")
    x, y = np.zeros(10, np.float32), np.zeros(10, np.float32)
    y.flags.writeable = False
    with pytest.raises(KernelFault, match=fault):
        run_kernel(k, 1, 32, (x, y, np.int32(10)), shared_bytes=16, order=order)


@pytest.mark.parametrize("order", ORDERS)
def test_after_a_fault_the_kernel_runs_again(kernel, order):
    k = kernel("int* x, int n", "__syncthreads(); x[threadIdx.x + n] = 1; __syncthreads();")
    x = np.zeros(64, np.int32)
    for _ in range(3):
        with pytest.raises(KernelFault, match=r"^k in k\.cu: thread \(\d+, 0, 0\) of block \(0, 0, 0\) writes"):
            run_kernel(k, 1, 64, (x, np.int32(1)), order=order)
        x[:] = 0
        run_kernel(k, 1, 64, (x, np.int32(0)), order=order)
        assert (x == 1).all()


@pytest.mark.parametrize(
    ("body", "before", "said"),
    [
        ("x[0] = __reduce_add_sync(1u, 2);", "", r"k\.cu:3:.*__reduce_add_sync"),
        ("atomicAdd(x, 1.0f);", "", r"k\.cu:3:.*deleted function"),
        ("x[0] = 1.0f", "", r"k\.cu:3:.*expected"),
        ("extern __shared__ float part[]; x[0] = part[0];", "", r"k\.cu:3:"),
        ("", "#include <cuda_fp16.h>", r"k\.cu:1:.*cuda_fp16\.h: No such file"),
        ("threadIdx.x = 1;", "", r"k\.cu:3:.*read-only"),
        (
            "float mine[20000]; for (int i = 0; i < 20000; ++i) mine[i] = x[i]; x[0] = mine[(int)x[1]];",
            "",
            "frame size",
        ),
    ],
)
def test_what_cannot_be_compiled_says_where(kernel, body, before, said):
    with pytest.raises(CompileError, match=said):
        run_kernel(kernel("float* x", body, before), 1, 1, (np.zeros(4, np.float32),))


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "said"),
    [
        (0, 1, 0, "on a grid of"),
        ((1, 70000), 1, 0, "on a grid of"),
        (1, (32, 33), 0, "blocks of"),
        (1, (1, 1, 65), 0, "blocks of"),
        (1, 1, 97 * 1024, "bytes of dynamic shared memory"),
    ],
)
def test_a_launch_that_cuda_would_refuse(kernel, grid, block, shared_bytes, said):
    k = kernel("float* x", "x[0] = 1.0f;")
    with pytest.raises(ValueError, match=said):
        run_kernel(k, grid, block, (np.zeros(4, np.float32),), shared_bytes=shared_bytes)


def test_more_threads_than_the_launch_bounds(tmp_path):
    path = tmp_path / "bounded.cu"
    path.write_text(
        '#define MOST 64\nextern "C" __global__ void __launch_bounds__(MOST * 2, 3) k(float* x) { x[threadIdx.x] = 1; }'
    )
    k, x = CudaKernel(path, "k"), np.zeros(200, np.float32)
    run_kernel(k, 1, 128, (x,))
    assert x.sum() == 128
    with pytest.raises(KernelFault, match="blocks of 129 threads, but has launch bounds of 128"):
        run_kernel(k, 1, 129, (x,))


def test_a_changed_header_is_compiled_again(tmp_path):
    """What is kept between runs depends on all that a kernel includes."""
    for value in (1, 2):
        folder = tmp_path / str(value)
        folder.mkdir()
        (folder / "inner.cuh").write_text(f"#define VALUE {value}\n")
        (folder / "outer.cuh").write_text('#include "inner.cuh"\n')
        path = folder / "k.cu"
        path.write_text('#include "outer.cuh"\nextern "C" __global__ void k(int* x) { x[0] = VALUE; }\n')
        x = np.zeros(1, np.int32)
        run_kernel(CudaKernel(path, "k"), 1, 1, (x,))
        assert x[0] == value
