"""Binary cross-entropy on logits, with its gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.numba_kernel import cpu_kernel


def bce_with_logits(device: CpuDevice, logits: Any, labels: Any, dlogits: Any, loss_sum: Any) -> None:
    """loss_sum[0] = sum over s of max(z, 0) - z y + log(1 + exp(-|z|));  dlogits = (sigmoid(z) - y) / B.

    The gradient is that of the mean loss, loss_sum / B; the 1/B stands here and nowhere else.
    logits, labels, dlogits: (B,) of one floating dtype, device; loss_sum: (1,) float64. The last two are
    overwritten. A NaN logit makes the loss NaN.
    """
    if logits.shape != labels.shape or logits.shape != dlogits.shape:
        raise ValueError(
            f"logits, labels, dlogits must have one shape: {logits.shape}, {labels.shape}, {dlogits.shape}"
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
