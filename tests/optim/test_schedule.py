"""The learning rate by step, against values computed by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.errors import ConfigError
from cupyrec.optim.schedule import WarmupPolynomialDecay


def rates(schedule, steps):
    return [schedule(step) for step in steps]


def test_constant():
    assert rates(WarmupPolynomialDecay(0.3), [0, 1, 10**9]) == [0.3, 0.3, 0.3]


def test_warmup_reaches_the_full_rate_on_its_last_step():
    schedule = WarmupPolynomialDecay(0.8, warmup_steps=4)
    assert rates(schedule, range(6)) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rel=1e-15)


def test_square_decay_to_the_end_rate():
    schedule = WarmupPolynomialDecay(1.0, decay_start_step=2, decay_steps=4, end_rate=0.2)
    # 0.2 + 0.8 (1 - t/4)**2 for t = 0 .. 4.
    expected = [1, 1, 1, 0.65, 0.4, 0.25, 0.2, 0.2]
    assert rates(schedule, range(8)) == pytest.approx(expected, rel=1e-15)


def test_linear_decay_to_zero():
    schedule = WarmupPolynomialDecay(0.4, decay_steps=4, power=1.0)
    assert rates(schedule, [0, 1, 2, 3, 4, 10**9]) == pytest.approx([0.4, 0.3, 0.2, 0.1, 0, 0], rel=1e-15)


def test_a_decay_without_a_start_begins_after_the_warmup():
    schedule = WarmupPolynomialDecay(1.0, warmup_steps=2, decay_steps=2, power=1.0)
    assert rates(schedule, range(6)) == pytest.approx([0.5, 1, 1, 0.5, 0, 0], rel=1e-15)


def test_a_decay_within_the_warmup_is_refused():
    with pytest.raises(ConfigError, match="begin at step 1, before the end of the warm-up of 3 steps"):
        WarmupPolynomialDecay(1.0, warmup_steps=3, decay_start_step=1, decay_steps=4)


@given(
    warmup=st.integers(0, 50),
    hold=st.integers(0, 50),
    decay=st.integers(0, 50),
    end=st.floats(0, 0.5),
    power=st.floats(0.5, 4),
)
def test_rises_holds_falls_and_stays_between(warmup, hold, decay, end, power):
    schedule = WarmupPolynomialDecay(0.5, warmup, warmup + hold, decay, end, power)
    values = rates(schedule, range(warmup + hold + decay + 3))
    assert all(0 <= value <= 0.5 for value in values)
    rising, falling = values[:warmup], values[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert max(values) == 0.5
    assert values[-1] == (end if decay else 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": "0.1"}, "the learning rate must be a number, but is '0.1'"),
        ({"rate": True}, "the learning rate must be a number, but is True"),
        ({"rate": 1.0, "warmup_steps": None}, "warmup_steps of the schedule must be a number, but is None"),
        ({"rate": 0.0}, "the learning rate must be above 0, but is 0.0"),
        ({"rate": -1.0}, "the learning rate must be above 0, but is -1.0"),
        ({"rate": math.nan}, "the learning rate must be a number, but is nan"),
        ({"rate": math.inf}, "the learning rate must be a number, but is inf"),
        ({"rate": 1.0, "warmup_steps": math.inf}, "warmup_steps of the schedule must be a number, but is inf"),
        ({"rate": 1.0, "power": math.inf}, "power of the schedule must be a number, but is inf"),
        ({"rate": 1.0, "warmup_steps": -1}, "warm-up and decay steps must not be negative"),
        ({"rate": 1.0, "decay_start_step": -1}, "warm-up and decay steps must not be negative"),
        ({"rate": 1.0, "decay_steps": -1}, "warm-up and decay steps must not be negative"),
        ({"rate": 1.0, "end_rate": 1.5}, "the end learning rate must lie between 0 and 1.0, but is 1.5"),
        ({"rate": 1.0, "end_rate": -0.5}, "the end learning rate must lie between 0 and 1.0, but is -0.5"),
        ({"rate": 1.0, "end_rate": math.nan}, "end_rate of the schedule must be a number, but is nan"),
        ({"rate": 1.0, "power": 0.0}, "the power of the decay must be above 0, but is 0.0"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        WarmupPolynomialDecay(**settings)
    assert str(caught.value) == message
