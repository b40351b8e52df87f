"""The order in which the values of a vocabulary get the ids that they keep, in little memory beside the vocabulary."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cupyrec.datasets.preparing.vocabulary import Vocabulary

# What an order takes for each value, with the new ids that it gives.
BYTES_PER_VALUE = 8 + 4
# Values that are looked at together.
GROUP_VALUES = 2**20
ID_BITS = np.uint64(32)
ID_MASK = np.uint64(2**32 - 1)
# Larger counts are told apart in a second step.
MOST_SORTED_COUNT = 2**32 - 1


class ValueOrder:
    """The values that are kept: n of them, the one at position i getting the id i + 1.

    keys: (n,) uint64, and counts: (n,) int64, are looked up when they are asked for, a slice at a time.
    """

    def __init__(self, vocabulary: Vocabulary, min_count: int, *, by_count: bool, known: int = 0) -> None:
        """by_count: most often counted first, ties by first appearance; else all by first appearance.

        Values counted less than min_count times get the id 0. known: ids 1 to known stay as they are, however often
        they were counted, and the others follow. The vocabulary must stay as it is.
        """
        self._vocabulary = vocabulary
        self._order = self._kept(min_count, by_count, known)
        self.keys = GatheredNumbers(len(self), self._keys)
        self.counts = GatheredNumbers(len(self), self._counts)

    def __len__(self) -> int:
        return self._order.shape[0]

    def old_ids(self, part: slice) -> np.ndarray:
        """(n,) int64: the ids by first appearance of a range of positions."""
        return (self._order[part] & ID_MASK).astype(np.int64)

    def new_ids(self, dtype: np.dtype) -> np.ndarray:
        """(size,) by old id: the new one, 0 for values that are not kept. dtype: unsigned, with room for n."""
        new_ids = np.zeros(self._vocabulary.size, dtype=dtype)
        for start in range(0, len(self), GROUP_VALUES):
            old_ids = self.old_ids(slice(start, start + GROUP_VALUES))
            new_ids[old_ids] = np.arange(start + 1, start + old_ids.shape[0] + 1, dtype=np.int64)
        return new_ids

    def _keys(self, part: slice) -> np.ndarray:
        return self._vocabulary.keys_of(self.old_ids(part))

    def _counts(self, part: slice) -> np.ndarray:
        return self._vocabulary.counts_of(self.old_ids(part))

    def _kept(self, min_count: int, by_count: bool, known: int) -> np.ndarray:
        """(n,) uint64: old ids in the lower half; in the upper half, of ids that are ordered by their counts, the less
        the more often they were counted.
        """
        size = self._vocabulary.size
        groups = [slice(start, min(start + GROUP_VALUES, size)) for start in range(known + 1, size, GROUP_VALUES)]
        kept = sum(int(np.count_nonzero(self._vocabulary.counts_of(group) >= min_count)) for group in groups)
        order = np.empty(known + kept, dtype=np.uint64)
        for start in range(0, known, GROUP_VALUES):
            stop = min(start + GROUP_VALUES, known)
            order[start:stop] = np.arange(start + 1, stop + 1)
        at = known
        for group in groups:
            counts = self._vocabulary.counts_of(group)
            found = np.flatnonzero(counts >= min_count)
            part = order[at : at + found.shape[0]]
            part[:] = found + group.start
            if by_count:
                rank = MOST_SORTED_COUNT - np.minimum(counts[found], MOST_SORTED_COUNT)
                part |= rank.astype(np.uint64) << ID_BITS
            at += found.shape[0]
        if by_count:
            ordered = order[known:]
            ordered.sort()
            # All that were counted so often or more have rank 0: a few, they are in the order of their ids so far.
            often = ordered[: np.searchsorted(ordered, ID_MASK, side="right")]
            often[:] = often[np.argsort(-self._vocabulary.counts_of(often.astype(np.int64)), kind="stable")]
        return order


class GatheredNumbers:
    """What can be sliced as an array of one axis, and is only there for as long as a slice of it is."""

    def __init__(self, n: int, gather: Callable[[slice], np.ndarray]) -> None:
        self.shape = (n,)
        self._gather = gather

    def __getitem__(self, part: slice) -> np.ndarray:
        return self._gather(part)
