"""All stages in the caller's thread, one after another: the same board and the same work as with threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.pipeline.stage_threads import run_stage
from cupyrec.pipeline.stages import STAGES, TRAIN, Board


class StagesInTurn:
    """As StageThreads, without threads."""

    def __init__(
        self,
        board: Board,
        work: Mapping[str, Callable[[int], object]],
        clock: StageClock,
        own_stages: Collection[str] = STAGES,
    ) -> None:
        """own_stages: all are the caller's here."""
        self._board, self._work, self._clock = board, dict(work), clock
        # Training stands still for all that is done here.
        self.own_seconds = 0.0

    def begin_train(self) -> int | None:
        """Do what there is to do before the next batch may train, and return its number; None when all have trained."""
        while not self._board.exhausted(TRAIN) and not self._board.may_begin(TRAIN):
            # What is furthest on its way goes first: a batch is not planned before the one ahead of it has trained.
            self._run(next(stage for stage in reversed(STAGES) if self._board.may_begin(stage)))
        return None if self._board.exhausted(TRAIN) else self._board.done[TRAIN]

    def end_train(self) -> None:
        """The batch has trained."""
        self._board.finished(TRAIN)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No stage is ever at work when the caller is."""
        yield

    def __enter__(self) -> StagesInTurn:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _run(self, stage: str) -> None:
        batch, begun = self._board.done[stage], time.perf_counter()
        if run_stage(self._work, stage, batch) is not False:
            self._clock.note(stage, batch, begun, time.perf_counter())
            self._board.finished(stage)
        else:
            self._board.ended(batch)
