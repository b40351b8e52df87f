"""Binary cross-entropy on logits, with its gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuStream
from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.kernels import kernel

FLOATS = frozenset((np.dtype(np.float32), np.dtype(np.float64)))
# Of the one block that a GPU has for it: the most that CUDA allows.
GPU_THREADS = 1024


def bce_with_logits(device: Device, logits: Any, labels: Any, dlogits: Any, loss_sum: Any) -> None:
    """loss_sum[0] = sum over s of max(z, 0) - z y + log(1 + exp(-|z|));  dlogits = (sigmoid(z) - y) / B.

    The gradient is that of the mean loss, loss_sum / B; the 1/B stands here and nowhere else.
    logits, labels, dlogits: (B,) of floating dtypes, on a GPU float32, device; loss_sum: (1,) float64, device. The
    last two are overwritten. A NaN logit makes the loss NaN. All is done in double precision, the sum in an order that
    depends on B alone (a GPU's is another than the CPU's). Raises ValueError on shapes, TypeError on dtypes.
    """
    if logits.ndim != 1 or logits.shape != labels.shape or logits.shape != dlogits.shape:
        raise ValueError(
            f"logits, labels, dlogits must have one shape: {logits.shape}, {labels.shape}, {dlogits.shape}"
        )
    if loss_sum.shape != (1,):
        raise ValueError(f"loss_sum must be (1,), but is {loss_sum.shape}")
    if isinstance(device, GpuStream):
        loss_kernel = kernel("bce_with_logits", "bce_with_logits", THREADS=GPU_THREADS)
        device.launch(loss_kernel, 1, GPU_THREADS, logits, labels, dlogits, loss_sum, np.int64(logits.size))
        return
    if {logits.dtype, labels.dtype, dlogits.dtype} - FLOATS or loss_sum.dtype != np.float64:
        raise TypeError(
            f"logits, labels, dlogits must be float32 or float64, loss_sum float64, but they are {logits.dtype}, "
            f"{labels.dtype}, {dlogits.dtype}, {loss_sum.dtype}"
        )
    # One part: the sum is one thread's, in sample order; it is a few microseconds.
    device.launch(_loss_and_gradient, 1, logits, labels, dlogits, loss_sum)


@cpu_kernel
def _loss_and_gradient(start, stop, logits, labels, dlogits, loss_sum):
    samples = logits.shape[0]
    total = 0.0
    for s in range(samples):
        z = np.float64(logits[s])
        y = np.float64(labels[s])
        e = math.exp(-abs(z))
        total += max(z, 0.0) - z * y + math.log1p(e)
        probability = 1.0 / (1.0 + e) if z >= 0.0 else e / (1.0 + e)
        dlogits[s] = (probability - y) / samples
    loss_sum[0] = total
