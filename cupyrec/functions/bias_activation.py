"""Y = max(Y + b, 0), or Y + b alone: bias and activation in one pass over memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.numba_kernel import cpu_kernel


def bias_activation_forward(device: CpuDevice, Y: Any, b: Any, *, relu: bool) -> None:
    """Y[s, o] = max(Y[s, o] + b[o], 0) where relu, else Y[s, o] + b[o]; in place.

    Y: (B, out), b: (out,), of one floating dtype, device. Y is modified. NaN stays NaN.
    """
    device.launch(_forward, Y.shape[0], Y, b, relu)


def bias_activation_backward(device: CpuDevice, dY: Any, Y: Any, db: Any, *, relu: bool) -> None:
    """dY[s, o] = 0 where relu and Y[s, o] <= 0, in place; then db[o] = sum over s of dY[s, o], s ascending.

    dY, Y: (B, out) with Y the result of the forward pass, db: (out,), device. dY is modified, db overwritten.
    The gradient of max(x, 0) at 0 is 0, as in PyTorch.
    """
    # Parts are columns: each sum is one thread's, whatever the number of threads.
    device.launch(_backward, Y.shape[1], dY, Y, db, relu)


@cpu_kernel
def _forward(start, stop, Y, b, relu):
    width = Y.shape[1]
    zero = Y.dtype.type(0)
    for s in range(start, stop):
        if relu:
            for o in range(width):
                y = Y[s, o] + b[o]
                # Not max(): a NaN must reach the loss, where it is reported.
                Y[s, o] = zero if y < zero else y
        else:
            for o in range(width):
                Y[s, o] += b[o]


@cpu_kernel
def _backward(start, stop, dY, Y, db, relu):
    zero = Y.dtype.type(0)
    first, last = np.uint64(start), np.uint64(stop)
    for o in range(first, last):
        db[o] = zero
    for s in range(Y.shape[0]):
        if relu:
            for o in range(first, last):
                d = zero if Y[s, o] <= zero else dY[s, o]
                dY[s, o] = d
                db[o] += d
        else:
            for o in range(first, last):
                db[o] += dY[s, o]
