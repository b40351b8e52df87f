"""SplitMix64's finaliser: 64 bits in, 64 well-mixed bits out.

Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
"""

from __future__ import annotations

import numpy as np

from cupyrec.devices.numba_kernel import cpu_kernel

# The step of its counter.
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@cpu_kernel
def mix64(z):
    """z: uint64. Returns uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
