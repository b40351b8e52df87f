"""The sampled rows of every batch on disk, read again and again by the policies that are compared."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from cupyrec.datasets.nameless_file import NamelessFile
from cupyrec.pipeline.offline_optimum import NEVER_USED

ITEM_BYTES = 4


class UsageSpool:
    """Takes the batches in order (`append`), finds the next use of each row (`link`), and gives both (`batches`).

    In memory are 16 bytes a batch. On disk are 4 bytes a use, and 8 more once they are linked, in nameless files.

    most_unique: the most rows of a batch, after `link`.
    """

    def __init__(self) -> None:
        """Raises OutputError."""
        self._ids = _new_file()
        self._pairs: NamelessFile | None = None
        self._lengths = array("q")
        # Where the pairs of each batch begin in their file, in bytes: the last batch comes first there.
        self._starts = array("q")
        self.most_unique = 0

    @property
    def batches_taken(self) -> int:
        """Batches appended so far."""
        return len(self._lengths)

    def append(self, ids: np.ndarray) -> None:
        """Take the next batch. ids: (n,) int32. Raises OutputError."""
        self._ids.append(ids)
        self._lengths.append(ids.shape[0])
        self._starts.append(0)

    def link(self, numbers: np.ndarray, rows: int) -> None:
        """Give the rows the numbers that they keep, and find for each use the next one, from the last batch backwards.

        numbers: (ids,) int32, from the ids appended to 0 .. rows - 1; -1 leaves a row out. Raises OutputError.
        """
        self._pairs = _new_file()
        latest = np.full(rows, NEVER_USED, np.int32)
        at, end = sum(self._lengths) * ITEM_BYTES, 0
        for batch in range(self.batches_taken - 1, -1, -1):
            at -= self._lengths[batch] * ITEM_BYTES
            kept = numbers[_read(self._ids, at, self._lengths[batch])]
            kept = kept[kept >= 0]
            self._pairs.append(np.concatenate([kept, latest[kept]]))
            latest[kept] = batch
            self._starts[batch], self._lengths[batch] = end, kept.shape[0]
            end += 2 * kept.shape[0] * ITEM_BYTES
        self.most_unique = max(self._lengths, default=0)
        self._ids.close()

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each batch, in order: its rows, ascending, and the batch that uses each next, NEVER_USED for none.

        Both (n,) int64.
        """
        assert self._pairs is not None, "link comes first"
        for start, length in zip(self._starts, self._lengths, strict=True):
            pairs = _read(self._pairs, start, 2 * length).astype(np.int64)
            yield pairs[:length], pairs[length:]

    def close(self) -> None:
        """Delete the temporary files."""
        for file in (self._ids, self._pairs):
            if file is not None:
                file.close()

    def __enter__(self) -> UsageSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _new_file() -> NamelessFile:
    return NamelessFile("row numbers", ", or read fewer steps (--max-steps)")


def _read(file: NamelessFile, start: int, items: int) -> np.ndarray:
    """(items,) int32 from a place in bytes."""
    read = np.empty(items, np.int32)
    file.read(start, read)
    return read
