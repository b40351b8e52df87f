"""The host table: the row records of all embedding tables, in host memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cupyrec.batch import table_offsets
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.initial_rows import fill_initial_rows

# A record begins on a 16-byte border, so that a GPU moves it in 128-bit accesses.
RECORD_ALIGNMENT_BYTES = 16

# Much smaller weights make the products of two tables' vectors, and so their gradients, nearly 0 for too long.
LEAST_INITIAL_BOUND = 0.03


def initial_bound(rows: int) -> float:
    """Of a new table's weights: 1/sqrt(rows), as in the DLRM reference, but at least LEAST_INITIAL_BOUND."""
    return max(1 / math.sqrt(rows), LEAST_INITIAL_BOUND)


class HostTable:
    """All row records, (R, record width): D weights, the optimizer's state, padding to 16 bytes.

    records: (R, record_width) of `dtype`, host memory; optimizer state and padding begin at 0.
    """

    def __init__(
        self,
        device: CpuDevice,
        table_rows: Sequence[int],
        dimension: int,
        *,
        state_width: int = 0,
        seed: int | None = 0,
        dtype: Any = np.float32,
        zeros: Callable[[tuple[int, int], Any], np.ndarray] | None = None,
    ) -> None:
        """Allocate and initialise: weights of a table are U(-b, b), b = initial_bound(rows), but for its first row,
        which is 0.

        table_rows: (F,) rows of each table; state_width: optimizer state a row, in elements; seed: None
        leaves the weights 0, for those who fill them otherwise; zeros: gives host memory of a shape and dtype, None:
        the device's own.
        """
        self.table_rows = tuple(int(rows) for rows in table_rows)
        self.dimension = dimension
        self.starts = table_offsets(self.table_rows)
        width = record_width(dimension, state_width, np.dtype(dtype).itemsize)
        self.records = (zeros or device.zeros)((int(self.starts[-1]), width), dtype)
        if seed is not None:
            self.initialise(device, seed)

    def initialise(self, device: CpuDevice, seed: int) -> None:
        """Set all weights as in a new table; the optimizer's state stays as it is."""
        for table, rows in enumerate(self.table_rows):
            fill_initial_rows(
                device, self.records_of(table), self.dimension, seed=seed, table=table, bound=initial_bound(rows)
            )
            # In prepared data that of values that have no id. Where none is trained on, they then have no say.
            self.weights_of(table)[0] = 0

    def records_of(self, table: int) -> np.ndarray:
        """The records of one table, (rows, record_width): a view."""
        return self.records[self.starts[table] : self.starts[table + 1]]

    def weights_of(self, table: int) -> np.ndarray:
        """The weights of one table, (rows, D): a view, its rows record_width apart."""
        return self.records_of(table)[:, : self.dimension]


def record_width(dimension: int, state_width: int, item_bytes: int) -> int:
    """Elements of a row record: weights and state, padded to RECORD_ALIGNMENT_BYTES."""
    unit = max(RECORD_ALIGNMENT_BYTES // item_bytes, 1)
    return -(-(dimension + state_width) // unit) * unit
