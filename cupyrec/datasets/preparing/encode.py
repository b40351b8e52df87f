"""From the values of a column to its ids, and the rows of a shard as they come together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from cupyrec.datasets.prepared.shard_writer import IdColumn, ShardRows
from cupyrec.datasets.preparing.raw_rows import RawColumn, RawRows
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


class LearningEncoder:
    """Gives ids in order of first appearance, and remembers which values are new since it was last asked."""

    def __init__(self, modulo: int | None) -> None:
        self.vocabulary = Vocabulary()
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
        keys = np.concatenate(self._new_keys) if self._new_keys else np.zeros(0, dtype=np.uint64)
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

    @property
    def memory_bytes(self) -> int:
        return self._vocabulary.memory_bytes

    def encode(self, column: RawColumn, ids_out: np.ndarray) -> None:
        self._vocabulary.lookup(_reduced(column.keys, self._modulo), ids_out)


class HashEncoder:
    """Takes values modulo the rows of the table."""

    memory_bytes = 0

    def __init__(self, table_rows: int, modulo: int | None) -> None:
        self.table_rows = table_rows
        self._modulo = modulo

    def encode(self, column: RawColumn, ids_out: np.ndarray) -> None:
        ids_out[:] = _reduced(_reduced(column.keys, self._modulo), self.table_rows)


class ShardBuffer:
    """The rows of a shard, as far as they have come. Its memory is that of a whole shard and used again for another."""

    def __init__(self, shard_samples: int, dense_features: int, multi_hot: Sequence[bool]) -> None:
        """multi_hot: of each category, whether samples have lists of ids."""
        self.samples = 0
        self._labels = np.empty(shard_samples, dtype=np.float32)
        self._dense = np.empty((shard_samples, dense_features), dtype=np.float32)
        self._columns = [
            _ListIds() if has_lists else _SingleIds(np.empty(shard_samples, dtype=np.uint32)) for has_lists in multi_hot
        ]

    def add(self, rows: RawRows) -> None:
        """Append rows without their categories; add_ids follows for each of these."""
        part = slice(self.samples, self.samples + len(rows))
        self._labels[part], self._dense[part] = rows.labels, rows.dense
        self.samples += len(rows)

    def add_ids(self, category: int, encoder: Encoder, columns: Sequence[RawColumn]) -> None:
        """Encode and append a column of the rows. Different categories may be added by different threads at once."""
        for column in columns:
            self._columns[category].add(encoder, column)

    def rows(self) -> ShardRows:
        """All rows; they are overwritten after `clear`."""
        columns = [column.joined() for column in self._columns]
        return ShardRows(self._labels[: self.samples], self._dense[: self.samples], columns)

    def clear(self) -> None:
        """Begin another shard."""
        self.samples = 0
        for column in self._columns:
            column.clear()


class _SingleIds:
    """The ids of a category with one for each sample."""

    def __init__(self, ids: np.ndarray) -> None:
        self._ids, self._used = ids, 0

    def add(self, encoder: Encoder, column: RawColumn) -> None:
        stop = self._used + len(column)
        encoder.encode(column, self._ids[self._used : stop])
        self._used = stop

    def joined(self) -> IdColumn:
        return IdColumn(self._ids[: self._used])

    def clear(self) -> None:
        self._used = 0


class _ListIds:
    """The ids of a category with a list for each sample: nobody knows how many, so they are kept as they come."""

    def __init__(self) -> None:
        self._ids: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []

    def add(self, encoder: Encoder, column: RawColumn) -> None:
        assert column.offsets is not None
        self._ids.append(np.empty(column.keys.shape, dtype=np.uint32))
        encoder.encode(column, self._ids[-1])
        self._lengths.append(np.diff(column.offsets))

    def joined(self) -> IdColumn:
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate(self._lengths))])
        return IdColumn(np.concatenate(self._ids), offsets)

    def clear(self) -> None:
        self._ids, self._lengths = [], []


def _reduced(keys: np.ndarray, modulo: int | None) -> np.ndarray:
    return keys if modulo is None else keys % np.uint64(modulo)
