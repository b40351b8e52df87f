"""Y = X W^T, the matrix products of a fully connected layer; bias and activation are in bias_activation."""

from __future__ import annotations

from typing import Any

from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuStream


def linear_forward(device: Device, X: Any, W: Any, Y: Any) -> None:
    """Y = X W^T.

    X: (B, in), W: (out, in), Y: (B, out), of one floating dtype, device. Y is overwritten.
    """
    device.matmul(X, W.T, Y)


def linear_weight_gradient(device: Device | GpuStream, dY: Any, X: Any, dW: Any) -> None:
    """dW = dY^T X.

    dY: (B, out), X: (B, in), device. dW (out, in) is overwritten.
    """
    device.matmul(dY.T, X, dW)


def linear_input_gradient(device: Device, dY: Any, W: Any, dX: Any) -> None:
    """dX = dY W.

    dY: (B, out), W: (out, in), device. dX (B, in) is overwritten.
    """
    device.matmul(dY, W, dX)
