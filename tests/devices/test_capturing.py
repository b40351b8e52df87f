"""What must not be done while a graph is captured is done before, between or after, and never forgotten."""

import gc
import threading

import pytest

from cupyrec.devices.capturing import Capturing, capturing_on


def in_another_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_what_is_put_off_in_a_capture_is_done_after_it():
    capturing, done = Capturing(), []
    with capturing.capture():
        capturing.as_soon_as_can_be(lambda: done.append("own"))
        in_another_thread(lambda: capturing.as_soon_as_can_be(lambda: done.append("other")))
        assert done == []
    assert done == ["own", "other"]


def test_python_collects_nothing_while_a_graph_is_captured():
    capturing = Capturing()
    with capturing.capture():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with capturing.capture():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_capture_within_a_capture_is_refused():
    """It would wait for itself for ever."""
    capturing = Capturing()
    with capturing.capture():
        with pytest.raises(RuntimeError, match="captures another"), capturing.capture():
            pass
        assert capturing._thread == threading.get_ident()


def test_what_was_put_off_is_done_before_what_is_done_between():
    capturing, done = Capturing(), []
    capturing._put_off.append(lambda: done.append("put off"))
    with capturing.between():
        done.append("between")
    assert done == ["put off", "between"]


def test_what_is_put_off_while_something_is_done_between_is_done_when_that_ends():
    capturing, done = Capturing(), []
    with capturing.between():
        in_another_thread(lambda: capturing.as_soon_as_can_be(lambda: done.append("late")))
        assert done == []
    assert done == ["late"]


def test_what_is_put_off_while_others_are_given_back_is_done_too():
    capturing, done = Capturing(), []

    def first():
        in_another_thread(lambda: capturing.as_soon_as_can_be(lambda: done.append("second")))
        done.append("first")

    capturing.as_soon_as_can_be(first)
    assert done == ["first", "second"]
    assert not capturing._put_off


class LateLock:
    """A lock, just before the first release of which another thread puts something off, and finds it taken."""

    def __init__(self, put_off):
        self._lock, self._put_off = threading.Lock(), [put_off]

    def acquire(self, blocking):
        return self._lock.acquire(blocking=blocking)

    def release(self):
        if self._put_off:
            in_another_thread(self._put_off.pop())
        self._lock.release()


def test_what_is_put_off_as_the_lock_goes_is_done_too(monkeypatch):
    capturing, done = Capturing(), []
    late = LateLock(lambda: capturing.as_soon_as_can_be(lambda: done.append("late")))
    monkeypatch.setattr(capturing, "_lock", late)
    capturing.as_soon_as_can_be(lambda: done.append("first"))
    assert done == ["first", "late"]


def test_who_captures_may_do_what_is_done_between():
    """CUDA says what it may not do."""
    capturing, done = Capturing(), []
    with capturing.capture(), capturing.between():
        done.append("within")
    assert done == ["within"]


def test_all_that_use_a_device_have_the_same():
    assert capturing_on(0) is capturing_on(0)
    assert capturing_on(0) is not capturing_on(1)
