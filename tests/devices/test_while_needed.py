"""What several need is set up once, and undone by the last; also where they are several threads or devices."""

import sys
import threading

import numpy as np
import pytest
from gpu_devices import emulated_device
from test_cpu import blas_threads, worker_threads

from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.gpu import TURN_S
from cupyrec.devices.while_needed import WhileNeeded


def test_set_up_by_the_first_and_undone_by_the_last():
    log = []

    def begin():
        log.append("begun")
        return lambda: log.append("ended")

    needs = WhileNeeded(begin)
    for _ in range(2):
        with needs.needed(), needs.needed():
            assert log.pop() == "begun"
        assert log.pop() == "ended"
        assert not log


def test_what_cannot_be_set_up_is_not_undone():
    def begin():
        raise ZeroDivisionError

    needs = WhileNeeded(begin)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), needs.needed():
            pass


def test_an_interrupt_as_it_is_set_up_leaves_nothing():
    log, interrupts = [], [KeyboardInterrupt, None]

    def begin():
        log.append("begun")
        if error := interrupts.pop(0):
            raise error
        return lambda: log.append("ended")

    needs = WhileNeeded(begin)
    with pytest.raises(KeyboardInterrupt), needs.needed():
        log.append("never")
    with needs.needed():
        assert log == ["begun", "begun"]
    assert log == ["begun", "begun", "ended"]


def test_an_interrupt_as_it_is_undone_waits_for_that():
    log, interrupts = [], [KeyboardInterrupt, KeyboardInterrupt, None]

    def end():
        log.append("ending")
        if error := interrupts.pop(0):
            raise error

    needs = WhileNeeded(lambda: end)
    with pytest.raises(KeyboardInterrupt), needs.needed():
        pass
    assert log == ["ending"] * 3
    interrupts.append(None)
    with needs.needed():
        pass
    assert log == ["ending"] * 4


def test_in_a_child_it_is_undone_and_set_up_anew():
    log = []

    def begin():
        log.append("begun")
        return lambda: log.append("ended")

    needs = WhileNeeded(begin)
    with needs.needed():
        needs._lock.acquire()  # as by another thread, which the child has not
        needs.after_fork()
        assert log == ["begun", "ended"]
        with needs.needed():
            assert log == ["begun", "ended", "begun"]
        assert log == ["begun", "ended", "begun", "ended"]
    assert log == ["begun", "ended", "begun", "ended"]
    with needs.needed():
        assert len(log) == 5


def test_blas_is_restored_by_another_thread_than_held_it():
    before, left, end = blas_threads(), threading.Event(), threading.Event()
    is_in, leave = threading.Event(), threading.Event()

    def hold():
        with CpuDevice(2).running():
            is_in.set()
            assert leave.wait(60)
        left.set()
        assert end.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_in.wait(60)
    with CpuDevice(2).running():
        leave.set()
        assert left.wait(60)
        assert set(blas_threads()) == {1}
    assert blas_threads() == before
    end.set()
    holder.join()


class Overlapping:
    """Another thread that is within device.running() from the beginning until `leave`."""

    def __init__(self, device):
        self._is_in, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(device,))
        self._thread.start()
        assert self._is_in.wait(60)

    def _run(self, device):
        with device.running():
            self._is_in.set()
            assert self._leave.wait(60)

    def leave(self):
        self._leave.set()
        self._thread.join()


def test_blas_is_as_before_when_the_last_of_two_devices_has_run():
    before = blas_threads()
    other = Overlapping(CpuDevice(2))
    with CpuDevice(3).running():
        other.leave()
        assert set(blas_threads()) == {1}
    assert blas_threads() == before


def test_blas_is_held_and_let_go_by_whichever_thread_is_there():
    before = blas_threads()
    with CpuDevice(2).running():  # by this one, as many a program does first
        pass
    other = Overlapping(CpuDevice(2))
    assert set(blas_threads()) == {1}
    other.leave()
    assert blas_threads() == before


def test_python_takes_turns_as_before_when_the_last_of_two_devices_has_run():
    before = sys.getswitchinterval()
    other = Overlapping(emulated_device())
    with emulated_device().running():
        other.leave()
        assert sys.getswitchinterval() == pytest.approx(TURN_S)
    assert sys.getswitchinterval() == before


def test_turns_that_are_quicker_stay_so():
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S / 4)
    try:
        with emulated_device().running():
            assert sys.getswitchinterval() == pytest.approx(TURN_S / 4, rel=0.1)
    finally:
        sys.setswitchinterval(before)


def test_threads_that_use_one_device_share_its_workers():
    device, errors = CpuDevice(4), []
    other = Overlapping(device)

    def use():
        for _ in range(20):
            items = np.zeros(1000)
            with device.running():
                assert len(worker_threads()) == 3
                device.launch(lambda start, stop, items=items: items[start:stop].__iadd__(1), items.size)
            if items.sum() != items.size:
                errors.append(items)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    other.leave()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert errors == []
    assert worker_threads() == []


def test_workers_that_do_not_all_start_are_stopped(monkeypatch):
    device, start = CpuDevice(3), threading.Thread.start

    def interrupted(thread):
        if thread.name == "cupyrec-cpu-2":
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), device.running():
        pass
    assert worker_threads() == []
    monkeypatch.undo()
    with device.running():
        assert len(worker_threads()) == 2
