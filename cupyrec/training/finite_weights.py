"""Whether all weights of a model on disk are numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from cupyrec.errors import ModelError

# Looked at at once.
CHECKED_BYTES = 2**24


def check_finite(tensors: Mapping[str, np.ndarray], where: Path, watch: Callable[[float], None]) -> None:
    """Read all weights, in blocks. Raises ModelError that names the first that is NaN or infinite."""
    total, done = max(sum(tensor.nbytes for tensor in tensors.values()), 1), 0
    for name, tensor in tensors.items():
        flat = tensor.reshape(-1)
        step = CHECKED_BYTES // tensor.itemsize
        for start in range(0, flat.shape[0], step):
            part = flat[start : start + step]
            finite = np.isfinite(part)
            if not finite.all():
                at = np.unravel_index(start + int(np.argmin(finite)), tensor.shape)
                place = ", ".join(str(int(index)) for index in at)
                raise ModelError(f"{where}: tensor {name}[{place}] is {tensor[at]}: the weights cannot be used")
            done += part.nbytes
            watch(done / total)
