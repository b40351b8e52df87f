"""How items are compacted in order on a GPU: the tiles of kernels/scan.cuh, and the scan between their two launches."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.devices.gpu import GpuStream
from cupyrec.kernels import kernel

# As in kernels/scan.cuh.
TILE_THREADS = 256
TILE_ITEMS = 4 * TILE_THREADS
WARP = 32
# That a block may have.
MOST_THREADS = 1024


def tiles(items: int) -> int:
    """How many tiles so many items make; at least 1, so that kernels write their results for no items too."""
    return max(-(-items // TILE_ITEMS), 1)


def exclusive_scan(stream: GpuStream, values: Any, totals: Any) -> None:
    """Queue: each row of values becomes the sums of the values before each, and totals the sums of the rows.

    values: (items,) or (rows, items) int32, device; modified. totals: (rows,) int32, device; overwritten.
    """
    items, rows = values.shape[-1], values.shape[0] if values.ndim == 2 else 1
    if totals.shape != (rows,):
        raise ValueError(f"totals must be ({rows},), but is {totals.shape}")
    threads = min(-(-max(items, 1) // WARP) * WARP, MOST_THREADS)
    stream.launch(kernel("scan", "exclusive_scan"), rows, threads, values, np.int32(items), totals)
