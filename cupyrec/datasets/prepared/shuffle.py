"""In which order the samples of an epoch come: a pure function of ranges, seed and epoch, without the data.

An epoch is cut into *windows*, which follow each other. In order, a window is a *piece*: what a range has of one block.
Shuffled, the pieces come in random order, consecutive ones fill a window, and all samples of a window are permuted
among each other. What it mixes: a window is a random choice of blocks from all of the data, so no part of the data
comes before another. What it does not: samples of one block stay within one window, so a batch from a window of W
samples comes from about W / BLOCK_SAMPLES blocks alone, as many from each: from 16 with the default window. Where one
window holds everything, all orders are equally likely.

The random bits come from PCG64 itself, whose stream NumPy keeps the same in all versions, unlike that of its
permutations. Those of a window depend on the seed, the epoch and its number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cupyrec.devices.kernel_cache import cached_njit

# Which of the permutations of an epoch the random bits are for.
_OF_PIECES, _OF_WINDOW = 0, 1
# A permutation holds numbers of 32 bits.
MOST_WINDOW_SAMPLES = 2**31 - 1


@dataclass(frozen=True, eq=False)
class EpochOrder:
    """The windows of an epoch.

    pieces:       (P, 2) int64, first sample and the one after the last, in the order of the epoch; each in one block.
    first_pieces: (W + 1,) int64: window w has the pieces first_pieces[w] to first_pieces[w + 1] - 1.
    places:       (W + 1,) int64: the place in the epoch of each window's first sample, and the samples of the epoch.
    key:          (seed, epoch), None where nothing is shuffled.
    """

    pieces: np.ndarray
    first_pieces: np.ndarray
    places: np.ndarray
    key: tuple[int, int] | None

    @property
    def samples(self) -> int:
        return int(self.places[-1])

    def window_of(self, place: int) -> int:
        """The window that holds a place of the epoch, 0-based; W for a place after the end."""
        return int(np.searchsorted(self.places, place, side="right")) - 1

    def window_pieces(self, window: int) -> np.ndarray:
        """(n, 2) the pieces of a window."""
        return self.pieces[self.first_pieces[window] : self.first_pieces[window + 1]]

    def permutation(self, window: int) -> np.ndarray | None:
        """(samples of the window,) uint32: which of its samples, counted through its pieces, comes when; None for all
        in order.
        """
        if self.key is None:
            return None
        return random_permutation(int(self.places[window + 1] - self.places[window]), *self.key, _OF_WINDOW, window)


def order_of_epoch(
    ranges: Sequence[tuple[int, int]],
    block_samples: int,
    *,
    shuffle_window: int | None = None,
    seed: int = 0,
    epoch: int = 0,
) -> EpochOrder:
    """The windows of an epoch over ranges of samples, ascending and apart.

    shuffle_window: at most so many samples are in a window, but at least one piece; None gives all in order.
    """
    pieces = cut_at_blocks(ranges, block_samples)
    if shuffle_window is None:
        first_pieces = np.arange(len(pieces) + 1)
    else:
        pieces = pieces[random_permutation(len(pieces), seed, epoch, _OF_PIECES)]
        first_pieces = _fill_windows((pieces[:, 1] - pieces[:, 0]).tolist(), shuffle_window)
    ends = np.concatenate([[0], np.cumsum(pieces[:, 1] - pieces[:, 0])])
    return EpochOrder(pieces, first_pieces, ends[first_pieces], None if shuffle_window is None else (seed, epoch))


def cut_at_blocks(ranges: Sequence[tuple[int, int]], block_samples: int) -> np.ndarray:
    """(P, 2) int64: the ranges, cut wherever a block ends."""
    parts = []
    for start, stop in ranges:
        cuts = np.arange(start // block_samples + 1, -(-stop // block_samples)) * block_samples
        parts.append(np.stack([np.concatenate([[start], cuts]), np.concatenate([cuts, [stop]])], axis=1))
    return np.concatenate(parts).astype(np.int64)


def _fill_windows(sizes: list[int], most: int) -> np.ndarray:
    firsts, filled = [0], 0
    for piece, size in enumerate(sizes):
        if filled and filled + size > most:
            firsts.append(piece)
            filled = 0
        filled += size
    return np.array([*firsts, len(sizes)], dtype=np.int64)


def random_permutation(count: int, seed: int, *key: int) -> np.ndarray:
    """(count,) uint32, a permutation of 0 .. count - 1 that depends on nothing else than the arguments."""
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)).random_raw(count)
    permutation = np.arange(count, dtype=np.uint32)
    _swap_at_random(permutation, bits)
    return permutation


@cached_njit()
def _swap_at_random(items, bits):
    """Fisher and Yates, in place: item i, from the last on, changes places with one of 0 .. i."""
    for i in range(items.shape[0] - 1, 0, -1):
        # The high half of the bits as a fraction of 1, times i + 1: even to within i / 2**32.
        j = ((bits[i] >> np.uint64(32)) * np.uint64(i + 1)) >> np.uint64(32)
        items[np.uint64(i)], items[j] = items[j], items[np.uint64(i)]
