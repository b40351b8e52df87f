"""Y = max(Y + b, 0), or Y + b alone: bias and activation in one pass over memory."""

from __future__ import annotations

from typing import Any

from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.numba_kernel import cpu_kernel

# Enough blocks for the threads of a large machine, few enough that adding them costs nothing.
SUM_BLOCK = 64


def bias_activation_forward(device: CpuDevice, Y: Any, b: Any, *, relu: bool) -> None:
    """Y[s, o] = max(Y[s, o] + b[o], 0) where relu, else Y[s, o] + b[o]; in place.

    Y: (B, out), b: (out,), of one floating dtype, device. Y is modified. NaN stays NaN.
    """
    device.launch(_forward, Y.shape[0], Y, b, relu)


def bias_activation_backward(
    device: CpuDevice, dY: Any, Y: Any, db: Any, *, relu: bool, partial_sums: Any | None = None
) -> None:
    """dY[s, o] = 0 where relu and Y[s, o] <= 0, in place; then db[o] = sum over s of dY[s, o].

    The sum is taken over blocks of SUM_BLOCK samples, then over the blocks, both in ascending order: it does not depend
    on the number of threads. dY, Y: (B, out) with Y the result of the forward pass, db: (out,), device. dY is modified,
    db overwritten. partial_sums: (sum_blocks(B), out) or more rows, device: room to work in; allocated when not given.
    The gradient of max(x, 0) at 0 is 0, as in PyTorch.
    """
    blocks = sum_blocks(dY.shape[0])
    if partial_sums is None:
        partial_sums = device.zeros((blocks, dY.shape[1]), dY.dtype)
    # Parts are samples, as in the matrix products before and after: no thread waits for another core's cache.
    device.launch(_backward, blocks, dY, Y, partial_sums, relu)
    device.launch(_add_blocks, 1, partial_sums, blocks, db)


def sum_blocks(samples: int) -> int:
    """Blocks that the backward pass sums a batch in."""
    return -(-samples // SUM_BLOCK)


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
def _backward(start, stop, dY, Y, partial_sums, relu):
    zero = Y.dtype.type(0)
    width = Y.shape[1]
    for block in range(start, stop):
        for o in range(width):
            partial_sums[block, o] = zero
        for s in range(block * SUM_BLOCK, min((block + 1) * SUM_BLOCK, Y.shape[0])):
            if relu:
                for o in range(width):
                    d = zero if Y[s, o] <= zero else dY[s, o]
                    dY[s, o] = d
                    partial_sums[block, o] += d
            else:
                for o in range(width):
                    partial_sums[block, o] += dY[s, o]


@cpu_kernel
def _add_blocks(start, stop, partial_sums, blocks, db):
    width = db.shape[0]
    for o in range(width):
        db[o] = 0
    for block in range(blocks):
        for o in range(width):
            db[o] += partial_sums[block, o]
