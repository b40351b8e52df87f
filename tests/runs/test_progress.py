"""Progress on made-up streams and a clock that is set by hand."""

import io
import os
import sys
import threading

import pytest
from tqdm import TMonitor

from cupyrec.runs.progress import BarProgress, LineProgress, RunMeter, format_duration, open_progress


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def run(progress, clock, steps, *, seconds=1.0, batch=1000, fractions=True, loss=0.5, first=1):
    for step in range(first, first + steps):
        progress.update(step, step * batch, loss, step / 100 if fractions else None)
        clock.seconds += seconds


def test_a_stream_that_is_no_terminal_gets_lines_and_a_terminal_a_bar(clock):
    assert isinstance(open_progress(io.StringIO(), clock=clock), LineProgress)
    assert isinstance(open_progress(Terminal(), clock=clock), BarProgress)


def test_stderr_is_the_default(capsys, clock):
    progress = open_progress(clock=clock)
    progress.message("hello")
    progress.close()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_lines_come_at_most_so_often_and_the_last_state_at_the_end(clock):
    stream = io.StringIO()
    progress = LineProgress(stream, 10.0, clock)
    run(progress, clock, 25)
    assert stream.getvalue().splitlines() == [
        "step 11  11% done  loss 0.5000  1,000 samples/s  1 min 29 s left",
        "step 21  21% done  loss 0.5000  1,000 samples/s  1 min 19 s left",
    ]
    progress.close()
    progress.close()
    assert stream.getvalue().splitlines()[2:] == ["step 25  25% done  loss 0.5000  1,000 samples/s  1 min 15 s left"]


def test_what_was_just_shown_is_not_shown_again_at_the_end(clock):
    stream = io.StringIO()
    progress = LineProgress(stream, 0.0, clock)
    run(progress, clock, 1)
    progress.close()
    assert stream.getvalue() == "step 1  1% done  loss 0.5000\n"


def test_the_end_says_100_percent_and_no_time_left(clock):
    stream = io.StringIO()
    progress = LineProgress(stream, 1e9, clock)
    run(progress, clock, 100, batch=123_456)
    progress.close()
    assert stream.getvalue() == "step 100  100% done  loss 0.5000  123,000 samples/s\n"


def test_99_percent_and_more_is_not_100():
    meter = RunMeter()
    meter.note(0.0, 1, 1, 0.5, 0.9999)
    assert meter.done_parts() == ["99% done"]


def test_an_unknown_share_is_left_out(clock):
    stream = io.StringIO()
    progress = LineProgress(stream, 1.0, clock)
    run(progress, clock, 3, fractions=False, batch=5)
    assert stream.getvalue().splitlines()[-1] == "step 3  loss 0.5000  5 samples/s"


def test_lines_have_no_control_characters_and_messages_come_at_once(clock):
    stream = io.StringIO()
    progress = LineProgress(stream, 2.0, clock)
    progress.message("training on 2 threads")
    run(progress, clock, 4)
    progress.message("saved")
    progress.close()
    lines = stream.getvalue().split("\n")
    assert lines[0] == "training on 2 threads"
    assert lines[2] == "saved"
    assert lines[-1] == ""
    assert all(line.isprintable() for line in lines)


def test_nothing_to_show_shows_nothing(clock):
    for stream in (io.StringIO(), Terminal()):
        progress = open_progress(stream, clock=clock)
        progress.close()
        assert stream.getvalue() == ""


def test_the_loss_is_the_mean_at_first_and_follows_later():
    meter = RunMeter()
    meter.note(0.0, 1, 1, 2.0, None)
    assert meter.loss == pytest.approx(2.0)
    meter.note(0.0, 2, 2, 1.0, None)
    assert meter.loss == pytest.approx(1.5, abs=0.01)
    for step in range(3, 1000):
        meter.note(0.0, step, step, 0.25, None)
    assert meter.loss == pytest.approx(0.25, abs=0.001)


def test_the_rate_is_that_of_the_last_half_minute():
    meter = RunMeter()
    samples = 0
    for second in range(200):
        samples += 1000 if second < 100 else 3000
        meter.note(float(second), second, samples, 0.5, None)
        if second == 99:
            assert meter.samples_per_s == 1000
        if second == 115:
            assert 1000 < meter.samples_per_s < 3000
        if second == 140:
            assert meter.samples_per_s == 3000


def test_the_rate_of_many_quick_updates_needs_few_marks():
    meter = RunMeter()
    for i in range(100_000):
        meter.note(i / 1000, i, i * 10, 0.5, None)
    assert meter.samples_per_s == pytest.approx(10_000)
    assert len(meter._marks) <= 33


def test_time_left_of_a_resumed_run_counts_from_where_it_began():
    meter = RunMeter()
    meter.note(50.0, 1, 1, 0.5, 0.60)
    assert meter.seconds_left is None
    meter.note(60.0, 2, 2, 0.5, 0.70)
    assert meter.seconds_left == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (80, "1 min 20 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (86_400 * 3 + 4 * 3600 + 59 * 60, "3 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("batch", "text"), [(0.0123, "0.0123"), (9.876, "9.88"), (99.96, "100"), (41_273, "41,300")])
def test_rates_have_three_digits(clock, batch, text):
    stream = io.StringIO()
    progress = LineProgress(stream, 1.0, clock)
    run(progress, clock, 2, batch=batch, fractions=False)
    assert stream.getvalue().splitlines()[-1].endswith(f"  {text} samples/s")


def test_a_terminal_gets_a_bar_with_all_that_is_known(clock):
    terminal = Terminal()
    progress = BarProgress(terminal, clock)
    run(progress, clock, 42)
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith(" 42% |████▏     | step 42")
    assert "| step 42  loss 0.5000  1,000 samples/s  58 s left" in last
    progress.close()
    progress.close()
    assert terminal.getvalue().endswith("\n")


def test_a_bar_without_a_known_share_is_only_its_text(clock):
    terminal = Terminal()
    progress = BarProgress(terminal, clock)
    run(progress, clock, 3, fractions=False)
    progress.close()
    last = terminal.getvalue().split("\r")[-1]
    assert last.rstrip() == "step 3  loss 0.5000  1,000 samples/s"


def test_a_bar_is_drawn_ten_times_a_second_at_most_and_its_end_is_shown(clock):
    terminal = Terminal()
    progress = BarProgress(terminal, clock)
    run(progress, clock, 90, seconds=1 / 128)  # 0.7 s
    assert terminal.getvalue().count("step") == 7
    assert "step 90" not in terminal.getvalue()
    progress.close()
    assert "step 90" in terminal.getvalue()


def test_messages_stand_on_lines_of_their_own_above_the_bar(clock):
    terminal = Terminal()
    progress = BarProgress(terminal, clock)
    progress.message("before")
    run(progress, clock, 2)
    progress.message("between")
    run(progress, clock, 2, first=3)
    progress.close()
    shown = terminal.getvalue()
    assert shown.startswith("before\n")
    assert "\rbetween\n" in shown
    assert shown.index("between") < shown.index("step 4")


@pytest.mark.parametrize(("columns", "longest"), [(40, 40), (0, 80), (200, 80)])
def test_the_bar_keeps_within_the_terminal(clock, monkeypatch, columns, longest):
    terminal = Terminal()
    terminal.fileno = lambda: 2
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    progress = BarProgress(terminal, clock)
    run(progress, clock, 30, seconds=7777.0)
    progress.close()
    drawn = [line.rstrip("\n") for line in terminal.getvalue().split("\r")]
    assert max(map(len, drawn)) <= longest
    assert "% |" in drawn[-1]


def test_a_terminal_without_a_size_shows_the_bar(clock, monkeypatch):
    """As a pseudo-terminal is before anybody sets its size: 0 rows of 0 columns."""
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal, open(ours, "rb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = open_progress(clock=clock)
        run(progress, clock, 2)
        progress.close()
        shown = b""
        while not shown.endswith(b"\n"):  # which close writes
            shown += screen.read(4096)
    assert isinstance(progress, BarProgress)
    assert "step 2  loss 0.5000  1,000 samples/s  1 min 38 s left" in shown.decode()


def test_a_bar_starts_no_thread(clock):
    progress = BarProgress(Terminal(), clock)
    run(progress, clock, 2)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, TMonitor)]
    progress.close()


def test_a_loss_that_grows_without_bound_stays_short():
    meter = RunMeter()
    meter.note(0.0, 1, 500, 1e30, None)
    assert meter.parts() == ["step 1", "loss 1e+30"]
