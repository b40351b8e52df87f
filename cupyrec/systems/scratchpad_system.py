"""What `serial` and `scratchpipe` share: a scratchpad that holds just the rows which the coming batches need.

The host table holds all rows; the scratchpad those of batches that are about to train, where they are trained. While
`train` is under way a row's value is in one of the two; before and after, the host table holds them all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any, ClassVar, Protocol

import numpy as np

from cupyrec.batch import Batch
from cupyrec.byte_sizes import format_bytes
from cupyrec.counted import counted
from cupyrec.devices.gpu import GpuDevice
from cupyrec.devices.host_memory import available_bytes
from cupyrec.embedding.host_table import HostTable
from cupyrec.pipeline.exchange import Exchange, make_exchange
from cupyrec.pipeline.gpu_planner import GpuPlanner
from cupyrec.pipeline.gpu_stage_work import GpuStageWork, loaded_ahead
from cupyrec.pipeline.known_batches import check_settings
from cupyrec.pipeline.lookahead import Lookahead, choose_lookahead, window_batch_bytes
from cupyrec.pipeline.planner import Planner
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.pipeline.stage_work import StageWork
from cupyrec.pipeline.stages import COLLECT, EXCHANGE, INSERT, LOAD, ONE_AFTER_ANOTHER, PLAN, TRAIN, Board, Depth
from cupyrec.systems.host_rows import HostRows
from cupyrec.systems.step import StepResult, Traffic, TrainsHostTable, ignore
from cupyrec.systems.train_stage import TrainStage


class Driver(Protocol):
    """What makes the stages go on: StageThreads or StagesInTurn.

    own_seconds: of the last begin_train, how long the caller worked on stages, and did not wait.
    """

    own_seconds: float

    def begin_train(self) -> int | None: ...

    def end_train(self) -> None: ...

    def paused(self) -> AbstractContextManager[None]: ...


class ScratchpadSystem(TrainsHostTable):
    """Trains in a scratchpad. A subclass says how deep the pipeline is, and what drives it."""

    name: ClassVar[str]
    depth: ClassVar[Depth]
    driver: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        stage: TrainStage,
        table: HostTable,
        *,
        slots: int,
        lookahead: int | None = None,
        replacement: str = "lookahead",
        row_counts: Any = None,
        seed: int = 0,
        exchange: str = "auto",
        clock: StageClock | None = None,
    ) -> None:
        """slots: S; lookahead: K, chosen from the first batch when None; row_counts: (R,), how often each row is used
        in all data, None where nobody knows; seed: of the replacement `random`; exchange: how rows cross the link, on a
        GPU. Raises ConfigError.
        """
        self.model, self.table = stage.model, table
        self.slots, self.replacement, self.row_counts = slots, replacement, row_counts
        self._wanted_lookahead, self._seed = lookahead, seed
        self._stage, self._clock = stage, clock or StageClock()
        self._scratchpad = stage.device.zeros((slots, table.records.shape[1]), table.records.dtype)
        self._record_bytes = self._scratchpad.shape[1] * self._scratchpad.dtype.itemsize
        self._host_rows = HostRows(stage, table, trains=False)
        self._wanted_exchange = exchange
        self._exchange: Exchange | None = None
        self._lookahead = lookahead
        self._work: StageWork | GpuStageWork | None = None
        self._driver: Driver | None = None
        # Steps trained when the host table last held every row's value; None: not since training began.
        self._flushed_at: int | None = None
        # A wrong setting is told now, not at the first batch.
        holds = self.depth.holds
        check_settings(slots, holds.future if lookahead is None else lookahead, holds, replacement)

    @property
    def facts(self) -> dict[str, Any]:
        """See System.facts."""
        facts = {"slots": self.slots, "replacement": self.replacement, "lookahead": self._lookahead}
        return facts if self._exchange is None else {**facts, "exchange": self._exchange.name}

    def train(
        self, batches: Iterable[Batch], *, say: Callable[[str], None] = ignore
    ) -> Generator[StepResult, None, None]:
        """Train the batches in order; after each, its result; see System.train.

        Raises ScratchpadError when a batch alone has more rows than there are slots, MemoryPlanError when the batches
        known ahead do not fit in memory, StageError when a stage fails.
        """
        if self._work is not None:
            raise RuntimeError("training is under way: its results must be exhausted or closed before it begins again")
        iterator = (batch for batch in batches if batch.samples)
        source = _Source(iterator)
        first = source.next()
        if first is None:
            source.raise_error()
            return
        source.put_back(first)
        self._clock.forget()
        lookahead = self._choose_lookahead(first)
        self._lookahead = lookahead.batches
        say(self._describe(lookahead))
        ahead = loaded_ahead(self.depth) if isinstance(self._stage.device, GpuDevice) else 0
        board = Board(self.depth, lookahead.batches, loaded_ahead=ahead)
        self._work = work = self._make_work(board, say)
        self._flushed_at = None
        try:
            stages = self._stages(work, source)
            with self.driver(board, stages, self._clock, work.own_stages) as self._driver:
                yield from self._steps(work, self._driver)
            source.raise_error()
        finally:
            self._end(work)

    def predict(self, batch: Batch) -> np.ndarray:
        """Logits (B,), host; valid until the next call. Changes no state."""
        self.finish()
        return self._host_rows.predict(batch)

    def finish(self) -> None:
        """Bring every row's value to the host table, unless that was done since the last step."""
        if self._work is not None and self._driver is None:
            self._end(self._work)  # which has failed before
        elif self._work is not None and self._driver is not None and self._flushed_at != self.steps_done:
            with self._driver.paused():
                self._work.flush()
            # From now on, until the next step, the stages move rows but change no value.
            self._flushed_at = self.steps_done

    def _end(self, work: StageWork | GpuStageWork) -> None:
        """Bring all rows back to the host table. An interrupt waits for that."""
        interrupted: BaseException | None = None
        while self._work is not None:
            try:
                self._driver = None
                work.flush()
                self._work = None
            except KeyboardInterrupt as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _stages(self, work: StageWork | GpuStageWork, source: _Source) -> Mapping[str, Callable[[int], object]]:
        def load(number: int) -> bool:
            batch = source.next()
            if batch is not None:
                work.load(number, batch)
            return batch is not None

        return {LOAD: load, PLAN: work.plan, COLLECT: work.collect, EXCHANGE: work.exchange, INSERT: work.insert}

    def _steps(self, work: StageWork | GpuStageWork, driver: Driver) -> Iterator[StepResult]:
        stage, clock = self._stage, self._clock
        while True:
            with clock.measured() as waiting:
                number = driver.begin_train()
            own_seconds = driver.own_seconds
            if number is None:
                return
            entry, learning_rate = work.entry(number), stage.learning_rate
            batch, plan = entry.batch, entry.plan
            assert batch is not None
            assert entry.coalesced is not None
            assert plan is not None
            with clock.stage(TRAIN, number):
                work.before_train(number)
                loss = stage.run(batch, self._scratchpad, entry.slots, entry.coalesced, plan.unique_slots)
                work.after_train(number)
            traffic = Traffic(
                hits=plan.hits,
                misses=plan.miss_rows.shape[0],
                evictions=plan.evict_rows.shape[0],
                bytes_in=plan.miss_rows.shape[0] * self._record_bytes,
                bytes_out=plan.evict_rows.shape[0] * self._record_bytes,
                bubbles=plan.bubbles,
            )
            driver.end_train()
            yield StepResult(
                stage.steps_done,
                batch.samples,
                loss,
                learning_rate,
                waiting.seconds - own_seconds,
                traffic,
                clock.take(number),
            )

    def _make_work(self, board: Board, say: Callable[[str], None]) -> StageWork | GpuStageWork:
        device, holds = self._stage.device, self.depth.holds
        # The other replacements do not look ahead; what is held must be known.
        lookahead = board.lookahead if self.replacement == "lookahead" else holds.future
        settings: dict[str, Any] = {
            "lookahead": lookahead,
            "holds": holds,
            "replacement": self.replacement,
            "row_counts": self.row_counts,
            "seed": self._seed,
        }
        if not isinstance(device, GpuDevice):
            return StageWork(device, self.table, self._scratchpad, Planner(self.slots, **settings), board)
        if self._exchange is None:
            self._exchange = make_exchange(self._wanted_exchange, device, self.table, say, slots=self.slots)
        return GpuStageWork(
            device,
            self.table,
            self._scratchpad,
            lambda stream: GpuPlanner(stream, self.slots, **settings),
            board,
            self._exchange,
            dense_features=self.model.config.dense_features,
            in_turn=self.depth == ONE_AFTER_ANOTHER,
        )

    def _choose_lookahead(self, first: Batch) -> Lookahead:
        unique = np.unique(first.rows).size
        return choose_lookahead(
            self._wanted_lookahead if self.replacement == "lookahead" else self.depth.holds.future,
            least=self.depth.holds.future,
            slots=self.slots,
            rows=self.table.records.shape[0],
            unique=unique,
            batch_bytes=window_batch_bytes(first, unique),
            free_bytes=self._free_bytes(),
        )

    def _free_bytes(self) -> int | None:
        """What the batches known ahead may take: they are on the host and, on a GPU, in its memory too."""
        device, free = self._stage.device, available_bytes()
        if isinstance(device, GpuDevice):
            on_device, _ = device.runtime.memory_bytes()
            return on_device if free is None else min(free, on_device)
        return free

    def _describe(self, lookahead: Lookahead) -> str:
        rows = self.table.records.shape[0]
        ahead = f"looking {counted(lookahead.batches, 'batch', 'batches')} ahead"
        if self.replacement != "lookahead":
            ahead = f"knowing only the {lookahead.batches:,} next batches"
        ahead += f", which takes {format_bytes(lookahead.window_bytes)}"
        if lookahead.limited:
            ahead += " (more would move fewer rows, but not fit beside the rest; --lookahead sets it)"
        return (
            f"scratchpad of {counted(self.slots, 'row')}, {format_bytes(self.slots * self._record_bytes)}, for "
            f"{rows:,} ({self.slots / rows:.1%}); replacement {self.replacement}, {ahead}"
        )


class _Source:
    """The batches that train, read by the stage Load; an error of theirs is kept until all before it have trained."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._error: BaseException | None = None

    def next(self) -> Batch | None:
        """The next batch; None at the end, and where reading failed."""
        try:
            return next(self._batches, None)
        except BaseException as error:
            # An interrupt of the thread that trains waits for nothing.
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise
            self._error = error
            return None

    def put_back(self, batch: Batch) -> None:
        """Let `next` give a batch once more."""
        self._batches = chain([batch], self._batches)

    def raise_error(self) -> None:
        """Raise what reading raised, if anything."""
        if self._error is not None:
            raise self._error
