"""Y = X W^T, the matrix products of a fully connected layer; bias and activation are in bias_activation."""

from __future__ import annotations

from typing import Any

from cupyrec.devices.device import Device


def linear_forward(device: Device, X: Any, W: Any, Y: Any) -> None:
    """Y = X W^T.

    X: (B, in), W: (out, in), Y: (B, out), of one floating dtype, device. Y is overwritten.
    """
    device.matmul(X, W.T, Y)


def linear_backward(device: Device, dY: Any, X: Any, W: Any, dW: Any, dX: Any | None) -> None:
    """dW = dY^T X;  dX = dY W.

    dY: (B, out), X: (B, in), W: (out, in), device. dW (out, in) and dX (B, in) are overwritten; dX may be None
    where nobody needs it (the first layer).
    """
    device.matmul(dY.T, X, dW)
    if dX is not None:
        device.matmul(dY, W, dX)
