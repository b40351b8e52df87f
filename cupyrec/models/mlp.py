"""A stack of fully connected layers that works in memory of its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuStream
from cupyrec.functions.bias_activation import bias_activation_backward, bias_activation_forward
from cupyrec.functions.bias_sums import BiasSums
from cupyrec.functions.linear import linear_forward, linear_input_gradient, linear_weight_gradient


def mlp_parameters(widths: Sequence[int]) -> int:
    """Weights and biases of an MLP with these widths, input included."""
    return sum((below + 1) * above for below, above in itertools.pairwise(widths))


class Mlp:
    """Y = layer_n(... layer_1(X)), each layer max(X W^T + b, 0); the last without the ReLU where it is told so.

    weights[i]: (out, in), biases[i]: (out,): views of `parameters`; their gradients: views of `gradients`.
    """

    def __init__(
        self,
        device: Device,
        widths: Sequence[int],
        parameters: Any,
        gradients: Any,
        *,
        max_samples: int,
        relu_last: bool,
    ) -> None:
        """widths: of the input, then of each layer. parameters, gradients: (mlp_parameters(widths),), device."""
        self._device = device
        self.widths = tuple(widths)
        self.weights, self.biases = _layer_views(self.widths, parameters)
        self._gradients = gradients
        self._weight_gradients, _ = _layer_views(self.widths, gradients)
        layers = len(self.weights)
        self._relu = [True] * (layers - 1) + [relu_last]
        self._outputs = [device.zeros((max_samples, width), parameters.dtype) for width in self.widths[1:]]
        # Gradients of the inputs of layers 2 .. n; the caller has the place for the first.
        self._input_gradients = [device.zeros((max_samples, width), parameters.dtype) for width in self.widths[1:-1]]
        self._bias_sums = BiasSums(
            device, self.widths[1:], _bias_places(self.widths), max_samples=max_samples, dtype=parameters.dtype
        )

    def initialize(self, seeds: np.random.SeedSequence) -> None:
        """W ~ N(0, 2 / (in + out)), b ~ N(0, 1 / out) (variances), as in the DLRM reference."""
        for weight, bias, seed in zip(self.weights, self.biases, seeds.spawn(len(self.weights)), strict=True):
            random = np.random.Generator(np.random.Philox(seed))
            above, below = weight.shape
            for array, deviation in ((weight, np.sqrt(2 / (below + above))), (bias, np.sqrt(1 / above))):
                self._device.upload(random.normal(0, deviation, array.shape).astype(array.dtype), array)

    def forward(self, X: Any) -> Any:
        """X: (B, in), device. Returns `output(B)`."""
        samples = X.shape[0]
        for layer, (W, b, relu) in enumerate(zip(self.weights, self.biases, self._relu, strict=True)):
            Y = self._outputs[layer][:samples]
            linear_forward(self._device, X, W, Y)
            bias_activation_forward(self._device, Y, b, relu=relu)
            X = Y
        return X

    def output(self, samples: int) -> Any:
        """(B, out), device: what the last forward pass gave; valid until the next."""
        return self._outputs[-1][:samples]

    @property
    def layers(self) -> range:
        """Their numbers, from the input on."""
        return range(len(self.weights))

    def backward_to_input(self, dY: Any, dX: Any | None, *, layers: range | None = None) -> None:
        """After `forward`, the part of the backward pass that leads to the input.

        dY: (B, out), device; modified. dX: (B, in), device; overwritten; None where nobody needs it.
        layers: the highest of those that are left to do; None: all.
        """
        for layer in reversed(self.layers if layers is None else layers):
            gradient, Y = self._gradient_of(layer, dY), self._outputs[layer][: dY.shape[0]]
            partial_sums = self._bias_sums.of_layer(layer)
            bias_activation_backward(self._device, gradient, Y, partial_sums, relu=self._relu[layer])
            below = self._gradient_of(layer - 1, dY) if layer else dX
            if below is not None:
                linear_input_gradient(self._device, gradient, self.weights[layer], below)

    def backward_of_parameters(self, X: Any, dY: Any) -> None:
        """After backward_to_input: fills the gradients. X: what forward was given; dY: as there, modified."""
        self.fill_bias_gradients(dY.shape[0])
        self.fill_weight_gradients(X, dY)

    def fill_bias_gradients(self, samples: int, *, stream: GpuStream | None = None) -> None:
        """After backward_to_input. samples: B; stream: of a GPU; None: the device's own."""
        self._bias_sums.add(samples, self._gradients, stream=stream)

    def fill_weight_gradients(
        self, X: Any, dY: Any, *, layers: range | None = None, stream: GpuStream | None = None
    ) -> None:
        """After backward_to_input of these layers. X, dY: as in backward_of_parameters; stream: of a GPU."""
        for layer in reversed(self.layers if layers is None else layers):
            inputs = self._outputs[layer - 1][: dY.shape[0]] if layer else X
            gradient = self._gradient_of(layer, dY)
            linear_weight_gradient(stream or self._device, gradient, inputs, self._weight_gradients[layer])

    def _gradient_of(self, layer: int, dY: Any) -> Any:
        """Where the gradient of a layer's output stands, (B, out of the layer); dY for the last."""
        return dY if layer == self.layers[-1] else self._input_gradients[layer][: dY.shape[0]]


def _bias_places(widths: Sequence[int]) -> list[int]:
    """Where the biases of each layer begin among all parameters."""
    ends = itertools.accumulate((below + 1) * above for below, above in itertools.pairwise(widths))
    return [end - above for end, above in zip(ends, widths[1:], strict=True)]


def _layer_views(widths: Sequence[int], flat: Any) -> tuple[list[Any], list[Any]]:
    """Cut (P,) into a weight (out, in) and a bias (out,) for each layer."""
    weights, biases, at = [], [], 0
    for below, above in itertools.pairwise(widths):
        weights.append(flat[at : at + above * below].reshape(above, below))
        at += above * below
        biases.append(flat[at : at + above])
        at += above
    return weights, biases
