"""When steps are told of, with losses that are known late."""

import math

import pytest

from cupyrec.errors import DeviceError, DivergenceError
from cupyrec.systems.loss import PendingLoss
from cupyrec.systems.step import StepResult
from cupyrec.systems.step_reports import MOST_UNTOLD, StepReports


class Event:
    """Done when it is said so, or waited for; error: what waiting raises."""

    def __init__(self, error=None):
        self.is_done, self.error, self.waits = False, error, 0

    def synchronize(self):
        self.waits += 1
        if self.error is not None:
            raise self.error
        self.is_done = True


def step(number, event=None, loss=1.0):
    """A result whose loss is known at once, or with an event."""
    return StepResult(number, 4, loss if event is None else PendingLoss([4 * loss], 4, event), 0.1)


@pytest.fixture
def told():
    return []


@pytest.fixture
def reports(told):
    return StepReports(lambda result, share: told.append((result.step, share)))


def test_a_loss_that_is_known_is_told_at_once(reports, told):
    reports.add(step(1), 0.5)
    assert told == [(1, 0.5)]
    event = Event()
    reports.add(step(2, event), 0.75)
    assert told == [(1, 0.5)]
    event.is_done = True
    reports.add(step(3), 1.0)
    assert told == [(1, 0.5), (2, 0.75), (3, 1.0)]
    assert event.waits <= 1


def test_a_known_loss_waits_for_those_before_it(reports, told):
    reports.add(step(1, Event()), 0.0)
    reports.add(step(2), 0.0)
    assert told == []


def test_no_more_than_a_few_are_left_untold(reports, told):
    events = [Event() for _ in range(2 * MOST_UNTOLD)]
    for number, event in enumerate(events):
        reports.add(step(number, event), 0.0)
    assert [number for number, _ in told] == list(range(MOST_UNTOLD))
    assert [event.waits for event in events] == [1] * MOST_UNTOLD + [0] * MOST_UNTOLD
    reports.tell_all()
    assert [number for number, _ in told] == list(range(2 * MOST_UNTOLD))


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_not_told_but_raised(reports, told, loss):
    reports.add(step(1, Event()), 0.0)
    reports.add(step(2, Event(), loss), 0.0)
    reports.add(step(3, Event()), 0.0)
    with pytest.raises(DivergenceError, match=rf"the loss is {loss} at step 2 \(learning rate 0.1\); usual causes"):
        reports.tell_all()
    assert [number for number, _ in told] == [1]


def test_before_an_error_the_steps_before_are_told(reports, told):
    reports.add(step(1, Event()), 0.0)
    reports.tell_before_error()
    assert [number for number, _ in told] == [1]


def test_a_device_that_failed_is_no_error_of_its_own(reports, told):
    reports.add(step(1, Event(DeviceError("CUDA failed"))), 0.0)
    reports.tell_before_error()
    assert told == []
    reports.add(step(2, Event(DeviceError("CUDA failed"))), 0.0)
    with pytest.raises(DeviceError, match="CUDA failed"):
        reports.tell_all()


def test_who_is_told_and_fails_is_told_no_more():
    told = []

    def fail(result, share):
        told.append(result.step)
        raise ZeroDivisionError

    reports = StepReports(fail)
    reports.add(step(1, Event()), 0.0)
    reports.add(step(2, Event()), 0.0)
    with pytest.raises(ZeroDivisionError):
        reports.tell_all()
    reports.tell_before_error()
    assert told == [1]


def test_nobody_needs_to_be_told():
    reports = StepReports(None)
    reports.add(step(1), 0.0)
    with pytest.raises(DivergenceError):
        reports.add(step(2, loss=math.nan), 0.0)
