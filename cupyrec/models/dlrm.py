"""DLRM, the part that is not embeddings: from dense features and pooled embedding vectors to logits, and back.

Source: Naumov et al. 2019, arXiv 1906.00091.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.config import DlrmConfig
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuStream
from cupyrec.functions.bce_with_logits import bce_with_logits
from cupyrec.functions.bias_activation import sum_blocks
from cupyrec.functions.dot_interaction import dot_interaction_backward, dot_interaction_forward, interaction_width
from cupyrec.models.mlp import Mlp, mlp_parameters


class Dlrm:
    """X = bottom(dense);  R = interaction(X, Y);  logit = top(R).

    parameters, gradients: (P,), device: all dense parameters, bottom MLP then top MLP.
    loss_sum:              (1,) float64, device: of the last backward pass, the sum of the losses of all samples.
    Works in memory of its own, for at most max_samples; what a method returns is valid until its next call.
    """

    def __init__(
        self, device: Device, config: DlrmConfig, *, max_samples: int, seed: int = 0, dtype: Any = np.float32
    ) -> None:
        self.device, self.config = device, config
        D, F = config.dimension, config.features
        width = interaction_width(F, D, self_interaction=config.self_interaction)
        bottom = (config.dense_features, *config.bottom)
        top = (width, *config.top)
        cut, total = mlp_parameters(bottom), dense_parameters(config)
        self.parameters = device.zeros(total, dtype)
        self.gradients = device.zeros(total, dtype)
        self.bottom = Mlp(
            device, bottom, self.parameters[:cut], self.gradients[:cut], max_samples=max_samples, relu_last=True
        )
        self.top = Mlp(
            device, top, self.parameters[cut:], self.gradients[cut:], max_samples=max_samples, relu_last=False
        )
        for mlp, seeds in zip((self.bottom, self.top), np.random.SeedSequence(seed).spawn(2), strict=True):
            mlp.initialize(seeds)
        self._R = device.zeros((max_samples, width), dtype)
        self._dR = device.zeros((max_samples, width), dtype)
        self._dX = device.zeros((max_samples, D), dtype)
        self._dY = device.zeros((max_samples, F, D), dtype)
        self._dlogits = device.zeros(max_samples, dtype)
        self.loss_sum = device.zeros(1, np.float64)

    def forward(self, dense: Any, Y: Any) -> Any:
        """dense: (B, dense features), Y: (B, F, D), device. Returns logits (B,)."""
        return self.forward_from_bottom(self.bottom.forward(dense), Y)

    def forward_from_bottom(self, X: Any, Y: Any) -> Any:
        """The part of `forward` that needs the pooled vectors. X: (B, D), what the bottom MLP gave."""
        R = self._R[: X.shape[0]]
        dot_interaction_forward(self.device, X, Y, R, self_interaction=self.config.self_interaction)
        return self.top.forward(R).reshape(X.shape[0])

    def backward(self, dense: Any, Y: Any, logits: Any, labels: Any) -> Any:
        """After forward(dense, Y): dY (B, F, D), of the mean loss of the batch; fills `gradients` and `loss_sum`.

        logits: what forward returned; labels: (B,) of the same dtype, device.
        """
        dY = self.backward_to_pooled(Y, logits, labels)
        self.backward_of_parameters(dense)
        return dY

    def backward_to_pooled(self, Y: Any, logits: Any, labels: Any) -> Any:
        """The part of `backward` that leads to dY, which it returns; fills `loss_sum`."""
        self.backward_of_loss(logits, labels, layers=self.top.layers)
        return self.backward_of_interaction(Y, layers=range(0))

    def backward_of_loss(self, logits: Any, labels: Any, *, layers: range) -> None:
        """The first part of backward_to_pooled. layers: of the top MLP, the highest, which are done with it."""
        dlogits = self._dlogits[: labels.shape[0]]
        bce_with_logits(self.device, logits, labels, dlogits, self.loss_sum)
        self._lead_to_interaction(labels.shape[0], layers)

    def backward_of_interaction(self, Y: Any, *, layers: range) -> Any:
        """The rest of backward_to_pooled. layers: of the top MLP, which are left to do before."""
        B = Y.shape[0]
        dX, dY = self._dX[:B], self._dY[:B]
        self._lead_to_interaction(B, layers)
        dot_interaction_backward(
            self.device, self._dR[:B], self.bottom.output(B), Y, dX, dY, self_interaction=self.config.self_interaction
        )
        return dY

    def _lead_to_interaction(self, samples: int, layers: range) -> None:
        self.top.backward_to_input(self._dlogits[:samples].reshape(samples, 1), self._dR[:samples], layers=layers)

    def backward_of_parameters(self, dense: Any) -> None:
        """After backward_to_pooled: the rest of `backward`, which fills `gradients`."""
        self.fill_top_weight_gradients(dense.shape[0], layers=self.top.layers)
        self.top.fill_bias_gradients(dense.shape[0])
        self.backward_of_bottom(dense)

    def fill_top_weight_gradients(self, samples: int, *, layers: range, stream: GpuStream | None = None) -> None:
        """Of layers of the top MLP that the backward pass is done with. stream: of a GPU; None: the device's own."""
        dlogits = self._dlogits[:samples].reshape(samples, 1)
        self.top.fill_weight_gradients(self._R[:samples], dlogits, layers=layers, stream=stream)

    def backward_of_bottom(self, dense: Any) -> None:
        """After backward_to_pooled: the bottom MLP, whose gradients it fills."""
        dX = self._dX[: dense.shape[0]]
        self.bottom.backward_to_input(dX, None)
        self.bottom.backward_of_parameters(dense, dX)


def dense_parameters(config: DlrmConfig) -> int:
    """P, the parameters of both MLPs."""
    width = interaction_width(config.features, config.dimension, self_interaction=config.self_interaction)
    return mlp_parameters((config.dense_features, *config.bottom)) + mlp_parameters((width, *config.top))


def activation_elements(config: DlrmConfig, samples: int) -> int:
    """Elements in the memory of a Dlrm and of its pooled vectors, for so many samples: values and gradients."""
    width = interaction_width(config.features, config.dimension, self_interaction=config.self_interaction)
    layers = sum(config.bottom) + sum(config.bottom[:-1]) + sum(config.top) + sum(config.top[:-1])
    pooled_with_gradient = 2 * config.features * config.dimension
    a_sample = layers + 2 * width + config.dimension + pooled_with_gradient + 1
    return samples * a_sample + sum_blocks(samples) * (sum(config.bottom) + sum(config.top))
