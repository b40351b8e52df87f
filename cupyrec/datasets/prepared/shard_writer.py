"""Write shards of prepared data: rows in memory, or block after block of another shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from cupyrec.datasets.durable_files import durable_file
from cupyrec.datasets.prepared.manifest import BLOCK_SAMPLES, DENSE_COLUMN, LABEL_COLUMN, Shard, block_checksum
from cupyrec.errors import DataError, first_line

ID_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32))


class Sliceable(Protocol):
    """An array, or what gives slices as one does."""

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class UnwrittenIds:
    """The ids of one category in n samples.

    ids: (n,) unsigned, or (lookups,) where samples have lists; only slices of it are taken. offsets: None, or (n + 1,)
    int64, where each list begins and ends, from 0 on.
    """

    ids: Sliceable
    offsets: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class ShardRows:
    """n encoded samples. labels: (n,) float32; dense: (n, d) float32, in C order; columns: one for each category."""

    labels: np.ndarray
    dense: np.ndarray
    columns: Sequence[UnwrittenIds]


def id_type(table_rows: int) -> np.dtype:
    """The narrowest type for ids below table_rows."""
    return next(dtype for dtype in ID_TYPES if table_rows - 1 <= np.iinfo(dtype).max)


def write_rows(
    path: Path, rows: ShardRows, names: Sequence[str], id_types: Sequence[np.dtype], block_samples: int = BLOCK_SAMPLES
) -> Shard:
    """Write a shard, whole or not at all. names, id_types: (F,) of the categories; every id must fit its type.

    Raises OutputError.
    """
    return write_blocks(path, _blocks(rows, names, id_types, block_samples))


def write_blocks(path: Path, blocks: Iterable[pa.RecordBatch]) -> Shard:
    """Write a shard of at least one block, whole or not at all. Raises OutputError, and what the blocks raise."""
    samples, checksums = 0, []
    with durable_file(path) as partial:
        writer = None
        with pa.OSFile(str(partial), "wb") as file:
            try:
                for block in blocks:
                    if writer is None:
                        writer = pa.ipc.new_file(file, block.schema)
                    writer.write_batch(block)
                    samples += block.num_rows
                    checksums.append(block_checksum(block))
            finally:
                if writer is not None:
                    writer.close()
        size_bytes = partial.stat().st_size
    return Shard(path.name, samples, size_bytes, tuple(checksums))


def read_blocks(path: Path, shard: Shard) -> Iterator[pa.RecordBatch]:
    """The blocks of a shard that was written here, each checked. Raises DataError."""
    try:
        with pa.OSFile(str(path)) as file:
            if file.size() != shard.size_bytes:
                raise _damaged(path, f"it has {file.size()} bytes, not {shard.size_bytes}")
            reader = pa.ipc.open_file(file)
            for number, checksum in enumerate(shard.checksums):
                block = reader.get_batch(number)
                if block_checksum(block) != checksum:
                    raise _damaged(path, f"block {number} is not what was written")
                yield block
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, first_line(error)) from None


def check_size(path: Path, shard: Shard) -> None:
    """Raise DataError unless a shard that was written here is there and as long as it was."""
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise _damaged(path, error.strerror or "cannot be read") from None
    if size_bytes != shard.size_bytes:
        raise _damaged(path, f"it has {size_bytes} bytes, not {shard.size_bytes}")


def make_block(labels: pa.Array, dense: pa.Array, columns: Iterable[tuple[str, pa.Array]]) -> pa.RecordBatch:
    """A block of its columns, named as the format has them."""
    arrays, names = [labels, dense], [LABEL_COLUMN, DENSE_COLUMN]
    for name, column in columns:
        arrays.append(column)
        names.append(name)
    return pa.RecordBatch.from_arrays(arrays, names)


def list_array(ids: np.ndarray, offsets: np.ndarray) -> pa.Array:
    """ids: (lookups,); offsets: (n + 1,) from 0 on. Raises OverflowError beyond what 32 bits count."""
    if offsets[-1] > np.iinfo(np.int32).max:
        raise OverflowError(f"a block has {offsets[-1]} ids in one column")
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(ids))


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"missing or damaged: {reason}; prepare the data anew with --overwrite", path=path)


def _blocks(
    rows: ShardRows, names: Sequence[str], id_types: Sequence[np.dtype], block_samples: int
) -> Iterator[pa.RecordBatch]:
    samples, dense_features = rows.dense.shape
    for start in range(0, samples, block_samples):
        part = slice(start, min(start + block_samples, samples))
        yield make_block(
            pa.array(rows.labels[part]),
            pa.FixedSizeListArray.from_arrays(pa.array(rows.dense[part].reshape(-1)), dense_features),
            (
                (name, _id_array(column, part, dtype))
                for name, column, dtype in zip(names, rows.columns, id_types, strict=True)
            ),
        )


def _id_array(column: UnwrittenIds, part: slice, dtype: np.dtype) -> pa.Array:
    if column.offsets is None:
        return pa.array(column.ids[part].astype(dtype))
    offsets = column.offsets[part.start : part.stop + 1]
    return list_array(column.ids[offsets[0] : offsets[-1]].astype(dtype), offsets - offsets[0])
