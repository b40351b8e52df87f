"""`resident`: every embedding row lives in the memory of the device that trains it.

On the CPU device that is host memory: rows are gathered, trained and updated in place. Nothing is cached, moved or
looked ahead to. It is the plainest of the systems and the one whose weights the others must reproduce.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from cupyrec.batch import Batch
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.host_table import HostTable
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.systems.step import StepResult, ignore
from cupyrec.systems.train_stage import TrainStage


class ResidentSystem:
    """Trains and predicts with all rows in place."""

    name = "resident"

    def __init__(self, stage: TrainStage, table: HostTable, clock: StageClock | None = None) -> None:
        self.model, self.table = stage.model, table
        self._stage, self._clock = stage, clock or StageClock()
        self._coalescer = Coalescer(stage.device, table.table_rows)

    @property
    def steps_done(self) -> int:
        return self._stage.steps_done

    @property
    def facts(self) -> dict[str, Any]:
        """See System.facts."""
        return {}

    def prepare(self, read: Callable[[], Iterable[Batch]], say: Callable[[str], None]) -> None:
        """Nothing to prepare."""

    def train(
        self, batches: Iterable[Batch], *, say: Callable[[str], None] = ignore
    ) -> Generator[StepResult, None, None]:
        """Train the batches in order; after each, its result. Stopping early leaves the last step whole."""
        self._clock.forget()
        for number, (batch, waited_s) in enumerate(self._clock.each_loaded(batches)):
            yield self._step(number, batch, waited_s)

    def predict(self, batch: Batch) -> Any:
        """Logits (B,), device; valid until the next call. Changes no weight."""
        return self._stage.predict(batch, self._stage.pool(self.table.records, batch.rows, batch))

    def finish(self) -> None:
        """The host table holds every row's final value: here it always does."""

    def _step(self, number: int, batch: Batch, waited_s: float) -> StepResult:
        stage, learning_rate = self._stage, self._stage.learning_rate
        with self._clock.stage("Train", number):
            loss = stage.run(batch, self.table.records, batch.rows, self._coalescer.plan(batch))
        return StepResult(
            stage.steps_done, batch.samples, loss, learning_rate, waited_s, stage_ms=self._clock.take(number)
        )
