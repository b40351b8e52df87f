"""init_rows.cu, on a GPU or executed on the CPU, against cupyrec.embedding.initial_rows: bit for bit."""

import numpy as np
import pytest
from cuda_on_cpu import ORDERS
from gpu_devices import emulated_device
from hypothesis import given
from hypothesis import strategies as st
from reference import initial_value, mix64

from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.initial_rows import fill_initial_rows
from cupyrec.kernels import kernel

UNTOUCHED = np.float32(-7.5)


def launch(device, blocks, threads, records, dimension, key, bound, first_row):
    """The records after a launch."""
    on_device, (rows, width) = device.upload(records), records.shape
    numbers = (np.int64(rows), np.int32(width), np.int32(dimension), np.uint64(key), np.float64(bound))
    device.launch(kernel("init_rows", "init_rows"), blocks, threads, on_device, *numbers, np.int64(first_row))
    return device.download(on_device)


def key_of(seed, table):
    """As initial_rows.py documents it."""
    return mix64((mix64(seed % 2**64) + table) % 2**64)


def check(device, *, rows, width, dimension, seed, table, bound, first_row, blocks, threads):
    wanted = np.full((rows, width), UNTOUCHED, dtype=np.float32)
    untouched = wanted.copy()
    settings = {"seed": seed, "table": table, "bound": bound, "first_row": first_row}
    fill_initial_rows(CpuDevice(1), wanted, dimension, **settings)
    got = launch(device, blocks, threads, untouched, dimension, key_of(seed, table), bound, first_row)
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
    order=st.sampled_from(ORDERS),
)
def test_the_kernel_makes_the_bits_of_the_cpu(
    rows, dimension, padding, seed, table, bound, first_row, blocks, threads, order
):
    got = check(
        emulated_device(thread_order=order),
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
def test_a_table_of_usual_size(gpu_device, first_row):
    bound = 1 / np.sqrt(3000)
    settings = {"seed": 1, "table": 7, "bound": bound, "first_row": first_row, "blocks": 4, "threads": 256}
    got = check(gpu_device, rows=3000, width=20, dimension=16, **settings)
    assert got[2999, 15] == np.float32(initial_value(1, 7, first_row + 2999, 15, 16, bound))


def test_a_part_of_a_table_is_that_part(gpu_device):
    whole, part = (np.zeros((rows, 4), dtype=np.float32) for rows in (50, 20))
    whole = launch(gpu_device, 1, 32, whole, 3, key_of(5, 2), 0.25, 0)
    part = launch(gpu_device, 2, 32, part, 3, key_of(5, 2), 0.25, 30)
    np.testing.assert_array_equal(whole[30:].view(np.uint32), part.view(np.uint32))
