"""Gathering, scattering and copying of records: odd widths and counts, both place types, nothing else touched."""

import threading

import numpy as np
import pytest

from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.numba_kernel import prefetched_rows
from cupyrec.embedding.move_rows import (
    copy_between,
    crosses_a_line_more,
    gather_records,
    insert_records,
    scatter_records,
)

LAUNCHERS = [CpuDevice(1).stream(), CpuDevice(1), CpuDevice(3)]
SHAPES = [(1, 4, 0), (1, 4, 1), (50, 4, 17), (50, 20, 50), (300, 36, 100), (40, 1, 33)]
# A register, several, a copied piece and a bit, many pieces; those of real records, and odd ones.
WIDTHS = [1, 3, 4, 7, 8, 12, 16, 20, 28, 31, 32, 33, 64, 68, 128, 132, 260, 1027]


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=["stream", "one thread", "three threads"])
@pytest.mark.parametrize("places_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "width", "count"), SHAPES)
def test_equals_indexing(launcher, places_dtype, dtype, rows, width, count):
    numbers = np.random.default_rng(rows + count)
    records = numbers.standard_normal((rows, width)).astype(dtype)
    places = numbers.permutation(rows)[:count].astype(places_dtype)
    before, gathered = records.copy(), np.full((count, width), np.nan, dtype)
    gather_records(launcher, records, places, gathered)
    np.testing.assert_array_equal(gathered, before[places])
    np.testing.assert_array_equal(records, before)

    scatter_records(launcher, -gathered, places, records)
    expected = before.copy()
    expected[places] = -before[places]
    np.testing.assert_array_equal(records, expected)

    target = np.full((rows + 3, width), np.nan, dtype)
    to = numbers.permutation(rows + 3)[:count]
    copy_between(launcher, records, places, target, to)
    expected_target = np.full_like(target, np.nan)
    expected_target[to] = records[places]
    np.testing.assert_array_equal(target, expected_target)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", WIDTHS)
def test_each_width_and_number_of_records_between_others(dtype, width):
    numbers, stream = np.random.default_rng(width), CpuDevice(1).stream()
    ahead = prefetched_rows(width * np.dtype(dtype).itemsize)
    records = numbers.standard_normal((2 * ahead + 40, width)).astype(dtype)
    for count in (0, 1, 2, ahead - 1, ahead, ahead + 1, 2 * ahead + 3):
        places = numbers.permutation(records.shape[0])[:count]
        # What is moved stands between other records, and begins at an odd one: on no border of a register.
        around = numbers.standard_normal((count + 2, width)).astype(dtype)
        expected = around.copy()
        gather_records(stream, records, places, around[1:-1])
        expected[1:-1] = records[places]
        assert around.tobytes() == expected.tobytes()

        changed = records.copy()
        scatter_records(stream, -around[1:-1], places, changed)
        expected = records.copy()
        expected[places] = -around[1:-1]
        assert changed.tobytes() == expected.tobytes()


def test_bits_that_are_no_numbers_are_moved_as_they_are():
    bits = np.random.default_rng(1).integers(0, 2**32, (30, 12), dtype=np.uint32)
    bits[:10] |= 0x7F80_0001  # signalling and quiet NaNs
    gathered = np.zeros((30, 12), np.float32)
    gather_records(CpuDevice(1), bits.view(np.float32), np.arange(30), gathered)
    assert gathered.tobytes() == bits.tobytes()


def test_insert_says_which_rows_are_where():
    gathered, scratchpad, slot_rows = np.ones((3, 20), np.float32), np.zeros((6, 20), np.float32), np.full(6, -1)
    insert_records(
        CpuDevice(1).stream(), gathered, np.array([4, 0, 5], np.int32), np.array([7, 8, 9]), scratchpad, slot_rows
    )
    np.testing.assert_array_equal(scratchpad[:, 0], [1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(slot_rows, [8, -1, -1, -1, 7, 9])


def test_threads_that_move_at_once_on_shared_workers():
    device, numbers = CpuDevice(3), np.random.default_rng(2)
    records = numbers.standard_normal((5000, 20)).astype(np.float32)
    wrong = []

    def move(seed):
        places = np.random.default_rng(seed).permutation(5000)[:3000]
        gathered, mine = np.zeros((3000, 20), np.float32), np.zeros_like(records)
        for _ in range(20):
            gather_records(device, records, places, gathered)
            scatter_records(device, gathered, places, mine)
            if not (gathered == records[places]).all() or not (mine[places] == gathered).all():
                wrong.append(seed)
            gathered[:], mine[:] = 0, 0

    with device.running():
        threads = [threading.Thread(target=move, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("record_bytes", [4, 16, 24, 32, 48, 64, 80, 96, 112, 128, 176, 240, 528, 1040])
def test_every_line_of_a_record_is_asked_for(record_bytes):
    missed = False
    for start in range(0, 64 * record_bytes, record_bytes):
        asked_for = {(start + byte) // 64 for byte in range(0, record_bytes, 64)}
        missed |= (start + record_bytes - 1) // 64 not in asked_for
    assert crosses_a_line_more(record_bytes) == missed
