"""`static`: the most used rows stay in device memory for good; the others are on the host, as in `hybrid`.

Which rows they are is known before training, from counts of all data, and does not change: the device helps as far as
these rows are what is looked up, and no further. The paper's name is prior GPU embedding cache.

A bag is the sum over its pinned rows, taken on the device, plus the sum over its other rows, taken on the host and sent
over the link. Where a bag has rows of both kinds they are added in another order than in `resident`, so the weights
agree to rounding. While `train` is under way a pinned row's value is in the scratchpad; before and after, in the host
table.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np

from cupyrec.batch import Batch
from cupyrec.embedding.host_table import HostTable
from cupyrec.embedding.move_rows import gather_records, scatter_records
from cupyrec.embedding.pinned_rows import PinnedRows
from cupyrec.embedding.row_counts import count_rows, most_used_rows
from cupyrec.errors import ConfigError
from cupyrec.functions.embedding_bag import embedding_bag_forward
from cupyrec.functions.join_pooled import join_pooled
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.pipeline.stages import EXCHANGE, TRAIN
from cupyrec.systems.device_inputs import make_inputs
from cupyrec.systems.host_rows import EXCHANGE_BACK, GATHER, UPDATE, HostRows
from cupyrec.systems.hot_batches import make_hot_batches
from cupyrec.systems.step import StepResult, Traffic, TrainsHostTable, ignore
from cupyrec.systems.train_stage import TrainStage

# Copied at a time between the host table and the scratchpad.
COPIED_ROWS = 65_536


class StaticSystem(TrainsHostTable):
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
        device, config = stage.device, stage.model.config
        self.model, self.table, self.slots = stage.model, table, min(slots, R)
        self._stage, self._clock, self._counts_itself = stage, clock or StageClock(), row_counts is None
        self._host_rows = HostRows(stage, table)
        self._inputs = make_inputs(device, config.dense_features)
        self._scratchpad = device.zeros((self.slots, width), table.records.dtype)
        self._copied = device.page_locked((min(COPIED_ROWS, self.slots), width), table.records.dtype)
        self._cold_Y = device.zeros((stage.max_samples, config.features, config.dimension), table.records.dtype)
        self._pinned: PinnedRows | None = None
        self._runs = 0  # calls of train under way; while there is one, the pinned rows' values are in the scratchpad
        self._changed = False  # whether they differ from the host table's
        if row_counts is not None:
            self._pin(row_counts)

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
            self._fill_scratchpad()
        self._runs += 1
        try:
            for number, (batch, waited_s) in enumerate(self._clock.each_loaded(batches)):
                yield self._step(number, batch, waited_s)
        finally:
            try:
                self.finish()
            finally:
                self._runs -= 1

    def predict(self, batch: Batch) -> Any:
        """Logits (B,), host; valid until the next call. Changes no weight."""
        self.finish()
        return self._host_rows.predict(batch)

    def finish(self) -> None:
        """Bring every row's value to the host table. Training may go on."""
        if not self._changed:
            return
        self._stage.device.synchronize()  # an interrupt may have left a step cut in two, on two streams
        for rows, scratchpad, copied in self._parts():
            self._stage.device.copy(scratchpad, copied)
            self._stage.device.record().synchronize()
            scatter_records(self._stage.device.host, copied, rows, self.table.records)
        self._changed = False

    def _pin(self, row_counts: Any) -> None:
        """Give the most used rows a slot each. row_counts: (R,)."""
        R, counts = self.table.records.shape[0], np.asarray(row_counts, np.int64)
        if counts.shape != (R,):
            raise ConfigError(f"row counts must be ({R},), one for each row, but are {counts.shape}")
        self.finish()
        device, rows = self._stage.device, most_used_rows(counts, self.slots)
        self._pinned = PinnedRows(device.host, rows, self.table.starts)
        # The scratchpad is laid out like a host table: what is pinned of a table is a table.
        self._hot = make_hot_batches(device, self._pinned.table_slots, self._stage.model.config.dense_features)
        if self._runs:
            self._fill_scratchpad()
        share = int(counts[rows].sum()) / max(int(counts.sum()), 1)
        self._description = f"static: {rows.shape[0]:,} of {R:,} rows pinned, which are {share:.1%} of all lookups"

    def _fill_scratchpad(self) -> None:
        """Copy the pinned rows to the scratchpad."""
        for rows, scratchpad, copied in self._parts():
            gather_records(self._stage.device.host, self.table.records, rows, copied)
            self._stage.device.copy(copied, scratchpad)
            self._stage.device.record().synchronize()

    def _parts(self) -> Iterator[tuple[np.ndarray, Any, np.ndarray]]:
        """For some pinned rows at a time: the rows, their part of the scratchpad, page-locked memory of that size."""
        assert self._pinned is not None
        pinned = self._pinned.rows
        for at in range(0, pinned.shape[0], COPIED_ROWS):
            rows = pinned[at : at + COPIED_ROWS]
            yield rows, self._scratchpad[at : at + rows.shape[0]], self._copied[: rows.shape[0]]

    def _step(self, number: int, batch: Batch, waited_s: float) -> StepResult:
        stage, clock, host_rows, learning_rate = self._stage, self._clock, self._host_rows, self._stage.learning_rate
        assert self._pinned is not None
        B = batch.samples
        Y, cold_Y = stage.pooled(B), self._cold_Y[:B]
        with clock.stage(GATHER, number):
            hot_lookups, cold = self._pinned.split(batch)
            hot = self._hot.load(hot_lookups, batch)
            host_rows.pool(cold, mean=False)
        with clock.stage(EXCHANGE, number):
            bytes_in = host_rows.send(cold_Y)
        with clock.stage(TRAIN, number):
            embedding_bag_forward(stage.device, self._scratchpad, hot.batch.rows, hot.batch.offsets, Y, mean=False)
            join_pooled(stage.device, Y, cold_Y, hot.offsets, mean=stage.mean)
            dY = stage.gradient(self._inputs.put(batch), Y)
        with clock.stage(EXCHANGE_BACK, number):
            bytes_out = host_rows.receive(dY)
        with clock.stage(UPDATE, number):
            self._changed = True
            # A gradient is divided by the length of the whole bag, whichever side its row is on.
            stage.update_rows(self._scratchpad, dY, hot.offsets, hot.plan)
            # Queued now, because the host is about to be busy.
            stage.complete_gradients()
            misses = host_rows.update(cold, batch.offsets)
            loss = stage.update_dense()
            self._hot.done()
            hits = self._hot.unique(hot)
        traffic = Traffic(hits=hits, misses=misses, bytes_in=bytes_in, bytes_out=bytes_out)
        return StepResult(stage.steps_done, B, loss, learning_rate, waited_s, traffic, clock.take(number))
