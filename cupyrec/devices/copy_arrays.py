"""Copies of host arrays, all by one call that lets Python's lock go once.

A thread that lets it go has to wait until it gets it again, and each time it does whoever queues work for a GPU has to
wait: more threads at a copy take longer, and everybody else with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cupyrec.devices.numba_kernel import copy_items, cpu_kernel


def copy_four(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """target[:] = source for four pairs of source and target, of one length and dtype each, 1-D and C-contiguous."""
    _copy_four(*(array for pair in pairs for array in pair))


@cpu_kernel
def _copy_four(a, to_a, b, to_b, c, to_c, d, to_d):
    copy_items(to_a, (0,), a, (0,), a.shape[0])
    copy_items(to_b, (0,), b, (0,), b.shape[0])
    copy_items(to_c, (0,), c, (0,), c.shape[0])
    copy_items(to_d, (0,), d, (0,), d.shape[0])
