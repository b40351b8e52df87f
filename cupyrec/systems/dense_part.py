"""The part of a step that is not embeddings: the model forward and backward."""

from __future__ import annotations

from typing import Any, SupportsFloat

from cupyrec.batch import Batch
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice, Repeated
from cupyrec.models.dlrm import Dlrm
from cupyrec.systems.loss import LossReader


class DensePart:
    """Runs the model on batches whose arrays are where the model is."""

    def __init__(self, model: Dlrm) -> None:
        self._model = model
        self._dense: Any = None

    def begin(self, batch: Batch) -> None:
        """Nothing: there is nobody who could do it meanwhile."""

    def run(self, batch: Batch, Y: Any) -> Any:
        """After `begin`: dY (B, F, D), device. Y: (B, F, D), device."""
        model, self._dense = self._model, batch.dense
        return model.backward_to_pooled(Y, model.forward(batch.dense, Y), batch.labels)

    def end(self) -> None:
        """After `run`: fill the model's gradients."""
        self._model.backward_of_parameters(self._dense)

    def loss(self) -> SupportsFloat:
        """The mean loss of the batch that was run last."""
        return float(self._model.loss_sum[0]) / self._dense.shape[0]


class GraphedDensePart:
    """The same on a GPU: the launches of a batch of the same size are captured once in CUDA graphs, and replayed.

    `begin` queues what needs no pooled vectors, `run` what leads to their gradient and `end` all else, so that other
    streams may work on embedding rows meanwhile. A graph knows its arrays by address: inputs are copied to one place,
    and Y must always be the same array.
    """

    def __init__(self, device: GpuDevice, model: Dlrm, *, max_samples: int) -> None:
        self._device, self._model = device, model
        self._dense = device.zeros((max_samples, model.config.dense_features))
        self._labels = device.zeros(max_samples)
        self._samples, self._inputs = -1, (self._dense, self._labels)
        self._losses = LossReader(device)
        # Most batches are of one size.
        self._begin, self._run, self._end = (Repeated(device) for _ in range(3))
        self._dY: Any = None

    def begin(self, batch: Batch) -> None:
        """Take in a batch; run the bottom MLP."""
        device, B = self._device, batch.samples
        if self._samples != B:
            self._samples, self._inputs = B, (self._dense[:B], self._labels[:B])
        for given, put in zip((batch.dense, batch.labels), self._inputs, strict=True):
            device.copy(given, put)
        dense, _ = self._inputs
        self._begin.queue(B, lambda: self._model.bottom.forward(dense))

    def run(self, batch: Batch, Y: Any) -> Any:
        """As DensePart.run."""
        B = batch.samples
        self._run.queue(B, lambda: self._queue_run(B, Y))
        return self._dY

    def end(self) -> None:
        """As DensePart.end."""
        dense, _ = self._inputs
        self._end.queue(self._samples, lambda: self._model.backward_of_parameters(dense))

    def loss(self) -> SupportsFloat:
        """As DensePart.loss; a PendingLoss."""
        return self._losses.read(self._model.loss_sum, self._samples)

    def _queue_run(self, samples: int, Y: Any) -> None:
        model, (_, labels) = self._model, self._inputs
        logits = model.forward_from_bottom(model.bottom.output(samples), Y)
        self._dY = model.backward_to_pooled(Y, logits, labels)


def make_dense_part(device: Device, model: Dlrm, *, max_samples: int) -> DensePart | GraphedDensePart:
    """The one for a device."""
    if isinstance(device, GpuDevice):
        return GraphedDensePart(device, model, max_samples=max_samples)
    return DensePart(model)
