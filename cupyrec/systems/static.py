"""`static`: the most used rows stay in device memory for good; the others are on the host, as in `hybrid`.

Which rows they are is known before training, from counts of all data, and does not change: the device helps as far as
these rows are what is looked up, and no further. The paper's name is prior GPU embedding cache.

A bag is the sum over its pinned rows, taken on the device, plus the sum over its other rows, taken on the host and sent
over the link. Where a bag has rows of both kinds they are added in another order than in `resident`, so the weights
agree to rounding. While `train` is under way a pinned row's value is in the pad; before and after, in the host table.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

import numpy as np

from cupyrec.batch import Batch
from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.host_table import HostTable
from cupyrec.embedding.move_rows import gather_records, scatter_records
from cupyrec.embedding.pinned_rows import PinnedRows
from cupyrec.embedding.row_counts import count_rows, most_used_rows
from cupyrec.errors import ConfigError
from cupyrec.functions.embedding_bag import embedding_bag_forward
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.pipeline.stages import EXCHANGE, TRAIN
from cupyrec.systems.host_rows import EXCHANGE_BACK, GATHER, UPDATE, HostRows
from cupyrec.systems.step import StepResult, Traffic, ignore
from cupyrec.systems.train_stage import TrainStage


class StaticSystem:
    """Trains the most used rows on the device and the others on the host."""

    name = "static"

    def __init__(
        self,
        stage: TrainStage,
        table: HostTable,
        *,
        slots: int,
        row_counts: Any = None,
        clock: StageClock | None = None,
    ) -> None:
        """slots: the most rows that are pinned; row_counts: (R,), how often each row is used in all data, None where
        `prepare` is to count. Raises ConfigError.
        """
        if slots < 1:
            raise ConfigError(f"static needs at least 1 slot, but has {slots}")
        R, width = table.records.shape
        self.model, self.table, self.slots = stage.model, table, min(slots, R)
        self._stage, self._clock, self._counts_itself = stage, clock or StageClock(), row_counts is None
        self._host_rows = HostRows(stage, table)
        self._copy_stream = stage.device.stream()
        self._pad = stage.device.zeros((self.slots, width), table.records.dtype)
        shape = (stage.max_samples, stage.model.config.features, stage.model.config.dimension)
        self._cold_Y = stage.device.zeros(shape, table.records.dtype)
        self._pinned: PinnedRows | None = None
        self._runs = 0  # calls of train under way; while there is one, the pinned rows' values are in the pad
        if row_counts is not None:
            self._pin(row_counts)

    @property
    def steps_done(self) -> int:
        return self._stage.steps_done

    @property
    def facts(self) -> dict[str, Any]:
        """See System.facts."""
        return {"slots": self.slots, "pinned": 0 if self._pinned is None else int(self._pinned.rows.shape[0])}

    def prepare(self, read: Callable[[], Iterable[Batch]], say: Callable[[str], None]) -> None:
        """Count how often each row is used, unless that is known, and pin the most used; each time anew."""
        if self._counts_itself:
            self._pin(count_rows(read(), self.table.records.shape[0]))
        say(self._description)

    def train(
        self, batches: Iterable[Batch], *, say: Callable[[str], None] = ignore
    ) -> Generator[StepResult, None, None]:
        """Train the batches in order; after each, its result. Stopping early leaves the last step whole.

        Raises ConfigError where neither counts were given nor `prepare` was called.
        """
        if self._pinned is None:
            raise ConfigError("static must know the most used rows before it trains: call prepare, or give row counts")
        self._clock.forget()
        if not self._runs:
            self._fill_pad()
        self._runs += 1
        try:
            for number, (batch, waited_s) in enumerate(self._clock.each_loaded(batches)):
                yield self._step(number, batch, waited_s)
        finally:
            self.finish()
            self._runs -= 1

    def predict(self, batch: Batch) -> Any:
        """Logits (B,), device; valid until the next call. Changes no weight."""
        stage = self._stage
        if not self._runs:
            return stage.predict(batch, stage.pool(self.table.records, batch.rows, batch))
        hot, cold = self._split(batch)
        self._host_rows.pool(cold, mean=False)
        self._host_rows.send(self._cold_Y[: batch.samples])
        return stage.predict(batch, self._pool(batch, hot))

    def finish(self) -> None:
        """Bring every row's value to the host table. Training may go on."""
        if self._runs and self._pinned is not None:
            rows = self._pinned.rows
            scatter_records(self._copy_stream, self._pad[: rows.shape[0]], rows, self.table.records)

    def _pin(self, row_counts: Any) -> None:
        """Give the most used rows a slot each. row_counts: (R,)."""
        R, counts = self.table.records.shape[0], np.asarray(row_counts, np.int64)
        if counts.shape != (R,):
            raise ConfigError(f"row counts must be ({R},), one for each row, but are {counts.shape}")
        self.finish()
        device, rows = self._stage.device, most_used_rows(counts, self.slots)
        self._pinned = PinnedRows(device, rows, self.table.starts)
        # The pad is laid out like a host table: what is pinned of a table is a table.
        self._coalescer = Coalescer(device, self._pinned.table_slots)
        if self._runs:
            self._fill_pad()
        share = int(counts[rows].sum()) / max(int(counts.sum()), 1)
        self._description = f"static: {rows.shape[0]:,} of {R:,} rows pinned, which are {share:.1%} of all lookups"

    def _fill_pad(self) -> None:
        """Copy the pinned rows to the pad."""
        assert self._pinned is not None
        rows = self._pinned.rows
        gather_records(self._copy_stream, self.table.records, rows, self._pad[: rows.shape[0]])

    def _split(self, batch: Batch) -> tuple[Batch, Batch]:
        assert self._pinned is not None
        return self._pinned.split(batch)

    def _pool(self, batch: Batch, hot: Batch) -> Any:
        """Y (B, F, D), device: the pinned rows of each bag pooled and joined with what the host has sent."""
        stage, B = self._stage, batch.samples
        Y = stage.pooled(B)
        embedding_bag_forward(stage.device, self._pad, hot.rows, hot.offsets, Y, mean=False)
        stage.device.launch(_join, B, Y, self._cold_Y[:B], batch.offsets, stage.mean)
        return Y

    def _step(self, number: int, batch: Batch, waited_s: float) -> StepResult:
        stage, clock, host_rows, learning_rate = self._stage, self._clock, self._host_rows, self._stage.learning_rate
        with clock.stage(GATHER, number):
            hot, cold = self._split(batch)
            host_rows.pool(cold, mean=False)
        with clock.stage(EXCHANGE, number):
            bytes_in = host_rows.send(self._cold_Y[: batch.samples])
        with clock.stage(TRAIN, number):
            loss, dY = stage.loss_and_gradient(batch, self._pool(batch, hot))
        with clock.stage(EXCHANGE_BACK, number):
            bytes_out = host_rows.receive(dY)
        with clock.stage(UPDATE, number):
            # A gradient is divided by the length of the whole bag, whichever side its row is on.
            misses = host_rows.update(cold, batch.offsets)
            plan = self._coalescer.plan(hot)
            stage.update_rows(self._pad, dY, batch.offsets, plan)
            stage.update_dense()
        traffic = Traffic(hits=plan.unique, misses=misses, bytes_in=bytes_in, bytes_out=bytes_out)
        return StepResult(stage.steps_done, batch.samples, loss, learning_rate, waited_s, traffic, clock.take(number))


@cpu_kernel
def _join(start, stop, Y, cold_Y, offsets, mean):
    """Y += cold_Y for the samples start .. stop-1, then divided by the length of the whole bag where mean."""
    B, F, D = Y.shape
    for b in range(start, stop):
        for f in range(F):
            length = offsets[f * B + b + 1] - offsets[f * B + b]
            for d in range(D):
                Y[b, f, d] += cold_Y[b, f, d]
            if mean and length > 1:
                divisor = Y.dtype.type(length)
                for d in range(D):
                    Y[b, f, d] /= divisor
