"""What is offered to the CPU device's workers: how many run it, what they hold, and what comes of errors."""

import threading
import weakref

import numpy as np
import pytest

from cupyrec.devices.cpu import CpuDevice


def test_nobody_runs_it_where_nothing_runs():
    calls = []
    CpuDevice(3).offer(lambda: calls.append(1), 2)
    with CpuDevice(1).running() as device:
        device.offer(lambda: calls.append(1), 2)
    assert calls == []


@pytest.mark.parametrize(("workers", "ran"), [(0, 0), (1, 1), (2, 2), (3, 2), (9, 2)])
def test_so_many_run_it_at_most(workers, ran):
    names = []
    with CpuDevice(3).running() as device:
        device.offer(lambda given: names.append((threading.current_thread().name, given)), workers, 5)
    assert sorted(names) == [(f"cupyrec-cpu-{number}", 5) for number in range(1, ran + 1)]


def test_launches_go_on_after_an_error_in_what_was_offered():
    def fail():
        raise ZeroDivisionError

    parts = []
    with CpuDevice(2).running() as device:
        device.offer(fail, 1)
        device.launch(lambda start, stop: parts.append((start, stop)), 2)
    assert sorted(parts) == [(0, 1), (1, 2)]


def test_arrays_are_let_go_once_it_has_run():
    with CpuDevice(2).running() as device:
        array = np.zeros(3)
        gone = threading.Event()
        weakref.finalize(array, gone.set)
        device.offer(lambda given: None, 1, array)
        del array
        assert gone.wait(60)
