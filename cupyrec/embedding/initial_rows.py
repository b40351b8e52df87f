"""Initial embedding weights from a counter: any row can be made by itself, in any order."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.devices.splitmix import GOLDEN_GAMMA, mix64


def fill_initial_rows(
    device: CpuDevice,
    records: Any,
    dimension: int,
    *,
    seed: int,
    table: int,
    bound: float,
) -> None:
    """records[r, d] = uniform in (-bound, bound), from seed, table, row and d alone.

        key = mix(mix(seed) + table);   bits = mix(key + (row * D + d + 1) * gamma)
        value = (bound / 2**23) * ((bits >> 40) - 2**23 + 0.5)

    records: (rows, record width) of a floating dtype, device; the first `dimension` columns are overwritten.
    Source: splitmix64, Steele, Lea and Flood 2014; its 24 highest bits fit float32 exactly.
    """
    key = _mix((int(_mix(np.uint64(seed % 2**64))) + table) % 2**64)
    device.launch(_fill, records.shape[0], records, dimension, key, bound)


def _mix(value: Any) -> np.uint64:
    return np.uint64(mix64(np.uint64(value)))


@cpu_kernel
def _fill(start, stop, records, dimension, key, bound):
    scale = bound / (1 << 23)
    for r in range(start, stop):
        counter = np.uint64(r) * np.uint64(dimension)
        for d in range(dimension):
            bits = mix64(key + (counter + np.uint64(d + 1)) * GOLDEN_GAMMA)
            # The difference is exact and one product is left to round: the same bits on every device.
            records[r, d] = scale * (float(bits >> np.uint64(40)) - (1 << 23) + 0.5)
