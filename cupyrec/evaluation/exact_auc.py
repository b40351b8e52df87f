"""The exact area under the ROC curve of any number of scores, in the memory of one buffer.

AUC is the Mann-Whitney statistic: of all pairs of a positive and a negative, the share in which the positive
has the higher score, ties counting half. A count over pairs is a sum over pairs of parts: cut the positives
and the negatives into runs, count each pair of runs, add up. So scores are collected in one buffer; when it
is full, its positives and its negatives are sorted, counted against all earlier runs, and moved to a file.

Source: Hanley and McNeil, "The meaning and use of the area under a ROC curve" (1982).
"""

from __future__ import annotations

import mmap

import numpy as np

from cupyrec.datasets.nameless_file import NamelessFile
from cupyrec.devices.kernel_cache import cached_njit

KEY_BYTES = 4
SIGN_BIT = np.uint32(1 << 31)


class ExactAuc:
    """Collects scores of positives and negatives; gives the AUC of all of them at any time.

    max_buffer_rows: scores held in memory, 4 bytes each: 67 MB at the default of 2**24, however many scores
                     there are. Those beyond go to a temporary file, again 4 bytes each, which is gone when
                     the object is. It is memory-mapped to be read: its pages are cache, not held.
                     Where the system's place for such files is itself in memory (tmpfs), let TMPDIR name a
                     folder on a disk.

    n scores take O(n log n) to sort and O(n * n / max_buffer_rows) to count.
    """

    def __init__(self, max_buffer_rows: int = 2**24):
        if max_buffer_rows < 1:
            raise ValueError(f"max_buffer_rows must be at least 1, but is {max_buffer_rows}")
        # Positives fill the buffer from its left end, negatives from its right end, until they meet.
        self._buffer = np.empty(max_buffer_rows, dtype=np.uint32)
        self._buffered_positives = self._buffered_negatives = 0
        self._runs = _RunFile()
        self._twice_wins_of_runs = 0
        self.positives = self.negatives = 0

    def add(self, scores: np.ndarray, positive: np.ndarray) -> None:
        """Add n scores. scores: (n,) float32, finite; positive: (n,) bool. Neither is modified.

        Raises OutputError when the temporary file cannot be written; nothing more can be added then.
        """
        start, rows = 0, scores.shape[0]
        while start < rows:
            if not self._free_rows():
                self._move_buffer_to_file()
            stop = min(rows, start + self._free_rows())
            self._append(order_preserving_keys(scores[start:stop]), positive[start:stop])
            start = stop

    def value(self) -> float | None:
        """The AUC of all scores added so far; None unless there are both positives and negatives."""
        pairs = self.positives * self.negatives
        if not pairs:
            return None
        # Python integers: exact, and rounded once, in the division.
        return (self._twice_wins_of_runs + self._twice_wins_of_buffer()) / (2 * pairs)

    def close(self) -> None:
        """Delete the temporary file. Nothing can be asked or added afterwards."""
        self._runs.close()

    def _free_rows(self) -> int:
        return self._buffer.shape[0] - self._buffered_positives - self._buffered_negatives

    def _append(self, keys: np.ndarray, positive: np.ndarray) -> None:
        """Put keys that fit into the buffer. keys: (n,) uint32; positive: (n,) bool."""
        positives, negatives = keys[positive], keys[~positive]
        left, right = self._buffered_positives, self._buffer.shape[0] - self._buffered_negatives
        self._buffer[left : left + positives.size] = positives
        self._buffer[right - negatives.size : right] = negatives
        self._buffered_positives += positives.size
        self._buffered_negatives += negatives.size
        self.positives += positives.size
        self.negatives += negatives.size

    def _sorted_buffer(self) -> tuple[np.ndarray, np.ndarray]:
        """The buffer's positives and its negatives, each sorted in place: read-only views."""
        positives = self._buffer[: self._buffered_positives]
        negatives = self._buffer[self._buffer.shape[0] - self._buffered_negatives :]
        for keys in (positives, negatives):
            keys.sort()
            keys.flags.writeable = False  # as the file's runs are, so that twice_wins is compiled once
        return positives, negatives

    def _twice_wins_of_buffer(self) -> int:
        """Twice the wins in the pairs that have at least one side in the buffer."""
        positives, negatives = self._sorted_buffer()
        twice = int(twice_wins(positives, negatives))
        for run_positives, run_negatives in self._runs.read():
            twice += int(twice_wins(run_positives, negatives)) + int(twice_wins(positives, run_negatives))
        return twice

    def _move_buffer_to_file(self) -> None:
        self._twice_wins_of_runs += self._twice_wins_of_buffer()
        self._runs.append(*self._sorted_buffer())
        self._buffered_positives = self._buffered_negatives = 0


class _RunFile:
    """Sorted runs of keys in a temporary file that is created when the first run comes."""

    def __init__(self) -> None:
        self._file: NamelessFile | None = None
        self._closed = False
        self._lengths: list[tuple[int, int]] = []  # positives and negatives of each run, as they lie in the file

    def append(self, positives: np.ndarray, negatives: np.ndarray) -> None:
        """Write a run. positives, negatives: 1-d uint32, sorted. On OutputError the file is gone."""
        self._file = self._file or NamelessFile("the AUC")
        self._file.append(positives)
        self._file.append(negatives)
        self._lengths.append((positives.size, negatives.size))

    def read(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The positives and negatives of every run: read-only, memory-mapped, uint32."""
        if self._closed:
            raise ValueError("the AUC was asked for, or added to, after it had been closed")
        if self._file is None:
            return []
        keys = np.frombuffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint32)
        runs, start = [], 0
        for positives, negatives in self._lengths:
            middle, stop = start + positives, start + positives + negatives
            runs.append((keys[start:middle], keys[middle:stop]))
            start = stop
        return runs

    def close(self) -> None:
        self._closed = True
        if self._file is not None:
            self._file.close()


def order_preserving_keys(scores: np.ndarray) -> np.ndarray:
    """Map finite float32 to uint32 so that keys compare as the scores do: (n,) to (n,), a new array.

    The bits of positive floats ascend with their value, those of negative ones descend: the first get the
    sign bit, the second are inverted. -0.0 and 0.0 are equal, so they get one key.
    """
    bits = (scores + np.float32(0.0)).view(np.uint32)  # -0.0 + 0.0 is 0.0
    return np.where(bits & SIGN_BIT, ~bits, bits | SIGN_BIT)


@cached_njit()
def twice_wins(positives, negatives):
    """Twice the pairs in which the positive is higher, a tie counting half: so that the count stays whole.

    positives: (P,) uint32, ascending; negatives: (Q,) uint32, ascending. Returns int64, at most 2*P*Q.
    Each positive is higher than `lower` negatives and at least as high as `not_higher`: the sum of the two is
    twice its wins. O(P + Q).
    """
    twice = np.int64(0)
    lower = 0
    not_higher = 0
    for positive in range(positives.shape[0]):
        key = positives[positive]
        while lower < negatives.shape[0] and negatives[lower] < key:
            lower += 1
        while not_higher < negatives.shape[0] and negatives[not_higher] <= key:
            not_higher += 1
        twice += lower + not_higher
    return twice
