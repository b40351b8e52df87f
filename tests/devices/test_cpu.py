"""The CPU device: launches, matrix products in parts, errors from workers, the life of the threads."""

import signal
import threading

import numpy as np
import pytest
from cupyrec_threads import cupyrec_threads
from threadpoolctl import ThreadpoolController

from cupyrec.devices import cpu
from cupyrec.devices.cpu import CpuDevice, usable_cores
from cupyrec.errors import ConfigError


def worker_threads():
    return cupyrec_threads("cupyrec-cpu-")


def blas_threads():
    """Of NumPy's BLAS: other libraries bring their own, which nothing here uses."""
    pools = [pool for pool in ThreadpoolController().info() if pool["user_api"] == "blas"]
    return [pool["num_threads"] for pool in pools if "numpy" in pool["filepath"]]


def test_threads():
    assert CpuDevice().threads == usable_cores() >= 1
    assert CpuDevice(3).threads == 3
    for threads in (0, -1):
        with pytest.raises(ConfigError, match=f"threads must be at least 1, but is {threads}"):
            CpuDevice(threads)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("items", [0, 1, 2, 3, 4, 5, 17, 100])
def test_launch_covers_each_item_once(threads, items):
    device, counts, parts = CpuDevice(threads), np.zeros(items, dtype=int), []

    def kernel(start, stop, counts, factor):
        parts.append((start, stop))
        counts[start:stop] += factor

    with device.running():
        device.launch(kernel, items, counts, 1)
    np.testing.assert_array_equal(counts, 1)
    assert len(parts) == max(1, min(threads, items))
    sizes = [stop - start for start, stop in parts]
    assert max(sizes) - min(sizes) <= 1


def test_little_is_done_by_the_calling_thread_alone():
    device, parts = CpuDevice(3), []

    def kernel(start, stop):
        parts.append((start, stop, threading.current_thread().name))

    here = threading.current_thread().name
    with device.running():
        for bounds in (None, np.array([0, 5, 5, 9])):
            device.launch(kernel, 9, bounds=bounds, floats=cpu.SMALL_LAUNCH_FLOATS - 1)
            assert parts == [(0, 9, here)]
            parts.clear()
        device.launch(kernel, 9, floats=cpu.SMALL_LAUNCH_FLOATS)
        assert sorted(part[:2] for part in parts) == [(0, 3), (3, 6), (6, 9)]


def test_a_worker_that_is_ended_in_its_own_thread_does_not_wait_for_itself():
    """What is collected as garbage may be so in any thread."""
    worker, errors = cpu._Worker("cupyrec-cpu-own"), []
    call = cpu._Call(worker.join, ())
    worker.calls.put(call)
    assert call.waiting.acquire(timeout=60)
    errors.append(call.error)
    worker.end()
    worker.join()
    assert errors == [None]


def test_an_interrupt_between_two_hand_overs_waits_for_all_parts(monkeypatch):
    device, hand_over, done, calls = CpuDevice(3), CpuDevice._hand_over, [], []

    def interrupted(self, handed):
        calls.append(len(handed))
        hand_over(self, handed if len(calls) > 1 else handed[:1])
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(CpuDevice, "_hand_over", interrupted)
    with device.running(), pytest.raises(KeyboardInterrupt):
        device.launch(lambda start, stop: done.append((start, stop)), 3)
    # The calling thread's own part is left out; those that were handed over are done, once.
    assert sorted(done) == [(1, 2), (2, 3)]
    assert calls == [2, 2]


def test_an_interrupt_while_workers_end_ends_them_all(monkeypatch):
    device, join, interrupts = CpuDevice(4), threading.Thread.join, [KeyboardInterrupt]

    def interrupted(thread, *timeout):
        if thread.name.startswith("cupyrec-cpu-") and interrupts:
            raise interrupts.pop()
        join(thread, *timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt), device.running():
        assert len(worker_threads()) == 3
    assert worker_threads() == []


def test_workers_may_be_kept_between_two_runs():
    device = CpuDevice(3)
    with device.keeping_workers():
        kept = worker_threads()
        assert len(kept) == 2
        with device.running():
            assert worker_threads() == kept
        assert worker_threads() == kept
    assert worker_threads() == []


def test_launch_on_given_bounds():
    device, parts = CpuDevice(3), []
    with device.running():
        device.launch(lambda start, stop: parts.append((start, stop)), 100, bounds=np.array([0, 90, 90, 100]))
    assert sorted(parts) == [(0, 90), (90, 90), (90, 100)]


def test_parts_run_on_threads_of_their_own():
    device, meeting, names = CpuDevice(3), threading.Barrier(3, timeout=60), []

    def kernel(start, stop):
        names.append(threading.current_thread().name)
        meeting.wait()

    with device.running():
        device.launch(kernel, 3)
    assert sorted(names) == sorted([threading.current_thread().name, "cupyrec-cpu-1", "cupyrec-cpu-2"])


def test_launch_without_running_uses_the_calling_thread():
    parts = []
    CpuDevice(3).launch(lambda start, stop: parts.append((start, stop)), 10)
    assert parts == [(0, 10)]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_error_in_any_part_surfaces_after_all_have_ended(failing):
    device, ended = CpuDevice(3), np.zeros(3, dtype=int)

    def kernel(start, stop):
        if start == failing:
            raise ZeroDivisionError(f"part {start}")
        ended[start] += 1

    with device.running():
        for repetition in (1, 2):
            with pytest.raises(ZeroDivisionError, match=f"part {failing}"):
                device.launch(kernel, 3)
            assert [ended[part] for part in range(3) if part != failing] == [repetition] * 2
        device.launch(lambda start, stop: ended.__setitem__(start, 9), 3)
    np.testing.assert_array_equal(ended, 9)


def test_interrupt_does_not_end_a_launch_before_its_parts():
    device, first_ended, slow = CpuDevice(2), threading.Event(), threading.Event()
    written = np.zeros(2, dtype=int)

    def kernel(start, stop):
        if start == 0:
            first_ended.set()
            return
        first_ended.wait(60)
        slow.wait(0.02)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        slow.wait(0.2)
        written[start] = 1

    with device.running():
        with pytest.raises(KeyboardInterrupt):
            device.launch(kernel, 2)
        assert written[1] == 1


SHAPES = [(1, 1, 1), (2, 3, 4), (7, 5, 3), (1, 64, 5), (5, 64, 1), (3, 1, 3), (0, 3, 4), (3, 0, 4), (3, 4, 0)]


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("transposed", ["neither", "A", "B", "both"])
def test_matmul_in_parts(threads, transposed, monkeypatch):
    monkeypatch.setattr(cpu, "SMALL_PRODUCT_FLOPS", 0)
    device, random = CpuDevice(threads), np.random.default_rng(1)
    with device.running():
        for m, k, n in SHAPES:
            for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-13)):
                A, B = random.standard_normal((m, k)).astype(dtype), random.standard_normal((k, n)).astype(dtype)
                # The same values, laid out the other way round.
                A = np.ascontiguousarray(A.T).T if transposed in ("A", "both") else A
                B = np.ascontiguousarray(B.T).T if transposed in ("B", "both") else B
                before = A.copy(), B.copy()
                out = np.full((m, n), np.nan, dtype=dtype)
                device.matmul(A, B, out)
                np.testing.assert_allclose(out, A @ B, rtol=tolerance, atol=tolerance)
                np.testing.assert_array_equal(A, before[0])
                np.testing.assert_array_equal(B, before[1])


def test_large_matmul_is_cut_and_a_small_one_is_not(monkeypatch):
    calls = []
    monkeypatch.setattr(cpu, "_matmul", lambda A, B, out: calls.append(out.shape))
    device = CpuDevice(3)
    with device.running():
        device.matmul(np.ones((4, 4)), np.ones((4, 4)), np.empty((4, 4)))
        assert calls == []
        device.matmul(np.ones((301, 100)), np.ones((100, 200)), np.empty((301, 200)))
        assert sorted(calls) == [(100, 200), (100, 200), (101, 200)]
        calls.clear()
        device.matmul(np.ones((200, 100)), np.ones((100, 301)), np.empty((200, 301)))
        assert sorted(calls) == [(200, 100), (200, 100), (200, 101)]


def test_large_matmul_equals_numpy():
    random, device = np.random.default_rng(2), CpuDevice(3)
    A, B = random.standard_normal((301, 100)), random.standard_normal((100, 200))
    out, transposed = np.empty((301, 200)), np.empty((200, 301))
    with device.running():
        device.matmul(A, B, out)
        device.matmul(B.T, A.T, transposed)
    np.testing.assert_allclose(out, A @ B, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(transposed, (A @ B).T, rtol=1e-12, atol=1e-12)


def test_overflow_is_as_quiet_in_workers_as_the_caller_wants_it():
    device, out = CpuDevice(2), np.empty((400, 100), dtype=np.float32)
    A, B = np.full((400, 200), 1e30, dtype=np.float32), np.full((200, 100), 1e30, dtype=np.float32)
    with device.running(), np.errstate(over="ignore"):
        device.matmul(A, B, out)
    assert np.isinf(out).all()


def test_matmul_error_in_a_worker_surfaces():
    device = CpuDevice(2)
    with device.running(), pytest.raises(ValueError, match="matmul"):
        device.matmul(np.ones((300, 100)), np.ones((100, 200)), np.empty((299, 200)))


def test_running_starts_workers_holds_blas_and_undoes_both():
    before, device = blas_threads(), CpuDevice(3)
    assert before, "NumPy's BLAS is meant to be seen"
    with device.running() as same:
        assert same is device
        assert len(worker_threads()) == 2
        assert set(blas_threads()) == {1}
    assert worker_threads() == []
    assert blas_threads() == before


def test_running_may_be_nested_and_entered_again():
    before, device = blas_threads(), CpuDevice(2)
    for _ in range(2):
        with device.running():
            with device.running():
                assert len(worker_threads()) == 1
            assert len(worker_threads()) == 1
            assert set(blas_threads()) == {1}
        assert worker_threads() == []
    assert blas_threads() == before


def test_an_error_inside_running_still_undoes_both():
    before, device = blas_threads(), CpuDevice(3)
    with pytest.raises(ZeroDivisionError), device.running():
        raise ZeroDivisionError
    assert worker_threads() == []
    assert blas_threads() == before
    with device.running():
        assert len(worker_threads()) == 2


def test_empty():
    array = CpuDevice(1).zeros((3, 5), np.float64)
    assert (array.shape, array.dtype, array.flags.c_contiguous) == ((3, 5), np.float64, True)
    assert CpuDevice(1).zeros(7).dtype == np.float32
