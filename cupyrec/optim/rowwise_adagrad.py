"""Row-wise Adagrad: one accumulator for a whole embedding row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from cupyrec.devices.device import Device
from cupyrec.devices.numba_kernel import cpu_kernel, prefetched_rows
from cupyrec.devices.numba_vector import load_vector, prefetch_vector, store_vector, zero_vector
from cupyrec.functions.embedding_bag import segment_gradient
from cupyrec.optim.adagrad import DEFAULT_EPS, check_eps, update_dense_adagrad
from cupyrec.optim.row_update import RowUpdate, launch_row_update

# Rows whose gradients a CPU's thread holds at once.
GROUP = 4


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
        check_eps(self.eps)

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
        launch_row_update(device, self, _row_kernel, update, learning_rate, self.eps)

    def update_dense(self, device: Device, w: Any, g: Any, state: Any, *, learning_rate: float) -> None:
        """Plain Adagrad. w, g, state: (P,), device; state is h. w and state are modified."""
        update_dense_adagrad(device, w, g, state, learning_rate, self.eps)


@cache
def _row_kernel(dimension: int, item_bytes: int, mean: bool) -> Any:
    D, ahead = dimension, prefetched_rows(dimension * item_bytes)
    D_and_h = dimension + 1

    @cpu_kernel
    def update_rows(start, stop, records, dY, offsets, rows, segments, bags, learning_rate, eps):
        rate, eps = records.dtype.type(learning_rate), records.dtype.type(eps)
        zeros, end = zero_vector(records, D), segments[stop]
        # In memory between two loops: items that it has in registers LLVM would square as a vector, many rounded before
        # they are added, for some D, and not for others.
        g = np.empty((GROUP, D), dtype=records.dtype)
        for group in range(start, stop, GROUP):
            last = min(group + GROUP, stop)
            for u in range(group, last):
                if u + ahead < stop:
                    prefetch_vector(records, (rows[u + ahead], 0), D_and_h)
                sums = segment_gradient(zeros, dY, offsets, bags, segments[u], segments[u + 1], end, ahead, mean)
                store_vector(g, (u - group, 0), sums)
            for u in range(group, last):
                row, i = rows[u], u - group
                squares = records.dtype.type(0)
                for d in range(D):
                    squares += g[i, d] * g[i, d]
                h = records[row, D] + squares / records.dtype.type(D)
                records[row, D] = h
                step = rate / (np.sqrt(h) + eps)
                w = load_vector(records, (row, 0), D)
                store_vector(records, (row, 0), w - step * load_vector(g, (i, 0), D))

    return update_rows
