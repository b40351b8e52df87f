"""Check what a block holds: its checksum, and that a model can be trained on its numbers."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from cupyrec.datasets.prepared.manifest import Category, Manifest
from cupyrec.datasets.prepared.shard_reader import PREPARE_AGAIN, Block, IdColumn
from cupyrec.errors import DataError


def check_block(block: Block, content: Manifest, checksum: int, path: Path, first_row: int) -> None:
    """Raise DataError with the file, and the row in it and the column where one is at fault.

    checksum: what the manifest says; first_row: of the block, counted from 0 through the file.
    The numbers are looked at as well: a checksum does not tell that a program that wrote the data was right.
    """
    if checksum_of(block) != checksum:
        last_row = first_row + len(block.labels) - 1
        raise DataError(f"damaged: the checksum of rows {first_row} to {last_row} is wrong; {PREPARE_AGAIN}", path=path)
    wrong = _first((block.labels != 0) & (block.labels != 1))
    if wrong is not None:
        raise _at(path, first_row + wrong, "label", f"a label is 0 or 1, not {block.labels[wrong]}")
    wrong = _first(~np.isfinite(block.dense))
    if wrong is not None:
        row, feature = divmod(wrong, block.dense.shape[1])
        raise _at(path, first_row + row, content.dense[feature], f"{block.dense[row, feature]} is not finite")
    for category, column in zip(content.categories, block.columns, strict=True):
        _check_ids(category, column, path, first_row)


def checksum_of(block: Block) -> int:
    """The same as manifest.block_checksum of the block."""
    checksum = zlib.crc32(block.dense.data, zlib.crc32(block.labels.data))
    for column in block.columns:
        ids = column.ids
        if column.offsets is not None:
            checksum = zlib.crc32(np.diff(column.offsets).data, checksum)
            ids = ids[column.offsets[0] : column.offsets[-1]]
        checksum = zlib.crc32(ids.data, checksum)
    return checksum


def _check_ids(category: Category, column: IdColumn, path: Path, first_row: int) -> None:
    first = 0 if column.offsets is None else int(column.offsets[0])
    ids = column.ids[first:]
    # An id of 8 or 16 bits often cannot be too large.
    if not ids.size or category.rows > np.iinfo(ids.dtype).max or ids.max() < category.rows:
        return
    wrong = int(np.argmax(ids >= category.rows))
    row = wrong if column.offsets is None else int(np.searchsorted(column.offsets, first + wrong, side="right")) - 1
    raise _at(path, first_row + row, category.name, f"the id {ids[wrong]} is not in its table of {category.rows} rows")


def _first(wrong: np.ndarray) -> int | None:
    """The first true element, counted through all of the array."""
    return int(np.argmax(wrong)) if wrong.any() else None


def _at(path: Path, row: int, column: str, reason: str) -> DataError:
    return DataError(
        f"row {row} (from 0), column {column}: {reason}; prepare the data again with --overwrite", path=path
    )
