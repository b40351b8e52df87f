"""`hybrid`: rows live, are pooled and are updated in host memory; the device sees pooled vectors and gives gradients.

What crosses the link is (B, F, D) each way, whatever the lengths of the bags; the host does all work on rows, at the
speed of its memory. No row is ever on the device. The paper's name is hybrid CPU-GPU.

On the CPU device the weights are bit for bit those of `resident`: the same sums are taken in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from cupyrec.batch import Batch
from cupyrec.embedding.host_table import HostTable
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.pipeline.stages import EXCHANGE, TRAIN
from cupyrec.systems.device_inputs import make_inputs
from cupyrec.systems.host_rows import EXCHANGE_BACK, GATHER, UPDATE, HostRows
from cupyrec.systems.step import StepResult, Traffic, TrainsHostTable, ignore
from cupyrec.systems.train_stage import TrainStage


class HybridSystem(TrainsHostTable):
    """Trains with all rows on the host."""

    name = "hybrid"

    def __init__(self, stage: TrainStage, table: HostTable, clock: StageClock | None = None) -> None:
        self.model, self.table = stage.model, table
        self._stage, self._clock = stage, clock or StageClock()
        self._host_rows = HostRows(stage, table)
        self._inputs = make_inputs(stage.device, stage.model.config.dense_features)

    def train(
        self, batches: Iterable[Batch], *, say: Callable[[str], None] = ignore
    ) -> Generator[StepResult, None, None]:
        """Train the batches in order; after each, its result. Stopping early leaves the last step whole."""
        self._clock.forget()
        try:
            for number, (batch, waited_s) in enumerate(self._clock.each_loaded(batches)):
                yield self._step(number, batch, waited_s)
        finally:
            self._stage.device.synchronize()  # what the caller drops next may be in use

    def predict(self, batch: Batch) -> Any:
        """Logits (B,), host; valid until the next call. Changes no weight."""
        return self._host_rows.predict(batch)

    def finish(self) -> None:
        """The host table holds every row's final value: here it always does."""

    def _step(self, number: int, batch: Batch, waited_s: float) -> StepResult:
        stage, clock, host_rows, learning_rate = self._stage, self._clock, self._host_rows, self._stage.learning_rate
        Y = stage.pooled(batch.samples)
        with clock.stage(GATHER, number):
            host_rows.pool(batch, mean=stage.mean)
        with clock.stage(EXCHANGE, number):
            bytes_in = host_rows.send(Y)
        with clock.stage(TRAIN, number):
            dY = stage.gradient(self._inputs.put(batch), Y)
        with clock.stage(EXCHANGE_BACK, number):
            bytes_out = host_rows.receive(dY)
        with clock.stage(UPDATE, number):
            # Queued now, because the host is about to be busy.
            stage.complete_gradients()
            unique = host_rows.update(batch, batch.offsets)
            loss = stage.update_dense()
        traffic = Traffic(misses=unique, bytes_in=bytes_in, bytes_out=bytes_out)
        return StepResult(stage.steps_done, batch.samples, loss, learning_rate, waited_s, traffic, clock.take(number))
