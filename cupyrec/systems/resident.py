"""`resident`: every embedding row lives in the memory of the device that trains it.

On the CPU device that is host memory: rows are gathered, trained and updated in place. On a GPU the whole table is
copied there before training and back after it. Nothing is cached, moved or looked ahead to. It is the plainest of the
systems and the one whose weights the others must reproduce.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np

from cupyrec.batch import Batch
from cupyrec.datasets.read_ahead import read_ahead
from cupyrec.devices.cuda_runtime import LOWEST_PRIORITY
from cupyrec.devices.gpu import GpuDevice
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.gpu_coalesce import GpuCoalescer
from cupyrec.embedding.host_table import HostTable
from cupyrec.pipeline.gpu_ring import LoadedBatch, largest_of_a_batch
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.pipeline.stages import TRAIN
from cupyrec.systems.device_table import DeviceTable
from cupyrec.systems.step import StepResult, SystemDefaults, ignore
from cupyrec.systems.train_stage import TrainStage

# Memory for batches on a GPU: one that is being queued, one that is being copied, and those that wait between.
LOADED_BATCHES = 4


class ResidentSystem(SystemDefaults):
    """Trains and predicts with all rows in place."""

    name = "resident"

    def __init__(self, stage: TrainStage, table: HostTable, clock: StageClock | None = None) -> None:
        self.model, self.table = stage.model, table
        self._stage, self._clock = stage, clock or StageClock()
        self._rows: _RowsInPlace | _RowsOnGpu = (
            _RowsOnGpu(stage, stage.device, table)
            if isinstance(stage.device, GpuDevice)
            else _RowsInPlace(stage, table)
        )

    @property
    def host_table_rests(self) -> bool:
        """See System.host_table_rests."""
        return isinstance(self._rows, _RowsOnGpu)

    def train(
        self, batches: Iterable[Batch], *, say: Callable[[str], None] = ignore
    ) -> Generator[StepResult, None, None]:
        """Train the batches in order; after each, its result. Stopping early leaves the last step whole."""
        stage, clock = self._stage, self._clock
        clock.forget()
        self._rows.begin()
        try:
            with closing(self._rows.ahead(batch for batch in batches if batch.samples)) as ahead:
                for number in itertools.count():
                    with clock.measured() as waiting:
                        batch = next(ahead, None)
                    if batch is None:
                        return
                    learning_rate = stage.learning_rate
                    with clock.stage(TRAIN, number):
                        loss = self._rows.train(number, batch)
                    yield StepResult(
                        stage.steps_done,
                        batch.samples,
                        loss,
                        learning_rate,
                        waiting.seconds,
                        stage_ms=clock.take(number),
                    )
        finally:
            self.finish()

    def predict(self, batch: Batch) -> np.ndarray:
        """Logits (B,), host; valid until the next call. Changes no weight."""
        batch = self._stage.upload(batch)
        return self._stage.predict(batch, self._stage.pool(self._rows.begin(), batch.rows, batch))

    def finish(self) -> None:
        """Bring every row's value to the host table."""
        self._rows.finish()

    def reload(self) -> None:
        """The host table was filled anew."""
        self._rows.reload()


class _RowsInPlace:
    """On the CPU: the host table is what is trained."""

    def __init__(self, stage: TrainStage, table: HostTable) -> None:
        self._stage, self._table = stage, table
        self._coalescer = Coalescer(stage.device.host, table.table_rows)

    def begin(self) -> Any:
        """The records."""
        return self._table.records

    def ahead(self, batches: Iterator[Batch]) -> Generator[Batch, None, None]:
        """The batches, as they come."""
        yield from batches

    def train(self, number: int, batch: Batch) -> Any:
        return self._stage.run(batch, self._table.records, batch.rows, self._coalescer.plan(batch))

    def finish(self) -> None:
        """The host table always holds every row's final value."""

    def reload(self) -> None:
        """The host table is what is trained."""


class _RowsOnGpu:
    """On a GPU: a copy of the whole table is trained, on batches that are brought there on a stream of their own."""

    def __init__(self, stage: TrainStage, device: GpuDevice, table: HostTable) -> None:
        self._stage, self._device = stage, device
        self._table = DeviceTable(device, table)
        self._is_training = False
        load_stream, dense_features = device.stream("load", priority=LOWEST_PRIORITY), stage.model.config.dense_features
        coalescer = GpuCoalescer(load_stream, table.table_rows)
        largest = largest_of_a_batch()
        self._loaded = [
            LoadedBatch(device, load_stream, coalescer, dense_features, largest) for _ in range(LOADED_BATCHES)
        ]

    def begin(self) -> Any:
        """The records, which are now on the device."""
        return self._table.on_device()

    def ahead(self, batches: Iterator[Batch]) -> Generator[Batch, None, None]:
        """The batches, copied by another thread to where the device can fetch them."""

        if self._is_training:
            raise RuntimeError("training is under way: its results must be exhausted or closed before it begins again")
        self._is_training = True

        def filled() -> Iterator[Batch]:
            for number, batch in enumerate(batches):
                loading = self._loaded[number % LOADED_BATCHES]
                loading.loaded.synchronize()
                loading.fill(batch)
                yield batch

        try:
            with closing(read_ahead(filled(), LOADED_BATCHES - 2)) as ahead:
                yield from ahead
        finally:
            self._is_training = False

    def train(self, number: int, batch: Batch) -> Any:
        device, loading = self._device, self._loaded[number % LOADED_BATCHES]
        loading.load()
        device.wait(loading.loaded)
        there = loading.batch
        records, self._table.changed = self._table.on_device(), True
        loss = self._stage.run(there, records, there.rows, loading.coalesced)
        device.record(loading.used)
        return loss

    def finish(self) -> None:
        self._table.to_host()

    def reload(self) -> None:
        self._table.forget()
