"""Kernels reach what lies beyond 2^31 and 2^32 elements of an array, executed on the CPU.

The arrays take address space alone: none of their pages is there until it is touched, and a kernel touches few rows.
"""

import mmap
import resource

import numpy as np
import pytest
from cuda_on_cpu import run_kernel

from cupyrec.devices.gpu import BLOCK_THREADS
from cupyrec.functions.embedding_bag import constants_of
from cupyrec.kernels import kernel

D = 128
ROWS = 2**32 // D + 1000
# On both sides of the places at which a signed and an unsigned number of 32 bits no longer say where a row begins.
FAR = np.array([5, 2**31 // D - 1, 2**31 // D, 2**31 // D + 7, 2**32 // D - 1, 2**32 // D, 2**32 // D + 6, ROWS - 1])
# Linux's, and Python's from 3.13 on: memory is not set aside for pages that may never be touched.
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
# Of huge pages, one for each row that is touched, and what else a test takes. A copy would take 17 GB.
MOST_TAKEN_BYTES = 2**29

RATE = np.float32(0.5)


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture(autouse=True)
def little_memory_is_taken():
    before = peak_bytes()
    yield
    assert peak_bytes() - before < MOST_TAKEN_BYTES


@pytest.fixture
def large():
    """large(): ROWS vectors of D float32, all 0."""

    def made():
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        try:
            memory = mmap.mmap(-1, ROWS * D * 4, flags=flags)
        except OSError as error:
            pytest.skip(f"needs 17 GB of address space: {error}")
        return np.frombuffer(memory, np.float32).reshape(ROWS, D)

    return made


def numbers(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def given(array, dtype=None):
    """An array that a kernel reads alone."""
    array = np.array(array, dtype)
    array.flags.writeable = False
    return array


KINDS = {"rows": np.int64, "slots": np.int32}


@pytest.mark.parametrize("kind", KINDS)
def test_gather_and_scatter(large, kind):
    records, places, values = large(), given(FAR, KINDS[kind]), given(numbers(len(FAR), D))
    n = np.int32(len(FAR))
    run_kernel(kernel("move_rows", f"scatter_{kind}", WIDTH=D), 1, 64, (records, places, values, n))
    np.testing.assert_array_equal(records[FAR], values)
    gathered = np.zeros_like(values)
    run_kernel(kernel("move_rows", f"gather_{kind}", WIDTH=D), 1, 64, (records, places, gathered, n))
    np.testing.assert_array_equal(gathered, values)


def test_insert(large):
    scratchpad, values, rows = large(), given(numbers(len(FAR), D)), given(np.arange(len(FAR)) + 2**40)
    slot_rows = large().view(np.int64).reshape(-1)[:ROWS]
    arguments = values, given(FAR, np.int32), rows, scratchpad, slot_rows, np.int32(len(FAR))
    run_kernel(kernel("move_rows", "insert_records", WIDTH=D), 1, 64, arguments)
    np.testing.assert_array_equal(scratchpad[FAR], values)
    np.testing.assert_array_equal(slot_rows[FAR], rows)


@pytest.mark.parametrize("kind", KINDS)
def test_embedding_bag(large, kind):
    """Bags of two rows."""
    records, places = large(), given([*FAR, *FAR[::-1]], KINDS[kind])
    records[FAR] = numbers(len(FAR), D)
    offsets, Y = given(np.arange(0, 17, 2)), np.zeros((8, 1, D), np.float32)
    forward = kernel("embedding_bag", f"embedding_bag_of_{kind}", **constants_of(D, False))
    run_kernel(forward, 1, BLOCK_THREADS, (records, np.int32(D), places, offsets, Y, np.int32(8), np.int32(1)))
    pairs = records[places].reshape(8, 2, D)
    np.testing.assert_array_equal(Y[:, 0], pairs[:, 0] + pairs[:, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_row_update_of_short_segments(large, kind):
    """Both the rows and the gradients that they take are far: lookup l is of row FAR[l] and of bag FAR[-1 - l]."""
    records, dY, n = large(), large(), len(FAR)
    before, gradients = numbers(n, D), numbers(n, D, seed=2)
    records[FAR], dY[FAR] = before, gradients
    samples, features = np.int32(ROWS), np.int32(1)
    unused_offsets, bags = given([0]), given(FAR[::-1], np.int32)
    plan = dY, unused_offsets, bags, samples, features, given(np.arange(n + 1)), given([n], np.int32)
    step = records, np.int32(D), given(FAR, KINDS[kind]), RATE, np.float32(0)
    update = kernel("row_update", f"update_short_at_{kind}", SGD=1, **constants_of(D, False))
    run_kernel(update, 1, BLOCK_THREADS, (*plan, *step))
    np.testing.assert_array_equal(records[FAR], before - RATE * gradients[::-1])


@pytest.mark.parametrize("kind", KINDS)
def test_row_update_of_long_segments(large, kind):
    """The row of segment u is FAR[u], and the sums of its two chunks begin there too."""
    records, sums, n = large(), large(), len(FAR) - 1
    places = FAR[:n]
    expected = numbers(n, D)
    records[places] = expected
    for chunk in (places, places + 1):
        sums[chunk] = numbers(n, D, seed=2)
    update = kernel("row_update", f"update_long_at_{kind}", SGD=1, **constants_of(D, False))
    step = records, np.int32(D), given(places, KINDS[kind]), RATE, np.float32(0)
    # One segment in each launch: what lies between the chunks of two would be chunks too.
    for u, first in enumerate(places):
        long = given([u], np.int32), given([first, first + 2], np.int32), given([1, 2], np.int32)
        run_kernel(update, 1, BLOCK_THREADS, (sums, *long, *step))
        expected[u] -= RATE * (sums[first] + sums[first + 1])
    np.testing.assert_array_equal(records[places], expected)
