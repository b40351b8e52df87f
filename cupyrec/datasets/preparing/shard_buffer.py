"""The rows of a shard as they come together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cupyrec.datasets.prepared.shard_writer import ShardRows, UnwrittenIds
from cupyrec.datasets.preparing.encode import Encoder
from cupyrec.datasets.preparing.list_ids import ListIds
from cupyrec.datasets.preparing.raw_rows import RawColumn, RawRows


class ShardBuffer:
    """The rows of a shard, as far as they have come. Its memory is that of a whole shard and used again for another."""

    def __init__(self, shard_samples: int, dense_features: int, multi_hot: Sequence[bool], lists: Path) -> None:
        """multi_hot: of each category, whether samples have lists of ids; these are kept in files called as `lists`."""
        self.samples = 0
        self._labels = np.empty(shard_samples, dtype=np.float32)
        self._dense = np.empty((shard_samples, dense_features), dtype=np.float32)
        self._columns = [
            ListIds(shard_samples, lists.with_name(f"{lists.name}-{number:03}"))
            if has_lists
            else _SingleIds(shard_samples)
            for number, has_lists in enumerate(multi_hot)
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

    def most_list_ids(self, block_samples: int) -> list[int]:
        """The most ids that a block has, of each category; 0 where samples have no lists."""
        return [column.most_ids(block_samples) for column in self._columns]

    def clear(self) -> None:
        """Begin another shard, or leave nothing on the disk."""
        self.samples = 0
        for column in self._columns:
            column.clear()


class _SingleIds:
    """The ids of a category with one for each sample."""

    def __init__(self, shard_samples: int) -> None:
        self._ids, self._used = np.empty(shard_samples, dtype=np.uint32), 0

    def add(self, encoder: Encoder, column: RawColumn) -> None:
        stop = self._used + len(column)
        encoder.encode(column, self._ids[self._used : stop])
        self._used = stop

    def joined(self) -> UnwrittenIds:
        return UnwrittenIds(self._ids[: self._used])

    def most_ids(self, samples: int) -> int:
        return 0

    def clear(self) -> None:
        self._used = 0
