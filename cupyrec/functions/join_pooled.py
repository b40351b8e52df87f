"""Pooled vectors of which a part was summed elsewhere: the parts added, and the mean taken of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuStream
from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.functions.embedding_bag import part_floats
from cupyrec.kernels import kernel


def join_pooled(device: Device, Y: Any, other_Y: Any, offsets: Any, *, mean: bool) -> None:
    """Y += other_Y; then each vector is divided by the length of its bag where mean and the bag is not empty.

    Y, other_Y: (B, F, D) of one floating dtype, device; Y is modified. offsets: (F*B + 1,) int64, device: the whole
    bags. Raises ValueError on shapes.
    """
    B, F, D = Y.shape
    if other_Y.shape != Y.shape or offsets.shape != (F * B + 1,):
        raise ValueError(f"Y is {Y.shape}, but what is added {other_Y.shape}, and offsets are {offsets.shape}")
    if isinstance(device, GpuStream):
        join = kernel("join_pooled", "join_pooled", DIMENSION=D, MEAN=int(mean))
        device.launch_over(join, B * F * D // part_floats(D), Y, other_Y, offsets, np.int32(B), np.int32(F))
        return
    device.launch(_join, B, Y, other_Y, offsets, mean, floats=3 * Y.size)


@cpu_kernel
def _join(start, stop, Y, other_Y, offsets, mean):
    """For the samples start .. stop-1."""
    B, F, D = Y.shape
    for b in range(start, stop):
        for f in range(F):
            length = offsets[f * B + b + 1] - offsets[f * B + b]
            for d in range(D):
                Y[b, f, d] += other_Y[b, f, d]
            if mean and length > 1:
                divisor = Y.dtype.type(length)
                for d in range(D):
                    Y[b, f, d] /= divisor
