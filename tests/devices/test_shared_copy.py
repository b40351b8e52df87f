"""Shared copies: every size, with helpers, with helpers that are late, several at once, and interrupted."""

import signal
import threading

import numpy as np
import pytest

from cupyrec.devices import shared_copy
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.shared_copy import HELPERS, SHARED_BYTES, copy_four

DTYPES = np.float32, np.int64, np.int64, np.float32
# Items of the four; the last ones are copied in parts.
SIZES = [(0, 0, 0, 0), (1, 0, 2, 3), (5, 131_071, 0, 0), (7, 131_100, 100, 9), (90_000, 1, 90_001, 60_000)]
LARGE = 100, 300_007, 51, 999


def made_pairs(items, seed=0):
    numbers = np.random.default_rng(seed)
    sources = [numbers.integers(1, 2**20, n).astype(dtype) for n, dtype in zip(items, DTYPES, strict=True)]
    return [(source, np.zeros_like(source)) for source in sources]


def assert_copied(pairs):
    for source, target in pairs:
        assert target.tobytes() == source.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("items", [*SIZES, LARGE])
def test_all_is_copied(threads, items):
    device = CpuDevice(threads)
    for is_running in (False, True):
        pairs = made_pairs(items)
        if is_running:
            with device.running():
                copy_four(device, pairs)
        else:
            copy_four(device, pairs)
        assert_copied(pairs)


def test_each_part_is_copied_once():
    source, nothing = np.arange(1003), np.zeros(0)
    for parts in (1, 2, 7, 1003, 1010):
        target, progress = np.zeros_like(source), np.zeros(2, np.int64)
        arguments = (parts, progress, nothing, nothing, source, target, nothing, nothing, nothing, nothing)
        shared_copy._copy_parts(False, *arguments)
        np.testing.assert_array_equal(target, source)
        np.testing.assert_array_equal(progress, [parts + 1, parts])
        target[:] = 0
        shared_copy._copy_parts(True, *arguments)
        np.testing.assert_array_equal(target, 0)


def test_only_large_copies_are_offered(monkeypatch):
    offers = []
    monkeypatch.setattr(CpuDevice, "offer", lambda self, kernel, workers, waits, *_: offers.append((workers, waits)))
    for rows in (0, 1, SHARED_BYTES // 8 - 1, SHARED_BYTES // 8, SHARED_BYTES):
        copy_four(CpuDevice(1), made_pairs((0, rows, 0, 0)))
    assert offers == [(workers, False) for workers in (0, 0, 0, HELPERS, HELPERS)]


def test_threads_that_copy_at_once_on_shared_workers():
    device, wrong = CpuDevice(3), []

    def copy(seed):
        try:
            pairs = made_pairs(LARGE, seed)
            for _ in range(20):
                copy_four(device, pairs)
                assert_copied(pairs)
                for _, target in pairs:
                    target[:] = 0
        except AssertionError as error:
            wrong.append(error)

    with device.running():
        threads = [threading.Thread(target=copy, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_waits_for_no_worker_that_is_busy_and_nothing_is_written_later():
    device, release, begun = CpuDevice(3), threading.Event(), threading.Barrier(3, timeout=60)
    first = made_pairs(LARGE, 1)
    second = [(source, target) for (source, _), (_, target) in zip(made_pairs(LARGE, 2), first, strict=True)]

    def stay():
        begun.wait()
        assert release.wait(60)

    with device.running():
        device.offer(stay, 2)
        begun.wait()
        # Both workers stay until both copies are done: only then do they come to what was offered.
        copy_four(device, first)
        assert_copied(first)
        copy_four(device, second)
        release.set()
    assert_copied(second)


def test_helpers_that_are_at_a_part_are_waited_for(monkeypatch):
    device, offer = CpuDevice(2), CpuDevice.offer
    copy_four(device, made_pairs(LARGE))  # compiled before
    has_returned, late = threading.Event(), []

    def offer_and_hold_the_first_part(self, kernel, workers, waits, parts, progress, *arrays):
        progress[0] += 1

        def copy_the_first_part():
            late.append(has_returned.wait(0.05))
            alone = np.zeros(2, np.int64)
            kernel(False, 1, alone, *(array[: array.shape[0] // parts] for array in arrays))
            progress[1] += 1

        offer(self, copy_the_first_part, 1)

    monkeypatch.setattr(CpuDevice, "offer", offer_and_hold_the_first_part)
    pairs = made_pairs(LARGE)
    with device.running():
        copy_four(device, pairs)
        has_returned.set()
        assert_copied(pairs)
    assert late == [False]


def test_an_interrupted_copy_is_done_before_the_interrupt_surfaces(monkeypatch):
    monkeypatch.setattr(CpuDevice, "offer", lambda *_: signal.raise_signal(signal.SIGINT))
    pairs = made_pairs(LARGE)
    with pytest.raises(KeyboardInterrupt):
        copy_four(CpuDevice(2), pairs)
    assert_copied(pairs)
