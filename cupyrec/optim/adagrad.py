"""Adagrad: each weight's step is divided by the root of the sum of its squared gradients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from cupyrec.argument_kinds import check_number
from cupyrec.config import LEAST_EPS
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuStream
from cupyrec.devices.numba_kernel import cpu_kernel, prefetched_rows
from cupyrec.devices.numba_vector import load_vector, prefetch_vector, square_roots, store_vector, zero_vector
from cupyrec.errors import ConfigError
from cupyrec.functions.embedding_bag import segment_gradient
from cupyrec.kernels import kernel
from cupyrec.optim.row_update import RowUpdate, launch_row_update

DEFAULT_EPS = 1e-10


@dataclass(frozen=True)
class Adagrad:
    """h += g**2;  w -= learning_rate * g / (sqrt(h) + eps).

    h begins at 0; eps stands outside the root, as in PyTorch.
    Source: Duchi, Hazan and Singer 2011.
    """

    eps: float = DEFAULT_EPS
    name: ClassVar[str] = "adagrad"

    def __post_init__(self) -> None:
        check_eps(self.eps)

    def row_state_width(self, dimension: int) -> int:
        """Optimizer state of one row, in elements: h of each weight."""
        return dimension

    def dense_state_size(self, parameters: int) -> int:
        """Optimizer state of the dense parameters, in elements: h of each."""
        return parameters

    def update_rows(self, device: Device, update: RowUpdate, *, learning_rate: float) -> None:
        """Sum the gradients of each unique row and apply one step, in place.

            g[u] = sum of dY[bag(l)] over the lookups l of row u, in lookup order
            h[u] += g[u]**2;   w[u] -= learning_rate * g[u] / (sqrt(h[u]) + eps)

        A record is w (D), then h (D). update.records is modified, at the plan's rows alone.
        """
        launch_row_update(device, self, _row_kernel, update, learning_rate, self.eps)

    def update_dense(self, device: Device, w: Any, g: Any, state: Any, *, learning_rate: float) -> None:
        """The same for dense parameters. w, g, state: (P,), device; state is h. w and state are modified."""
        update_dense_adagrad(device, w, g, state, learning_rate, self.eps)


def check_eps(eps: Any) -> None:
    """Raise ConfigError where it is no number, or one that is 0 in float32."""
    check_number(eps=eps)
    if not eps >= LEAST_EPS:
        raise ConfigError(f"eps must be at least {LEAST_EPS:g}, but is {eps}")


def update_dense_adagrad(device: Device, w: Any, g: Any, h: Any, learning_rate: float, eps: float) -> None:
    """h += g**2;  w -= learning_rate * g / (sqrt(h) + eps).

    w, g, h: (P,) of one floating dtype, device; on a GPU float32. w and h are modified. Raises ValueError on shapes,
    TypeError on dtypes.
    """
    if not w.shape == g.shape == h.shape:
        raise ValueError(f"w, g and h must have one shape, but are {w.shape}, {g.shape} and {h.shape}")
    if isinstance(device, GpuStream):
        step = kernel("dense_update", "dense_adagrad")
        settings = np.int64(w.size), np.float32(learning_rate), np.float32(eps)
        device.launch_over(step, -(-w.size // 4), w, g, h, *settings)
        return
    if not w.dtype == g.dtype == h.dtype:
        raise TypeError(f"w, g and h must be of one dtype, but are {w.dtype}, {g.dtype} and {h.dtype}")
    device.launch(_dense, w.shape[0], w, g, h, learning_rate, eps, floats=5 * w.size)


@cpu_kernel
def _dense(start, stop, w, g, h, learning_rate, eps):
    rate, eps = w.dtype.type(learning_rate), w.dtype.type(eps)
    for p in range(np.uint64(start), np.uint64(stop)):
        h[p] += g[p] * g[p]
        w[p] -= rate * g[p] / (np.sqrt(h[p]) + eps)


@cache
def _row_kernel(dimension: int, item_bytes: int, mean: bool) -> Any:
    D, W = dimension, 2 * dimension
    ahead, rows_ahead = prefetched_rows(D * item_bytes), prefetched_rows(W * item_bytes)

    @cpu_kernel
    def update_rows(start, stop, records, dY, offsets, rows, segments, bags, learning_rate, eps):
        rate, eps = records.dtype.type(learning_rate), records.dtype.type(eps)
        zeros, end = zero_vector(records, D), segments[stop]
        for u in range(start, stop):
            if u + rows_ahead < stop:
                prefetch_vector(records, (rows[u + rows_ahead], 0), W)
            g = segment_gradient(zeros, dY, offsets, bags, segments[u], segments[u + 1], end, ahead, mean)
            row = rows[u]
            h = load_vector(records, (row, D), D) + g * g
            w = load_vector(records, (row, 0), D)
            store_vector(records, (row, D), h)
            store_vector(records, (row, 0), w - rate * g / (square_roots(h) + eps))

    return update_rows
