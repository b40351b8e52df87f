"""Y = max(Y + b, 0), or Y + b alone: bias and activation in one pass over memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.devices.cuda_kernel import CudaKernel
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import BLOCK_THREADS, GpuStream
from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.kernels import kernel

# Enough blocks for the threads of a large machine, few enough that adding them costs nothing.
SUM_BLOCK = 64
# Of the GPU: rows that a thread of the forward pass has in flight at once, and the block of the backward pass.
ROWS_A_THREAD, COLUMNS, ROW_THREADS = 4, 32, 8
# CUDA's limit on the blocks in the second direction of a grid.
MOST_BLOCKS_Y = 65_535


def bias_activation_forward(device: Device, Y: Any, b: Any, *, relu: bool) -> None:
    """Y[s, o] = max(Y[s, o] + b[o], 0) where relu, else Y[s, o] + b[o]; in place.

    Y: (B, out), b: (out,), of one floating dtype, device; on a GPU float32. Y is modified. NaN stays NaN.
    Raises ValueError on shapes.
    """
    if Y.ndim != 2 or b.shape != Y.shape[1:]:
        raise ValueError(f"Y must be (B, out) and b (out,), but they are {Y.shape} and {b.shape}")
    if isinstance(device, GpuStream):
        _forward_on_gpu(device, Y, b, relu)
        return
    device.launch(_forward, Y.shape[0], Y, b, relu, floats=2 * Y.size)


def bias_activation_backward(device: Device, dY: Any, Y: Any, partial_sums: Any, *, relu: bool) -> None:
    """dY[s, o] = 0 where relu and Y[s, o] <= 0, in place; then partial_sums[k, o] = sum of dY[s, o] over block k.

    Block k is the samples k SUM_BLOCK .. (k + 1) SUM_BLOCK - 1, added in ascending order, on a GPU as well; BiasSums
    adds the blocks. dY, Y: (B, out) with Y the result of the forward pass, device; on a GPU float32. dY is modified.
    partial_sums: (sum_blocks(B), out) or more rows, device; overwritten as far as there are blocks. The gradient of
    max(x, 0) at 0 is 0, as in PyTorch. Raises ValueError on shapes.
    """
    if dY.ndim != 2 or Y.shape != dY.shape:
        raise ValueError(f"dY and Y must be (B, out), but they are {dY.shape} and {Y.shape}")
    samples, width = dY.shape
    blocks = sum_blocks(samples)
    if partial_sums.shape[0] < blocks or partial_sums.shape[1:] != (width,):
        raise ValueError(f"partial_sums must be ({blocks} or more, {width}), but is {partial_sums.shape}")
    if isinstance(device, GpuStream):
        grid, block = -(-width // COLUMNS) * blocks, (COLUMNS, ROW_THREADS)
        backward = _kernel("bias_activation_backward", relu)
        device.launch(backward, grid, block, dY, Y, partial_sums, np.int64(samples), np.int32(width))
        return
    # Parts are samples, as in the matrix products before and after: no thread waits for another core's cache.
    device.launch(_backward, blocks, dY, Y, partial_sums, relu, floats=3 * Y.size)


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


def _kernel(name: str, relu: bool) -> CudaKernel:
    return kernel(
        "bias_activation",
        name,
        RELU=int(relu),
        ROWS_A_THREAD=ROWS_A_THREAD,
        SUM_BLOCK=SUM_BLOCK,
        COLUMNS=COLUMNS,
        ROW_THREADS=ROW_THREADS,
    )


def _forward_on_gpu(device: GpuStream, Y: Any, b: Any, relu: bool) -> None:
    samples, width = Y.shape
    columns = width // 4 if width % 4 == 0 else width
    # As many threads side by side as there are columns, so that narrow layers leave none idle.
    across = min(1 << (columns - 1).bit_length(), BLOCK_THREADS)
    down = BLOCK_THREADS // across
    grid = -(-columns // across), min(-(-samples // (down * ROWS_A_THREAD)), MOST_BLOCKS_Y)
    forward = _kernel("bias_activation_forward", relu)
    device.launch(forward, grid, (across, down), Y, b, np.int64(samples), np.int32(width))
