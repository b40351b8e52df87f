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


def made(total=6, *, lookahead=2, **changed):
    """(board, threads, what was done in which order)."""
    board, done = Board(PIPELINED, lookahead), []

    def load(batch):
        if batch == total:
            return False
        done.append((LOAD, batch))
        return True

    def stage(name):
        return lambda batch: done.append((name, batch))

    work = {LOAD: load, **{name: stage(name) for name in (PLAN, COLLECT, EXCHANGE, INSERT)}} | changed
    return board, StageThreads(board, work, StageClock()), done


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
        threads._wait(lambda: threads._failure is not None)
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


def test_an_interrupt_as_it_takes_the_lock_leaves_it_to_the_others(monkeypatch):
    """The condition is never entered by its own code, which an interrupt could end with the lock taken."""
    _, threads, done = made(8)

    class Refuses(threading.Condition):
        def __enter__(self):
            raise AssertionError("entered through the condition")

    for due in threads._due.values():
        due.__class__ = Refuses
    with threads:
        train_all(threads, done)
        with threads.paused():
            pass
    assert len(done) == 8 * len(STAGES)
