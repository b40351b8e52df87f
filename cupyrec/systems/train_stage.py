"""The stage Train, the same in every system: they differ in where rows are and how they come there."""

from __future__ import annotations

from typing import Any

from cupyrec.batch import Batch, CoalescePlan
from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.embedding_bag import embedding_bag_forward
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.registry import Optimizer
from cupyrec.optim.row_update import RowUpdate
from cupyrec.optim.schedule import WarmupPolynomialDecay


class TrainStage:
    """Pools, runs the model forward and backward, updates rows and dense parameters, and counts the steps."""

    def __init__(
        self,
        device: CpuDevice,
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

    @property
    def learning_rate(self) -> float:
        """Of the step to come."""
        return self._schedule(self.steps_done)

    def pooled(self, samples: int) -> Any:
        """Y (B, F, D), device: where a batch's pooled vectors stand, for who fills it otherwise than by `pool`."""
        return self._Y[:samples]

    def pool(self, records: Any, places: Any, batch: Batch) -> Any:
        """Y (B, F, D): the pooled vectors of a batch; valid until the next call.

        records: (places, record width), device; places: (N,), the row or slot of each lookup.
        """
        Y = self.pooled(batch.samples)
        embedding_bag_forward(self.device, records, places, batch.offsets, Y, mean=self.mean)
        return Y

    def predict(self, batch: Batch, Y: Any) -> Any:
        """Logits (B,), device, from pooled vectors; valid until the next call."""
        return self.model.forward(batch.dense, Y)

    def loss_and_gradient(self, batch: Batch, Y: Any) -> tuple[float, Any]:
        """The mean loss and dY (B, F, D), device; fills the model's gradients."""
        return self.model.backward(self.model.forward(batch.dense, Y), batch.labels)

    def update_rows(self, records: Any, dY: Any, offsets: Any, plan: CoalescePlan, slots: Any = None) -> None:
        """Apply the optimizer to the rows of a plan, in place. slots: (U,), where they are; None: at their row."""
        update = RowUpdate(records, dY, offsets, plan, self.mean, slots)
        self._optimizer.update_rows(self.device, update, learning_rate=self.learning_rate)

    def update_dense(self) -> None:
        """Apply the optimizer to the dense parameters, which ends the step."""
        self._optimizer.update_dense(
            self.device,
            self.model.parameters,
            self.model.gradients,
            self._dense_state,
            learning_rate=self.learning_rate,
        )
        self.steps_done += 1

    def run(self, batch: Batch, records: Any, places: Any, plan: CoalescePlan, slots: Any = None) -> float:
        """One whole step on rows that are all in records; returns the loss. Arguments as above."""
        loss, dY = self.loss_and_gradient(batch, self.pool(records, places, batch))
        self.update_rows(records, dY, batch.offsets, plan, slots)
        self.update_dense()
        return loss
