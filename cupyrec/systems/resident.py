"""`resident`: every embedding row lives in the memory of the device that trains it.

On the CPU device that is host memory: rows are gathered, trained and updated in place. Nothing is cached, moved or
looked ahead to. It is the plainest of the systems and the one whose weights the others must reproduce.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cupyrec.batch import Batch
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.host_table import HostTable
from cupyrec.functions.embedding_bag import embedding_bag_forward
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.registry import Optimizer
from cupyrec.optim.row_update import RowUpdate
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.systems.step import StepResult


class ResidentSystem:
    """Trains and predicts with all rows in place."""

    name = "resident"

    def __init__(
        self,
        device: CpuDevice,
        model: Dlrm,
        table: HostTable,
        optimizer: Optimizer,
        schedule: WarmupPolynomialDecay,
        *,
        max_samples: int,
    ) -> None:
        """max_samples: the most samples of a batch."""
        config = model.config
        self.model, self.table = model, table
        self._device, self._optimizer, self._schedule = device, optimizer, schedule
        self._mean = config.pooling == "mean"
        dtype = table.records.dtype
        self._Y = device.zeros((max_samples, config.features, config.dimension), dtype)
        self._dense_state = device.zeros(optimizer.dense_state_size(model.parameters.shape[0]), dtype)
        self._coalescer = Coalescer(device, table.table_rows)
        self.steps_done = 0

    def train(self, batches: Iterable[Batch]) -> Iterator[StepResult]:
        """Train the batches in order; after each, its result. Stopping early leaves the last step whole."""
        for batch in batches:
            if batch.samples:
                yield self._step(batch)

    def predict(self, batch: Batch) -> Any:
        """Logits (B,), device; valid until the next call. Changes no weight."""
        return self.model.forward(batch.dense, self._pooled(batch))

    def finish(self) -> None:
        """The host table holds every row's final value: here it always does."""

    def _pooled(self, batch: Batch) -> Any:
        Y = self._Y[: batch.samples]
        embedding_bag_forward(self._device, self.table.records, batch, Y, mean=self._mean)
        return Y

    def _step(self, batch: Batch) -> StepResult:
        learning_rate = self._schedule(self.steps_done)
        logits = self.model.forward(batch.dense, self._pooled(batch))
        loss, dY = self.model.backward(logits, batch.labels)
        update = RowUpdate(self.table.records, dY, batch.offsets, self._coalescer.plan(batch), self._mean)
        self._optimizer.update_rows(self._device, update, learning_rate=learning_rate)
        self._optimizer.update_dense(
            self._device, self.model.parameters, self.model.gradients, self._dense_state, learning_rate=learning_rate
        )
        self.steps_done += 1
        return StepResult(self.steps_done, batch.samples, loss, learning_rate)
