"""The stage Train, the same in every system: they differ in where rows are and how they come there."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

import numpy as np

from cupyrec.batch import Batch, CoalescePlan, GpuCoalescePlan, most_chunks
from cupyrec.devices.cuda_runtime import LOWEST_PRIORITY
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import ARRAY_GROWTH, GpuDevice, GpuStream
from cupyrec.functions.embedding_bag import embedding_bag_forward
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.registry import Optimizer
from cupyrec.optim.row_update import RowUpdate
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.systems.dense_part import make_dense_part


class TrainStage:
    """Pools, runs the model forward and backward, updates rows and dense parameters, and counts the steps.

    On a GPU it works on batches whose arrays are in device memory. The dense part, which is compute-bound, is queued on
    the device's own stream; the work on embedding rows, which is bound by memory bandwidth, beside it; and so are the
    weight gradients of the top MLP, which nobody waits for:

        train     | bottom MLP, forward | interaction, top MLP, loss, back to dY | bottom MLP, backward | dense update |
        gradients |                     |                 weights of the top MLP, biases                |
        rows      | pool                |                                        | update rows                         |

    All begin when training has come to the step. Training waits for the pooled vectors, rows for their gradient dY, the
    dense update for all gradients, and the step ends when all are done. What others wait for goes first, and rows go
    last, where CuPy has priorities, from 14 on: blocks of products are few and large, and would else wait until all
    those of rows have had their turn.
    """

    def __init__(
        self,
        device: Device,
        model: Dlrm,
        optimizer: Optimizer,
        schedule: WarmupPolynomialDecay,
        *,
        max_samples: int,
    ) -> None:
        """max_samples: the most samples of a batch."""
        config, dtype = model.config, model.parameters.dtype
        self.device, self.model, self.max_samples = device, model, max_samples
        self.mean = config.pooling == "mean"
        self.steps_done = 0
        self._optimizer, self._schedule = optimizer, schedule
        self._Y = device.zeros((max_samples, config.features, config.dimension), dtype)
        self._dense_state = device.zeros(optimizer.dense_state_size(model.parameters.shape[0]), dtype)
        self._dense_part = make_dense_part(device, model, max_samples=max_samples)
        # Streams and events of the CPU and of a GPU are not told apart here; on the CPU there is but the device.
        self._train: Any = device
        self.row_stream: Any = device
        if isinstance(device, GpuDevice):
            self.row_stream = device.stream("rows", priority=LOWEST_PRIORITY)
        self._begun, self._pooled, self._updated = (self._train.record() for _ in range(3))
        self._rows_are_awaited = False
        self._partial_sums: Any = None

    @property
    def beside(self) -> list[GpuStream]:
        """Streams of a GPU on which it queues beside the device's own."""
        return [each for each in (self._dense_part.beside, self.row_stream) if isinstance(each, GpuStream)]

    @property
    def learning_rate(self) -> float:
        """Of the step to come."""
        return self._schedule(self.steps_done)

    @property
    def optimizer_state_size(self) -> int:
        """Of the dense parameters, in elements."""
        return int(self._dense_state.shape[0])

    def optimizer_state(self) -> np.ndarray:
        """(optimizer_state_size,): a copy, on the host, of the optimizer's state of the dense parameters."""
        return np.array(self.device.download(self._dense_state))

    def restore(self, steps: int, optimizer_state: np.ndarray) -> None:
        """Go on as after so many steps. optimizer_state: as it was then, host."""
        self.device.upload(optimizer_state, self._dense_state)
        self.steps_done = steps

    def pooled(self, samples: int) -> Any:
        """Y (B, F, D), device: where a batch's pooled vectors stand, for who fills it otherwise than by `pool`."""
        return self._Y[:samples]

    def pool(self, records: Any, places: Any, batch: Batch, *, stream: Any = None) -> Any:
        """Y (B, F, D): the pooled vectors of a batch; valid until the next call.

        records: (places, record width), device; places: (N,), the row or slot of each lookup; stream: None for the
        device's own.
        """
        Y = self.pooled(batch.samples)
        embedding_bag_forward(stream or self.device, records, places, batch.offsets, Y, mean=self.mean)
        return Y

    def upload(self, batch: Batch) -> Batch:
        """A batch with its arrays where the model is; waits for it. For prediction: training loads them ahead."""
        if not isinstance(self.device, GpuDevice):
            return batch
        arrays = (batch.dense, batch.rows, batch.offsets, batch.labels)
        return Batch(*(self.device.upload(array) for array in arrays))

    def predict(self, batch: Batch, Y: Any) -> np.ndarray:
        """Logits (B,), on the host, from pooled vectors; valid until the next call."""
        return self.device.download(self.model.forward(batch.dense, Y))

    def gradient(self, batch: Batch, Y: Any) -> Any:
        """dY (B, F, D), device, of the mean loss. Y: what `pooled` gave, filled by what training has queued.

        complete_gradients must follow, update_rows may, and then update_dense.
        """
        self._dense_part.begin(batch)
        return self._dense_part.run(batch, Y)

    def complete_gradients(self) -> None:
        """Fill the gradients of the dense parameters. What needs dY alone does not wait for it."""
        self._dense_part.end()

    def update_rows(
        self, records: Any, dY: Any, offsets: Any, plan: CoalescePlan | GpuCoalescePlan, slots: Any = None
    ) -> None:
        """Apply the optimizer to the rows of a plan, in place. slots: (U,), where they are; None: at their row.

        All arrays are on the device or, with a CoalescePlan, all on the host. On a GPU it is done when all is that
        update_dense has queued.
        """
        rate = self.learning_rate
        if not isinstance(plan, GpuCoalescePlan):
            update = RowUpdate(records, dY, offsets, plan, self.mean, slots)
            self._optimizer.update_rows(self.device.host, update, learning_rate=rate)
            return
        update = RowUpdate(records, dY, offsets, plan, self.mean, slots, self._sums_for(most_chunks(plan.lookups)))
        self.row_stream.wait(self._dense_part.has_gradient)
        self._optimizer.update_rows(self.row_stream, update, learning_rate=rate)
        self.row_stream.record(self._updated)
        self._rows_are_awaited = True

    def update_dense(self) -> SupportsFloat:
        """Apply the optimizer to the dense parameters, which ends the step; returns its mean loss."""
        self._optimizer.update_dense(
            self.device,
            self.model.parameters,
            self.model.gradients,
            self._dense_state,
            learning_rate=self.learning_rate,
        )
        loss = self._dense_part.loss()
        if self._rows_are_awaited:
            self._train.wait(self._updated)
            self._rows_are_awaited = False
        self.steps_done += 1
        return loss

    def run(
        self, batch: Batch, records: Any, places: Any, plan: CoalescePlan | GpuCoalescePlan, slots: Any = None
    ) -> SupportsFloat:
        """One whole step on rows that are all in records; returns the loss. Arguments as above."""
        rows = self.row_stream
        rows.wait(self._train.record(self._begun))
        Y = self.pool(records, places, batch, stream=rows)
        rows.record(self._pooled)
        self._dense_part.begin(batch)
        self._train.wait(self._pooled)
        dY = self._dense_part.run(batch, Y)
        self.complete_gradients()
        self.update_rows(records, dY, batch.offsets, plan, slots)
        return self.update_dense()

    def _sums_for(self, chunks: int) -> Any:
        """(at least chunks, D), device: room for the sums of long segments."""
        if self._partial_sums is None or self._partial_sums.shape[0] < chunks:
            self.device.synchronize()  # what is given back may still be in use
            self._partial_sums = self.row_stream.empty((math.ceil(ARRAY_GROWTH * chunks), self.model.config.dimension))
        return self._partial_sums
