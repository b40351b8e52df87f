"""Copies of host arrays that a thread shares with workers of the CPU device which have nothing else to do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.numba_kernel import add_atomically, copy_items, cpu_kernel

# Smaller copies are done by the calling thread alone: handing over costs about 20 us, what copying 0.5 MB may take.
SHARED_BYTES = 2**20
# What a thread takes at a time, and how many are asked beside the calling one; those who read and write records need
# the others.
PART_BYTES, HELPERS = 2**18, 3


def copy_four(device: CpuDevice, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """target[:] = source for four pairs of source and target, of one length and dtype each, 1-D and C-contiguous.

    The calling thread waits for no worker that is busy, as one may be for longer than all of it takes; only for those
    that have begun a part. In one go: a thread that lets Python's lock go has to wait until it gets it again.
    """
    arrays = [array for pair in pairs for array in pair]
    all_bytes = sum(source.nbytes for source, _ in pairs)
    parts, helpers = (all_bytes // PART_BYTES, HELPERS) if all_bytes >= SHARED_BYTES else (1, 0)
    # New each time: a worker that comes late finds what it was given all done.
    progress = np.zeros(2, np.int64)
    try:
        device.offer(_copy_parts, helpers, False, parts, progress, *arrays)
    finally:
        # After an interrupt too: helpers may be at it.
        _copy_parts(True, parts, progress, *arrays)


@cpu_kernel
def _copy_parts(waits, parts, progress, a, to_a, b, to_b, c, to_c, d, to_d):
    """to_a[:] = a, and so on, part by part, shared by all threads that call it with the same progress.

    waits: whether it returns when all parts are copied; otherwise as soon as every part has somebody who copies it.
    progress: (2,) int64, at first 0: how often somebody has asked for a part, how many parts are copied. Modified.
    """
    part = add_atomically(progress, 0, 1)
    while part < parts:
        _copy_part(part, parts, a, to_a)
        _copy_part(part, parts, b, to_b)
        _copy_part(part, parts, c, to_c)
        _copy_part(part, parts, d, to_d)
        add_atomically(progress, 1, 1)
        part = add_atomically(progress, 0, 1)
    # The others are at their last part, which takes microseconds where they are not kept from going on.
    while waits and add_atomically(progress, 1, 0) < parts:
        pass


@cpu_kernel
def _copy_part(part, parts, source, target):
    """One of as many equal parts, by the C library's memcpy."""
    start, stop = source.shape[0] * part // parts, source.shape[0] * (part + 1) // parts
    copy_items(target, (start,), source, (start,), stop - start)
