"""Which row leaves: the policies, as a number for each row that may leave. The lowest number leaves first.

All policies share one rule: rows held are no candidates; among the others, rows without a known next use leave before
those with one, in the order of their number, those used longest ago first among equals; then the row whose next use is
furthest. They differ in the number, and in how far they look ahead.
"""

from __future__ import annotations

import numpy as np

from cupyrec.config import REPLACEMENTS
from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.devices.splitmix import GOLDEN_GAMMA, mix64
from cupyrec.errors import ConfigError

# What kernels know the policies by.
BY_COUNT, BY_AGE, BY_CHANCE = 0, 1, 2
KIND_OF = {"lookahead": BY_COUNT, "lru": BY_AGE, "lfu": BY_COUNT, "random": BY_CHANCE}

# Numbers are 0 .. RANKS - 1. A count up to 63 has one of its own; beyond, an eighth of an octave shares one.
EXACT_COUNTS = 64
RANKS = 512


def replacement_kind(name: str) -> int:
    """The number of a policy. Raises ConfigError."""
    if name not in KIND_OF:
        raise ConfigError(f"unknown replacement {name!r}; choose {', '.join(REPLACEMENTS)}")
    return KIND_OF[name]


@cpu_kernel
def rank_of(kind, row, count, last_use, seed):
    """The number of a row, 0 .. RANKS - 1.

    count: how often it was used; last_use: the batch that used it last.
    """
    if kind == BY_AGE:
        return 0
    if kind == BY_CHANCE:
        bits = mix64(np.uint64(row) + np.uint64(last_use) * GOLDEN_GAMMA + np.uint64(seed))
        return np.int64(bits & np.uint64(RANKS - 1))
    if count < EXACT_COUNTS:
        return np.int64(count)
    octave = 0
    while count >> octave >= 16:
        octave += 1
    # The four leading bits, of which the first is 1: 8 to 15.
    return np.int64(EXACT_COUNTS + (octave - 3) * 8 + (count >> octave) - 8)
