"""From the values of a column to its ids."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pyarrow as pa

from cupyrec.datasets.preparing.raw_rows import RawColumn
from cupyrec.datasets.preparing.vocabulary import Vocabulary


class Encoder(Protocol):
    """Of one column. Its rows are passed in order, by one thread at a time."""

    @property
    def table_rows(self) -> int:
        """More than any id given so far; for an encoder that does not learn, the rows of the table."""

    @property
    def memory_bytes(self) -> int: ...

    def encode(self, column: RawColumn, ids_out: np.ndarray) -> None:
        """Write the ids of the values, (lookups,) uint32."""


NO_KEYS = np.empty(0, dtype=np.uint64)


class LearningEncoder:
    """Gives new values the next ids, in order of first appearance, and remembers which they are until it is asked.

    known: how many ids values had from the beginning.
    """

    def __init__(self, modulo: int | None, keys: np.ndarray = NO_KEYS, counts: np.ndarray | int = 0) -> None:
        """keys: (n,) uint64, those of ids 1 to n from the beginning; counts: (n,) int64, how often each was met."""
        self.vocabulary = Vocabulary()
        self.vocabulary.extend(keys, counts)
        self.known = keys.shape[0]
        self._modulo = modulo
        self._new_keys: list[np.ndarray] = []
        self._new_texts: list[pa.Array] = []
        self._new_bytes = self._taken_bytes = 0

    @property
    def table_rows(self) -> int:
        return self.vocabulary.size

    @property
    def memory_bytes(self) -> int:
        """Of the vocabulary, of the values that are new, and of those taken last, which are being written."""
        return self.vocabulary.memory_bytes + self._new_bytes + self._taken_bytes

    def encode(self, column: RawColumn, ids_out: np.ndarray) -> None:
        keys = _reduced(column.keys, self._modulo)
        new = self.vocabulary.encode(keys, ids_out)
        if new.shape[0]:
            self._new_keys.append(keys[new])
            self._new_bytes += self._new_keys[-1].nbytes
            if column.texts is not None:
                self._new_texts.append(column.texts.take(pa.array(new)))
                self._new_bytes += self._new_texts[-1].nbytes

    def take_new(self) -> tuple[np.ndarray, pa.Array | None]:
        """The keys that are new since the last call, in id order, and their texts where there are any."""
        keys = np.concatenate(self._new_keys) if self._new_keys else NO_KEYS
        texts = pa.concat_arrays(self._new_texts) if self._new_texts else None
        self._new_keys, self._new_texts = [], []
        self._new_bytes, self._taken_bytes = 0, self._new_bytes
        return keys, texts


class KnownEncoder:
    """Gives the ids of a vocabulary that is complete; other values have the id 0."""

    def __init__(self, keys: np.ndarray, modulo: int | None) -> None:
        """keys: (n,) uint64, those of ids 1 to n."""
        self._vocabulary = Vocabulary()
        self._vocabulary.extend(keys)
        self._modulo = modulo
        self.table_rows = keys.shape[0] + 1
        self._unknown = self._values = 0

    @property
    def memory_bytes(self) -> int:
        return self._vocabulary.memory_bytes

    def encode(self, column: RawColumn, ids_out: np.ndarray) -> None:
        self._vocabulary.lookup(_reduced(column.keys, self._modulo), ids_out)
        self._unknown += ids_out.shape[0] - int(np.count_nonzero(ids_out))
        self._values += ids_out.shape[0]

    def take_unknown(self) -> tuple[int, int]:
        """How many values since the last call had no id of their own, and how many there were."""
        counts = self._unknown, self._values
        self._unknown = self._values = 0
        return counts


class HashEncoder:
    """Takes values modulo the rows of the table."""

    memory_bytes = 0

    def __init__(self, table_rows: int, modulo: int | None) -> None:
        self.table_rows = table_rows
        self._modulo = modulo

    def encode(self, column: RawColumn, ids_out: np.ndarray) -> None:
        ids_out[:] = _reduced(_reduced(column.keys, self._modulo), self.table_rows)


def _reduced(keys: np.ndarray, modulo: int | None) -> np.ndarray:
    return keys if modulo is None else keys % np.uint64(modulo)
