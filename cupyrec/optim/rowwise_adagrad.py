"""Row-wise Adagrad: one accumulator for a whole embedding row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from cupyrec.config import LEAST_EPS
from cupyrec.devices.device import Device
from cupyrec.devices.numba_kernel import CACHE_LINE_BYTES, PREFETCH_ROWS, cpu_kernel, prefetch
from cupyrec.errors import ConfigError
from cupyrec.functions.embedding_bag import segment_gradient
from cupyrec.optim.adagrad import DEFAULT_EPS, update_dense_adagrad
from cupyrec.optim.row_update import RowUpdate, launch_row_update


@dataclass(frozen=True)
class RowwiseAdagrad:
    """h += mean(g**2) over the row;  w -= learning_rate * g / (sqrt(h) + eps).

    h begins at 0; eps stands outside the root. Dense parameters, which have no rows, get plain Adagrad, as in
    the DLRM reference's RWSAdagrad.
    Source: the mean over D as in FBGEMM's EXACT_ROWWISE_ADAGRAD; eps as in PyTorch's Adagrad.
    """

    eps: float = DEFAULT_EPS
    name: ClassVar[str] = "rowwise-adagrad"

    def __post_init__(self) -> None:
        if not self.eps >= LEAST_EPS:
            raise ConfigError(f"eps must be at least {LEAST_EPS:g}, but is {self.eps}")

    def row_state_width(self, dimension: int) -> int:
        """Optimizer state of one row, in elements: its h."""
        return 1

    def dense_state_size(self, parameters: int) -> int:
        """Optimizer state of the dense parameters, in elements: h of each."""
        return parameters

    def update_rows(self, device: Device, update: RowUpdate, *, learning_rate: float) -> None:
        """Sum the gradients of each unique row and apply one step, in place.

            g[u] = sum of dY[bag(l)] over the lookups l of row u, in lookup order
            h[u] += mean(g[u]**2);   w[u] -= learning_rate * g[u] / (sqrt(h[u]) + eps)

        A record is w (D), then h (1). update.records is modified, at the plan's rows alone.
        """
        launch_row_update(device, self.name, _row_kernel, update, learning_rate, self.eps)

    def update_dense(self, device: Device, w: Any, g: Any, state: Any, *, learning_rate: float) -> None:
        """Plain Adagrad. w, g, state: (P,), device; state is h. w and state are modified."""
        update_dense_adagrad(device, w, g, state, learning_rate, self.eps)


@cache
def _row_kernel(dimension: int, item_bytes: int, mean: bool) -> Any:
    D, line = dimension, CACHE_LINE_BYTES // item_bytes

    @cpu_kernel
    def update_rows(start, stop, records, dY, offsets, rows, segments, bags, learning_rate, eps):
        rate, eps = records.dtype.type(learning_rate), records.dtype.type(eps)
        g = np.empty(D, dtype=records.dtype)
        for u in range(start, stop):
            if u + PREFETCH_ROWS < stop:
                for d in range(0, D + 1, line):
                    prefetch(records, (rows[u + PREFETCH_ROWS], d))
            segment_gradient(g, dY, offsets, bags, segments[u], segments[u + 1], D, mean)
            row = rows[u]
            squares = records.dtype.type(0)
            for d in range(D):
                squares += g[d] * g[d]
            h = records[row, D] + squares / records.dtype.type(D)
            records[row, D] = h
            step = rate / (np.sqrt(h) + eps)
            for d in range(D):
                records[row, d] -= step * g[d]

    return update_rows
