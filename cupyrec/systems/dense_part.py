"""The part of a step between pooled vectors and their gradient: the model forward and backward."""

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

    def run(self, batch: Batch, Y: Any) -> tuple[SupportsFloat, Any]:
        """The mean loss and dY (B, F, D), device; fills the model's gradients. Y: (B, F, D), device."""
        model = self._model
        dY = model.backward(model.forward(batch.dense, Y), batch.labels)
        return float(model.loss_sum[0]) / batch.samples, dY


class GraphedDensePart:
    """The same on a GPU: the launches of a batch of the same size are captured once in a CUDA graph, and replayed.

    A graph knows its arrays by address: inputs are copied to one place, and Y must always be the same array.
    """

    def __init__(self, device: GpuDevice, model: Dlrm, *, max_samples: int) -> None:
        self._device, self._model = device, model
        self._dense = device.zeros((max_samples, model.config.dense_features))
        self._labels = device.zeros(max_samples)
        self._samples, self._inputs = -1, (self._dense, self._labels)
        self._losses = LossReader(device)
        # Most batches are of one size.
        self._repeated = Repeated(device)
        self._dY: Any = None

    def run(self, batch: Batch, Y: Any) -> tuple[SupportsFloat, Any]:
        """As DensePart.run; the loss is a PendingLoss."""
        device, B = self._device, batch.samples
        if self._samples != B:
            self._samples, self._inputs = B, (self._dense[:B], self._labels[:B])
        for given, put in zip((batch.dense, batch.labels), self._inputs, strict=True):
            device.copy(given, put)
        self._repeated.queue(B, lambda: self._queue(Y))
        return self._losses.read(self._model.loss_sum, B), self._dY

    def _queue(self, Y: Any) -> None:
        dense, labels = self._inputs
        self._dY = self._model.backward(self._model.forward(dense, Y), labels)


def make_dense_part(device: Device, model: Dlrm, *, max_samples: int) -> DensePart | GraphedDensePart:
    """The one for a device."""
    if isinstance(device, GpuDevice):
        return GraphedDensePart(device, model, max_samples=max_samples)
    return DensePart(model)
