"""Rows of raw data as they are read, before their values have ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

# The key of a missing value, and of the value 0.
MISSING_KEY = 0


@dataclass(frozen=True)
class ColumnKind:
    """What a category column holds. All files of a job must agree on it.

    values: hex for 64-bit values written as hexadecimal digits, integer or text; multi_hot: lists of them; is_bool: the
    integers are those of bools, 0 and 1.
    """

    values: Literal["hex", "integer", "text"]
    multi_hot: bool = False
    is_bool: bool = False

    def __str__(self) -> str:
        values = "bool" if self.is_bool else self.values
        return f"lists of {values} values" if self.multi_hot else f"{values} values"


@dataclass(frozen=True, slots=True)
class RawColumn:
    """The values of one category in n rows, as 64-bit keys.

    Hexadecimal and integer values are their own keys, negative ones in two's complement; for texts see text_keys. A
    missing value has the key 0.

    keys:    (n,) uint64, or (lookups,) where rows have lists of values.
    offsets: None, or (n + 1,) int64, ascending: row i has the keys offsets[i] - offsets[0] to
             offsets[i + 1] - offsets[0] (exclusive).
    texts:   None, or the texts of the keys, large_string, in their order; null where the value is missing.
    """

    keys: np.ndarray
    offsets: np.ndarray | None = None
    texts: pa.Array | None = None

    def __len__(self) -> int:
        return (self.keys if self.offsets is None else self.offsets[1:]).shape[0]

    @property
    def nbytes(self) -> int:
        """What the arrays take of memory, about."""
        offsets, texts = (0 if array is None else array.nbytes for array in (self.offsets, self.texts))
        return int(self.keys.nbytes + offsets + texts)

    def __getitem__(self, part: slice) -> RawColumn:
        """A range of rows, without a step: views of the arrays."""
        start, stop = _bounds(part, len(self))
        if self.offsets is None:
            offsets, values = None, slice(start, stop)
        else:
            offsets, first = self.offsets[start : stop + 1], self.offsets[0]
            values = slice(int(offsets[0] - first), int(offsets[-1] - first))
        texts = None if self.texts is None else self.texts[values]
        return RawColumn(self.keys[values], offsets, texts)


@dataclass(frozen=True, slots=True)
class RawRows:
    """n rows.

    labels: (n,) float32, 0 or 1; dense: (n, d) float32, in C order and transformed; columns: one for each category.
    negatives: (d,) int64, how many values of each dense feature were below 0 before; None of rows cut out of others.
    """

    labels: np.ndarray
    dense: np.ndarray
    columns: list[RawColumn]
    negatives: np.ndarray | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def nbytes(self) -> int:
        """What the arrays take of memory, about."""
        return int(self.labels.nbytes + self.dense.nbytes + sum(column.nbytes for column in self.columns))

    def __getitem__(self, part: slice) -> RawRows:
        """A range of rows, without a step: views of the arrays."""
        part = slice(*_bounds(part, len(self)))
        return RawRows(self.labels[part], self.dense[part], [column[part] for column in self.columns])


def join_rows(parts: Sequence[RawRows]) -> RawRows:
    """All rows of at least one part, in order; the part itself when it is alone."""
    if len(parts) == 1:
        return parts[0]
    negatives = [part.negatives for part in parts if part.negatives is not None]
    return RawRows(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.dense for part in parts]),
        [_join_columns(columns) for columns in zip(*(part.columns for part in parts), strict=True)],
        np.sum(negatives, axis=0) if len(negatives) == len(parts) else None,
    )


def _join_columns(parts: Sequence[RawColumn]) -> RawColumn:
    offsets = texts = None
    if parts[0].offsets is not None:
        lengths = [np.diff(part.offsets) for part in parts if part.offsets is not None]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    if parts[0].texts is not None:
        texts = pa.concat_arrays([part.texts for part in parts])
    return RawColumn(np.concatenate([part.keys for part in parts]), offsets, texts)


def _bounds(part: slice, n: int) -> tuple[int, int]:
    start, stop, step = part.indices(n)
    if step != 1:
        raise ValueError(f"rows are taken in steps of 1, not {step}")
    return start, max(start, stop)
