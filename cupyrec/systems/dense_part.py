"""The part of a step that is not embeddings: the model forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, SupportsFloat

from cupyrec.batch import Batch
from cupyrec.devices.cuda_runtime import MIDDLE_PRIORITY
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice, GpuEvent, GpuStream
from cupyrec.devices.repeated import Repeated
from cupyrec.models.dlrm import Dlrm
from cupyrec.systems.loss import LossReader


class DensePart:
    """Runs the model on batches whose arrays are where the model is.

    beside: a stream on which it queues beside the device's own, if there is one; has_gradient: on a GPU, the event
    that dY is there.
    """

    beside: GpuStream | None = None
    has_gradient: Any = None

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
    streams may work on embedding rows meanwhile. Most matrix products are too small to fill a GPU: weight gradients of
    the top MLP, which nobody waits for, are queued on a stream beside. `run` is in two parts, after the first of which
    those of the upper layers can begin:

        device's own | loss, upper layers | lower layers, interaction | bottom MLP, backward     |
        beside       |                    | weights of upper layers   | weights of lower, biases |

    A graph knows its arrays by address: inputs are copied to one place, and Y must always be the same array.
    """

    def __init__(self, device: GpuDevice, model: Dlrm, *, max_samples: int) -> None:
        self._device, self._model = device, model
        self._dense = device.zeros((max_samples, model.config.dense_features))
        self._labels = device.zeros(max_samples)
        self._samples, self._inputs = -1, (self._dense, self._labels)
        self._losses = LossReader(device)
        self.beside = device.stream("gradients", priority=MIDDLE_PRIORITY)
        cut = first_upper_layer(model.top.widths)
        self._lower, self._upper = model.top.layers[:cut], model.top.layers[cut:]
        # Most batches are of one size.
        self._begin, self._run_upper, self._run_lower, self._end = (Repeated(device) for _ in range(4))
        self._upper_weights, self._lower_weights = Repeated(self.beside), Repeated(self.beside)
        # has_gradient: dY is there.
        self._has_upper, self.has_gradient, self._filled = (GpuEvent(device.runtime) for _ in range(3))
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
        B, model, beside = batch.samples, self._model, self.beside
        self._run_upper.queue(B, lambda: self._queue_upper(B, Y))
        if self._upper:
            beside.wait(self._device.record(self._has_upper))
            self._upper_weights.queue(B, lambda: model.fill_top_weight_gradients(B, layers=self._upper, stream=beside))
        self._run_lower.queue(B, lambda: self._queue_lower(Y))
        self._device.record(self.has_gradient)
        return self._dY

    def end(self) -> None:
        """As DensePart.end."""
        B, model, beside = self._samples, self._model, self.beside
        beside.wait(self.has_gradient)
        self._lower_weights.queue(B, lambda: self._queue_lower_weights(B))
        beside.record(self._filled)
        dense, _ = self._inputs
        self._end.queue(B, lambda: model.backward_of_bottom(dense))
        self._device.wait(self._filled)

    def loss(self) -> SupportsFloat:
        """As DensePart.loss; a PendingLoss."""
        return self._losses.read(self._model.loss_sum, self._samples)

    def _queue_upper(self, samples: int, Y: Any) -> None:
        model, (_, labels) = self._model, self._inputs
        logits = model.forward_from_bottom(model.bottom.output(samples), Y)
        model.backward_of_loss(logits, labels, layers=self._upper)

    def _queue_lower(self, Y: Any) -> None:
        self._dY = self._model.backward_of_interaction(Y, layers=self._lower)

    def _queue_lower_weights(self, samples: int) -> None:
        self._model.fill_top_weight_gradients(samples, layers=self._lower, stream=self.beside)
        self._model.top.fill_bias_gradients(samples, stream=self.beside)


def first_upper_layer(widths: Sequence[int]) -> int:
    """The first of the layers whose weight gradients take no longer than the layers below take to the input.

    widths: of the input and of each layer. A product of a layer, either one, takes as long as it has weights.
    """
    weights = [below * above for below, above in itertools.pairwise(widths)]
    return next(layer for layer in range(1, len(weights) + 1) if sum(weights[layer:]) <= sum(weights[:layer]))


def make_dense_part(device: Device, model: Dlrm, *, max_samples: int) -> DensePart | GraphedDensePart:
    """The one for a device."""
    if isinstance(device, GpuDevice):
        return GraphedDensePart(device, model, max_samples=max_samples)
    return DensePart(model)
