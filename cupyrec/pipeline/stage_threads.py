"""A thread for each stage but Train, which is the caller's, as others may be. They go on when the board lets them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from cupyrec.errors import ScratchpadError, StageError
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.pipeline.stages import LOAD, STAGES, TRAIN, Board

_Ready = TypeVar("_Ready")
NO_STAGE = "none"


class _Bell:
    """A wake-up flag for one thread. Others set it while they hold the lock that all share; set twice, it counts once.

    It is a lock that is open when the flag is set.
    """

    def __init__(self) -> None:
        self._closed = threading.Lock()
        self._closed.acquire()

    def ring(self) -> None:
        """Let who waits go on, now or when it comes to wait."""
        if self._closed.locked():
            self._closed.release()

    def wait(self) -> None:
        """Until it was rung since the last time. Not with the lock that is shared."""
        self._closed.acquire()


class StageThreads:
    """Runs `work[stage](batch)` for every stage and batch, each stage in order, as the board allows.

    Use it in a `with` statement: at its end every thread has ended, whatever happened, after the batch that it was
    working on. Between begin_train and end_train the caller trains. Load's work returns False where there is no batch.
    """

    def __init__(
        self,
        board: Board,
        work: Mapping[str, Callable[[int], object]],
        clock: StageClock,
        own_stages: Collection[str] = (),
    ) -> None:
        """own_stages: those that the caller works on too, before it trains; none may end the run, as Load does."""
        self._board, self._work, self._clock = board, dict(work), clock
        self.own_seconds = 0.0
        self._own_stages = [stage for stage in STAGES if stage in own_stages]
        # Guards the board and all below. Who waits for a change has a bell: one woken in vain takes Python's lock from
        # whoever queues, and an interrupt in the code of a condition, or of Thread.join, can leave a lock open, lose a
        # wake-up, or count a thread as ended that still writes.
        self._lock = threading.Lock()
        self._bell = _Bell()  # of the caller
        self._bells = {stage: _Bell() for stage in self._work if stage not in self._own_stages}
        # Stages whose threads may still work.
        self._running: set[str] = set()
        self._stopping = self._paused = False
        self._active: set[str] = set()
        self._failure: tuple[str, int, BaseException] | None = None
        self._threads = [
            # Daemons, so that a process whose main thread dies can still end.
            threading.Thread(target=self._loop, args=(stage,), name=f"cupyrec-{stage.lower()}", daemon=True)
            for stage in self._bells
        ]

    def begin_train(self) -> int | None:
        """Wait until the next batch may train, and return its number; None when all have.

        Meanwhile the caller's own stages go on as far as they may; own_seconds is how long. Raises StageError when a
        stage failed.
        """
        self.own_seconds = 0.0
        while True:
            stage = self._wait(self._bell, self._next_of_caller)
            if self._failure is not None:
                raise stage_error(*self._failure)
            if stage == NO_STAGE:
                return None
            # None but the caller finishes these stages.
            batch = self._board.done[stage]
            if stage == TRAIN:
                return batch
            self._run_own(stage, batch)

    def _next_of_caller(self) -> str:
        """What the caller is to do next; NO_STAGE: nothing ever again; empty: nothing yet. The lock is held."""
        if self._failure is not None or self._board.exhausted(TRAIN):
            return NO_STAGE
        for stage in self._own_stages:
            if self._board.may_begin(stage):
                return stage
        return TRAIN if self._may_begin(TRAIN) else ""

    def _run_own(self, stage: str, batch: int) -> None:
        begun = time.perf_counter()
        run_stage(self._work, stage, batch)
        ended = time.perf_counter()
        self._clock.note(stage, batch, begun, ended)
        self.own_seconds += ended - begun
        with self._lock:
            self._board.finished(stage)
            self._tell()

    def end_train(self) -> None:
        """The batch has trained."""
        with self._lock:
            self._board.finished(TRAIN)
            self._tell()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it no stage but Load is at work, and no row moves."""
        try:
            with self._lock:
                self._paused = True
            self._wait(self._bell, lambda: not self._active - {LOAD})
            yield
        finally:
            self._end_pause()

    def _end_pause(self) -> None:
        """An interrupt has to wait until all know that it is over."""
        interrupted: BaseException | None = None
        ended = False
        while not ended:
            try:
                with self._lock:
                    self._paused = False
                    self._tell()
                ended = True
            except KeyboardInterrupt as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def __enter__(self) -> StageThreads:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        """End the threads. They still write, so that an interrupt has to wait until they have ended."""
        interrupted: BaseException | None = None
        ended = False
        while not ended:
            try:
                with self._lock:
                    self._stopping = True
                    self._tell()
                self._wait(self._bell, lambda: not self._running)
                # They do nothing any more; an interrupt here does no harm.
                for thread in self._threads:
                    if thread.is_alive():
                        thread.join()
                ended = True
            except BaseException as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _tell(self) -> None:
        """Something has changed. The lock is held."""
        for stage, bell in self._bells.items():
            if self._is_due(stage):
                bell.ring()
        self._bell.ring()

    def _wait(self, bell: _Bell, ready: Callable[[], _Ready]) -> _Ready:
        """Let who has this bell wait until something is so, and what it is."""
        while True:
            with self._lock:
                if found := ready():
                    return found
            bell.wait()

    def _loop(self, stage: str) -> None:
        with self._lock:
            if self._stopping:
                return
            self._running.add(stage)
        try:
            self._work_on(stage)
        finally:
            with self._lock:
                self._running.discard(stage)
                self._tell()

    def _work_on(self, stage: str) -> None:
        while (batch := self._begin(stage)) is not None:
            try:
                begun = time.perf_counter()
                there_was_one = self._work[stage](batch) is not False
                if there_was_one:
                    self._clock.note(stage, batch, begun, time.perf_counter())
            except BaseException as error:
                with self._lock:
                    # The first failure is the one to tell; others may follow from it.
                    self._failure = self._failure or (stage, batch, error)
                    self._stopping = True
                    self._active.discard(stage)
                    self._tell()
                return
            with self._lock:
                self._active.discard(stage)
                if there_was_one:
                    self._board.finished(stage)
                else:
                    self._board.ended(batch)
                self._tell()

    def _begin(self, stage: str) -> int | None:
        """Wait until a stage may work on its next batch; None when it is to end."""

        def begun() -> str:
            if self._stopping or self._board.exhausted(stage):
                return NO_STAGE
            if not self._may_begin(stage):
                return ""
            self._active.add(stage)
            return stage

        if self._wait(self._bells[stage], begun) == NO_STAGE:
            return None
        # None but this thread finishes the stage.
        return self._board.done[stage]

    def _is_due(self, stage: str) -> bool:
        """Whether the thread of a stage has something to do, or is to end. The lock is held."""
        return self._stopping or self._board.exhausted(stage) or self._may_begin(stage)

    def _may_begin(self, stage: str) -> bool:
        return (not self._paused or stage == LOAD) and self._board.may_begin(stage)


def run_stage(work: Mapping[str, Callable[[int], object]], stage: str, batch: int) -> object:
    """What work[stage](batch) returns; what it raises is raised as stage_error says."""
    try:
        return work[stage](batch)
    except BaseException as error:
        failed = stage_error(stage, batch, error)
        if failed is error:
            raise
        raise failed from error


def stage_error(stage: str, batch: int, error: BaseException) -> BaseException:
    """What is raised for a stage that failed: with the names of stage and batch, and the error as its cause.

    A scratchpad that is too small is the user's to set right, and an interrupt no failure: both stay as they are.
    """
    if isinstance(error, ScratchpadError) or not isinstance(error, Exception):
        return error
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    failed = StageError(f"stage {stage} failed on batch {batch}, counted from 0: {what}")
    failed.__cause__ = error
    return failed
