"""Stochastic gradient descent without momentum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuStream
from cupyrec.devices.numba_kernel import cpu_kernel, prefetched_rows
from cupyrec.devices.numba_vector import load_vector, prefetch_vector, store_vector, zero_vector
from cupyrec.functions.embedding_bag import segment_gradient
from cupyrec.kernels import kernel
from cupyrec.optim.row_update import RowUpdate, launch_row_update


@dataclass(frozen=True)
class Sgd:
    """w -= learning_rate * g."""

    name: ClassVar[str] = "sgd"

    def row_state_width(self, dimension: int) -> int:
        """Optimizer state of one row, in elements."""
        return 0

    def dense_state_size(self, parameters: int) -> int:
        """Optimizer state of the dense parameters, in elements."""
        return 0

    def update_rows(self, device: Device, update: RowUpdate, *, learning_rate: float) -> None:
        """Sum the gradients of each unique row and apply one step, in place.

            g[u] = sum of dY[bag(l)] over the lookups l of row u, in lookup order
            w[u] -= learning_rate * g[u]

        update.records is modified, at the plan's rows alone.
        """
        launch_row_update(device, self, _row_kernel, update, learning_rate)

    def update_dense(self, device: Device, w: Any, g: Any, state: Any, *, learning_rate: float) -> None:
        """w -= learning_rate * g. w, g: (P,), device; state: (0,). w is modified. Raises ValueError, TypeError."""
        if w.shape != g.shape:
            raise ValueError(f"w and g must have one shape, but are {w.shape} and {g.shape}")
        if isinstance(device, GpuStream):
            step = kernel("dense_update", "dense_sgd")
            device.launch_over(step, -(-w.size // 4), w, g, np.int64(w.size), np.float32(learning_rate))
            return
        if w.dtype != g.dtype:
            raise TypeError(f"w and g must be of one dtype, but are {w.dtype} and {g.dtype}")
        device.launch(_dense, w.shape[0], w, g, learning_rate, floats=3 * w.size)


@cpu_kernel
def _dense(start, stop, w, g, learning_rate):
    rate = w.dtype.type(learning_rate)
    for p in range(np.uint64(start), np.uint64(stop)):
        w[p] -= rate * g[p]


@cache
def _row_kernel(dimension: int, item_bytes: int, mean: bool) -> Any:
    D, ahead = dimension, prefetched_rows(dimension * item_bytes)

    @cpu_kernel
    def update_rows(start, stop, records, dY, offsets, rows, segments, bags, learning_rate):
        rate = records.dtype.type(learning_rate)
        zeros, end = zero_vector(records, D), segments[stop]
        for u in range(start, stop):
            if u + ahead < stop:
                prefetch_vector(records, (rows[u + ahead], 0), D)
            g = segment_gradient(zeros, dY, offsets, bags, segments[u], segments[u + 1], end, ahead, mean)
            w = load_vector(records, (rows[u], 0), D)
            store_vector(records, (rows[u], 0), w - rate * g)

    return update_rows
