"""The part of a step between pooled vectors and their gradient: the model forward and backward."""

from __future__ import annotations

from typing import Any, SupportsFloat

from cupyrec.batch import Batch
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice
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
        self._losses = LossReader(device)
        # By the number of samples: None after the first time, then (graph, dY).
        self._graphs: dict[int, tuple[Any, Any] | None] = {}
        self._views: dict[int, tuple[Any, Any]] = {}

    def run(self, batch: Batch, Y: Any) -> tuple[SupportsFloat, Any]:
        """As DensePart.run; the loss is a PendingLoss."""
        device, B = self._device, batch.samples
        dense, labels = self._inputs(B)
        device.copy(batch.dense, dense)
        device.copy(batch.labels, labels)
        dY = self._replay(B, Y) if device.graphs else self._queue(B, Y)
        return self._losses.read(self._model.loss_sum, B), dY

    def _replay(self, B: int, Y: Any) -> Any:
        # Libraries set themselves up in the first run, which a capture would not allow.
        if B not in self._graphs:
            self._graphs[B] = None
            return self._queue(B, Y)
        captured = self._graphs[B]
        if captured is None:
            made: list[Any] = []
            graph = self._device.capture(lambda: made.append(self._queue(B, Y)))
            captured = self._graphs[B] = (graph, made[0])
        graph, dY = captured
        self._device.replay(graph)
        return dY

    def _queue(self, B: int, Y: Any) -> Any:
        dense, labels = self._inputs(B)
        return self._model.backward(self._model.forward(dense, Y), labels)

    def _inputs(self, B: int) -> tuple[Any, Any]:
        # Views of device arrays cost microseconds.
        if B not in self._views:
            self._views[B] = self._dense[:B], self._labels[:B]
        return self._views[B]


def make_dense_part(device: Device, model: Dlrm, *, max_samples: int) -> DensePart | GraphedDensePart:
    """The one for a device."""
    if isinstance(device, GpuDevice):
        return GraphedDensePart(device, model, max_samples=max_samples)
    return DensePart(model)
