"""The threads by themselves: the order that the board asks for, pauses, failures, interrupts at awkward places."""

import os
import signal
import threading
import time

import pytest

from cupyrec.errors import ScratchpadError, StageError
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.pipeline.stage_threads import StageThreads, stage_error
from cupyrec.pipeline.stages import COLLECT, EXCHANGE, INSERT, LOAD, PIPELINED, PLAN, STAGES, TRAIN, Board

PATIENCE_S = 30


def made(total=6, *, lookahead=2, own_stages=(), **changed):
    """(board, threads, what was done in which order). changed: what stages do."""
    board, done = Board(PIPELINED, lookahead), []

    def load(batch):
        if batch == total:
            return False
        done.append((LOAD, batch))
        return True

    def stage(name):
        return lambda batch: done.append((name, batch))

    work = {LOAD: load, **{name: stage(name) for name in (PLAN, COLLECT, EXCHANGE, INSERT)}} | changed
    return board, StageThreads(board, work, StageClock(), own_stages), done


@pytest.fixture(autouse=True)
def watchdog():
    """Ends a test that hangs: where a wake-up is lost nobody fails."""
    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def hangs(*_):
    raise AssertionError("nobody goes on")


def train_all(threads, done):
    while (batch := threads.begin_train()) is not None:
        done.append((TRAIN, batch))
        threads.end_train()


def test_all_stages_of_all_batches_in_an_order_that_the_board_allows():
    board, threads, done = made()
    with threads:
        train_all(threads, done)
    assert sorted(done) == sorted((stage, batch) for stage in STAGES for batch in range(6))
    at = {each: number for number, each in enumerate(done)}
    for (stage, batch), number in at.items():
        for before in board.waits_for(stage, batch):
            assert before[1] < 0 or at[before] < number, (stage, batch, before)


@pytest.mark.parametrize("total", range(8))
def test_any_number_of_batches(total):
    _, threads, done = made(total)
    with threads:
        train_all(threads, done)
    assert len(done) == total * len(STAGES)


def test_nothing_but_load_begins_in_a_pause():
    """What the end of a training allows must wait until the pause is over, and then it goes on."""
    board, threads, done = made(12)
    with threads:
        batch = threads.begin_train()
        with threads.paused():
            before = [each for each in done if each[0] != LOAD]
            done.append((TRAIN, batch))
            threads.end_train()
            # Long enough for a thread that does not keep to it.
            time.sleep(0.05)
            assert [each for each in done if each[0] not in (LOAD, TRAIN)] == before
        train_all(threads, done)
    assert board.done == dict.fromkeys(STAGES, 12)


def test_a_pause_waits_for_the_stages_at_work():
    begun, release = threading.Event(), threading.Event()

    def slow(batch):
        if batch == 1:
            begun.set()
            assert release.wait(PATIENCE_S)
            ended.append(batch)

    ended: list = []
    _, threads, done = made(**{COLLECT: slow})
    with threads:
        assert begun.wait(PATIENCE_S)
        timer = threading.Timer(0.05, release.set)
        timer.start()
        with threads.paused():
            assert ended == [1]
        train_all(threads, done)
        timer.join()


def test_the_first_failure_is_the_one_that_is_told():
    first_told = threading.Event()

    def plan(batch):
        if batch == 3:
            raise ZeroDivisionError("first")

    def load(batch):
        if batch == 7:  # 5 is the last that Plan must see before
            assert first_told.wait(PATIENCE_S)
            raise KeyError("second")

    _, threads, _ = made(20, **{PLAN: plan, LOAD: load})
    with threads:
        threads._wait(threads._bell, lambda: threads._failure is not None)
        first_told.set()
    with pytest.raises(StageError, match="stage Plan failed on batch 3, counted from 0: ZeroDivisionError: first"):
        threads.begin_train()


def test_what_becomes_of_an_error():
    error = stage_error(PLAN, 4, ZeroDivisionError())
    assert isinstance(error, StageError)
    assert str(error) == "stage Plan failed on batch 4, counted from 0: ZeroDivisionError"
    for own in (ScratchpadError("too small"), KeyboardInterrupt()):
        assert stage_error(PLAN, 4, own) is own


def test_an_interrupt_of_a_pause_ends_the_pause(monkeypatch):
    _, threads, done = made(12)
    with threads:
        with monkeypatch.context() as patched:
            patched.setattr(threads, "_wait", raises_interrupt)
            with pytest.raises(KeyboardInterrupt), threads.paused():
                pass
        train_all(threads, done)
    assert len(done) == 12 * len(STAGES)


def raises_interrupt(*_):
    raise KeyboardInterrupt


def test_a_real_interrupt_while_threads_end_waits_for_them():
    """Thread.join, interrupted, may count a thread as ended that still runs."""
    begun, release = threading.Event(), threading.Event()

    def slow(batch):
        if batch == 1:
            begun.set()
            assert release.wait(PATIENCE_S)
            ended.append(batch)

    def interrupt():
        while not threads._stopping:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        # Should it come late, it comes to threads that have ended.
        time.sleep(0.1)
        release.set()

    ended: list = []
    _, threads, _ = made(**{COLLECT: slow})
    interrupter = threading.Thread(target=interrupt)
    threads.__enter__()
    assert begun.wait(PATIENCE_S)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        end_and_wait(threads, interrupter)
    assert ended == [1]
    interrupter.join()


def end_and_wait(threads, interrupter):
    threads.__exit__(None, None, None)
    interrupter.join()


def test_only_who_has_something_to_do_is_woken():
    """Load is far ahead and may not go on: nothing that others do wakes it."""
    board, threads, done = made(40, lookahead=2)
    with threads:
        batch = threads.begin_train()
        with threads._lock:
            asleep = [stage for stage in threads._bells if not threads._is_due(stage)]
            threads._tell()
            rung = [stage for stage, bell in threads._bells.items() if not bell._closed.locked()]
        assert asleep
        assert not set(asleep) & set(rung)
        done.append((TRAIN, batch))
        threads.end_train()
        train_all(threads, done)
    assert board.done == dict.fromkeys(STAGES, 40)


@pytest.mark.parametrize("own", [(PLAN,), (PLAN, EXCHANGE), (PLAN, COLLECT, EXCHANGE, INSERT)])
def test_stages_of_the_caller_are_done_before_it_trains_the_first_first(own):
    board, threads, done = made(9, lookahead=20, own_stages=own)
    caller = threading.get_ident()
    doers: dict = {}
    for stage, work in list(threads._work.items()):
        threads._work[stage] = lambda batch, stage=stage, work=work: (
            doers.setdefault(stage, set()).add(threading.get_ident()),
            work(batch),
        )[1]
    with threads:
        threads._wait(threads._bell, lambda: board.total is not None)
        train_all(threads, done)
    assert board.done == dict.fromkeys(STAGES, 9)
    # Load is done: Plan may always go on.
    assert [each for each in done if each[0] in own][:9] == [(PLAN, batch) for batch in range(9)]
    assert {stage for stage, who in doers.items() if who == {caller}} == set(own)
    assert all(caller not in who for stage, who in doers.items() if stage not in own)


def test_a_pause_that_ends_wakes_who_slept():
    """All are asleep, and Load has nothing left that would wake them."""
    board, threads, done = made(3)
    with threads:
        batch = threads.begin_train()
        threads._wait(threads._bell, lambda: board.total is not None)
        with threads.paused():
            done.append((TRAIN, batch))
            threads.end_train()
            time.sleep(0.05)
        train_all(threads, done)
    assert board.done == dict.fromkeys(STAGES, 3)


@pytest.mark.parametrize("moment", ["as it takes the lock", "before it tells"])
def test_an_interrupt_as_a_pause_ends_leaves_no_pause(moment, monkeypatch):
    board, threads, done = made(12)
    with threads:
        with pytest.raises(KeyboardInterrupt):
            pause_interrupted_as_it_ends(threads, moment, monkeypatch)
        monkeypatch.undo()
        train_all(threads, done)
    assert board.done == dict.fromkeys(STAGES, 12)


def pause_interrupted_as_it_ends(threads, moment, monkeypatch):
    with threads.paused():
        if moment == "before it tells":
            monkeypatch.setattr(threads, "_tell", raises_once(threads._tell))
        else:
            monkeypatch.setattr(threads, "_lock", LockThatRefusesOnce(threads._lock))


def raises_once(function):
    """The function, but the calling thread is interrupted the first time."""
    calls, here = [], threading.get_ident()

    def call(*arguments):
        if threading.get_ident() == here and not calls:
            calls.append(1)
            raise KeyboardInterrupt
        return function(*arguments)

    return call


class LockThatRefusesOnce:
    """A lock at which the thread that made this is interrupted once."""

    def __init__(self, lock):
        self._lock, self._here, self._refused = lock, threading.get_ident(), False

    def __enter__(self):
        if threading.get_ident() == self._here and not self._refused:
            self._refused = True
            raise KeyboardInterrupt
        return self._lock.__enter__()

    def __exit__(self, *error):
        return self._lock.__exit__(*error)


def test_an_interrupt_as_it_rings_loses_no_wake_up(monkeypatch):
    """A bell that was not rung is rung when the threads are to end."""
    _, threads, _ = made(30)
    with pytest.raises(KeyboardInterrupt):
        train_with_bells_that_are_interrupted(threads, monkeypatch)
    assert not any(thread.is_alive() for thread in threads._threads)


def train_with_bells_that_are_interrupted(threads, monkeypatch):
    with threads:
        threads.begin_train()
        for bell in threads._bells.values():
            monkeypatch.setattr(bell, "ring", raises_once(bell.ring))
        while True:
            threads.end_train()
            threads.begin_train()
