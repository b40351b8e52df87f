"""A thread for each stage but Train, which is the caller's, as others may be. They go on when the board lets them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from cupyrec.errors import ScratchpadError, StageError
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.pipeline.stages import LOAD, STAGES, TRAIN, Board


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
        # Guards the board and all below. The stages' threads wait for the condition. The caller's may be interrupted,
        # and an interrupt in the code of a condition or of Thread.join can leave a lock open, or count a thread as
        # ended that still writes: it takes the lock as such, and waits for the bell, a lock opened at each change.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._bell = threading.Lock()
        self._bell.acquire()
        # Stages whose threads may still work.
        self._running: set[str] = set()
        self._stopping = self._paused = False
        self._active: set[str] = set()
        self._failure: tuple[str, int, BaseException] | None = None
        self._threads = [
            # Daemons, so that a process whose main thread dies can still end.
            threading.Thread(target=self._loop, args=(stage,), name=f"cupyrec-{stage.lower()}", daemon=True)
            for stage in self._work
            if stage not in self._own_stages
        ]

    def begin_train(self) -> int | None:
        """Wait until the next batch may train, and return its number; None when all have.

        Meanwhile the caller's own stages go on as far as they may; own_seconds is how long. Raises StageError when a
        stage failed.
        """
        self.own_seconds = 0.0
        while True:
            self._wait(
                lambda: self._failure or self._board.exhausted(TRAIN) or self._next_own() or self._may_begin(TRAIN)
            )
            with self._lock:
                if self._failure is not None:
                    raise stage_error(*self._failure)
                if self._board.exhausted(TRAIN):
                    return None
                stage = self._next_own()
                if stage is None:
                    return self._board.done[TRAIN]
                batch = self._board.done[stage]
            self._run_own(stage, batch)

    def _next_own(self) -> str | None:
        """The first of the caller's own stages that may go on. The lock is held."""
        return next((stage for stage in self._own_stages if self._board.may_begin(stage)), None)

    def _run_own(self, stage: str, batch: int) -> None:
        begun = time.perf_counter()
        try:
            self._work[stage](batch)
        except BaseException as error:
            failed = stage_error(stage, batch, error)
            if failed is error:
                raise
            raise failed from error
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
            self._wait(lambda: not self._active - {LOAD})
            yield
        finally:
            with self._lock:
                self._paused = False
                self._tell()

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
                self._wait(lambda: not self._running)
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
        self._changed.notify_all()
        if self._bell.locked():
            self._bell.release()

    def _wait(self, ready: Callable[[], object]) -> None:
        """Let the caller wait until something is so."""
        while True:
            with self._lock:
                if ready():
                    return
            self._bell.acquire()

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
        with self._lock:
            self._changed.wait_for(lambda: self._stopping or self._board.exhausted(stage) or self._may_begin(stage))
            if self._stopping or self._board.exhausted(stage):
                return None
            self._active.add(stage)
            return self._board.done[stage]

    def _may_begin(self, stage: str) -> bool:
        return (not self._paused or stage == LOAD) and self._board.may_begin(stage)


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
