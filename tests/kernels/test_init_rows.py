"""init_rows.cu, executed on the CPU, against cupyrec.embedding.initial_rows: bit for bit."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import initial_value, mix64

from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.initial_rows import fill_initial_rows
from cupyrec.kernels import source_path

# What CUDA provides and this kernel uses, as plain variables: its threads run one after another.
SHIM = """
#define __global__
#define __device__
#define __restrict__
struct Index { unsigned x; };
static Index blockIdx, threadIdx, blockDim, gridDim;
#include "init_rows.cu"

extern "C" void launch(
    unsigned blocks, unsigned threads, float* records, long long rows, int record_width, int dimension, uint64 key,
    double bound, long long first_row) {
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
            init_rows(records, rows, record_width, dimension, key, bound, first_row);
}
"""
UNTOUCHED = np.float32(-7.5)


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """The kernel as a function: launch(blocks, threads, records, dimension, key, bound, first_row)."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to run the CUDA source on the CPU")
    folder = tmp_path_factory.mktemp("init_rows")
    (folder / "shim.cpp").write_text(SHIM)
    library = folder / "init_rows.so"
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-shared", "-fPIC"]
    built = subprocess.run(
        [*command, f"-I{source_path('init_rows').parent}", "-o", str(library), str(folder / "shim.cpp")],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert built.returncode == 0, built.stderr
    function = ctypes.CDLL(str(library)).launch
    function.restype = None
    function.argtypes = [
        *(ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int, ctypes.c_int),
        *(ctypes.c_ulonglong, ctypes.c_double, ctypes.c_longlong),
    ]

    def call(blocks, threads, records, dimension, key, bound, first_row):
        rows, width = records.shape
        function(blocks, threads, records.ctypes.data, rows, width, dimension, key, bound, first_row)

    return call


def key_of(seed, table):
    """As initial_rows.py documents it."""
    return mix64((mix64(seed % 2**64) + table) % 2**64)


def check(launch, *, rows, width, dimension, seed, table, bound, first_row, blocks, threads):
    wanted = np.full((rows, width), UNTOUCHED, dtype=np.float32)
    got = wanted.copy()
    settings = {"seed": seed, "table": table, "bound": bound, "first_row": first_row}
    fill_initial_rows(CpuDevice(1), wanted, dimension, **settings)
    launch(blocks, threads, got, dimension, key_of(seed, table), bound, first_row)
    np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32))
    return got


@given(
    rows=st.integers(0, 20),
    dimension=st.integers(1, 9),
    padding=st.integers(0, 5),
    seed=st.integers(0, 2**64 - 1),
    table=st.integers(0, 2**20),
    bound=st.sampled_from([1.0, 0.5, 1 / 3, 1e-3, 1e-5]),
    first_row=st.one_of(st.integers(0, 100), st.sampled_from([2**31 - 3, 2**31, 2**32 - 1, 2**40, 2**60])),
    blocks=st.integers(1, 3),
    threads=st.integers(1, 40),
)
def test_the_kernel_makes_the_bits_of_the_cpu(
    launch, rows, dimension, padding, seed, table, bound, first_row, blocks, threads
):
    got = check(
        launch,
        rows=rows,
        width=dimension + padding,
        dimension=dimension,
        seed=seed,
        table=table,
        bound=bound,
        first_row=first_row,
        blocks=blocks,
        threads=threads,
    )
    assert (got[:, dimension:] == UNTOUCHED).all()
    assert (np.abs(got[:, :dimension]) < bound).all()


@pytest.mark.parametrize("first_row", [0, 2**31 + 11, 2**45])
def test_a_table_of_usual_size(launch, first_row):
    bound = 1 / np.sqrt(3000)
    settings = {"seed": 1, "table": 7, "bound": bound, "first_row": first_row, "blocks": 4, "threads": 256}
    got = check(launch, rows=3000, width=20, dimension=16, **settings)
    assert got[2999, 15] == np.float32(initial_value(1, 7, first_row + 2999, 15, 16, bound))


def test_a_part_of_a_table_is_that_part(launch):
    whole, part = (np.zeros((rows, 4), dtype=np.float32) for rows in (50, 20))
    launch(1, 32, whole, 3, key_of(5, 2), 0.25, 0)
    launch(2, 32, part, 3, key_of(5, 2), 0.25, 30)
    np.testing.assert_array_equal(whole[30:].view(np.uint32), part.view(np.uint32))
