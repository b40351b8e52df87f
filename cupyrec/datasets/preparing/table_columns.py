"""Columns of Arrow tables as labels, dense features and keys; and which types are understood."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute

from cupyrec.datasets.dense_transforms import domain, transform_column
from cupyrec.datasets.preparing.raw_rows import MISSING_KEY, ColumnKind, RawColumn
from cupyrec.datasets.preparing.text_keys import text_keys

KEY_BYTES = 8
MOST_INTEGER = 2**63 - 1
# Of a type that is not understood.
EXPECTED_LABEL = "a label must be an integer, a float or a bool; cast it to int64, with the values 0 and 1"
EXPECTED_DENSE = "a dense feature must be an integer or a float; cast it to float64"


class BadValueError(ValueError):
    """A value that cannot be used. row: 0-based, within the array."""

    def __init__(self, row: int, reason: str):
        super().__init__(reason)
        self.row = row


def is_label_type(data_type: pa.DataType) -> bool:
    return pa.types.is_boolean(data_type) or _is_number(data_type)


def is_dense_type(data_type: pa.DataType) -> bool:
    return _is_number(data_type) or pa.types.is_null(data_type)


def is_untyped(data_type: pa.DataType) -> bool:
    """Whether there are only nulls, or lists of nulls or without values: these tell no type."""
    return bool(pa.types.is_null(data_type.value_type if _is_list(data_type) else data_type))


def typed(column: pa.Array, data_type: pa.DataType) -> pa.Array:
    """A column that is untyped, as one of a type, where it can be one; any other as it is."""
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), data_type)
    if is_untyped(column.type) and _is_list(data_type):
        lengths = pa.compute.fill_null(pa.compute.list_value_length(column), 0)
        offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))]).astype(np.int64)
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.nulls(int(offsets[-1]), data_type.value_type))
    return column


def category_type(kind: ColumnKind) -> pa.DataType:
    """A type of columns of this kind."""
    data_type = pa.large_string() if kind.values == "text" else pa.int64()
    return pa.list_(data_type) if kind.multi_hot else data_type


def category_kind(data_type: pa.DataType) -> ColumnKind | None:
    """What a category of this type holds; None for a type that is not understood."""
    multi_hot = _is_list(data_type)
    if multi_hot:
        data_type = data_type.value_type
    if pa.types.is_integer(data_type) or pa.types.is_boolean(data_type):
        return ColumnKind("integer", multi_hot, pa.types.is_boolean(data_type))
    if pa.types.is_dictionary(data_type):
        data_type = data_type.value_type
    if pa.types.is_string(data_type) or pa.types.is_large_string(data_type):
        return ColumnKind("text", multi_hot)
    return None


def expected_category(data_type: pa.DataType) -> str:
    """What a category must be, for messages. data_type: one that is not understood."""
    expected = "a category must be an integer, a bool or a string, or a list of them; cast it to "
    if pa.types.is_floating(data_type.value_type if _is_list(data_type) else data_type):
        return expected + "int64, in pandas to Int64: where values are missing pandas makes floats of integers"
    return expected + "int64 or string"


def has_any_size(data_type: pa.DataType) -> bool:
    """Whether there is no telling what a value of a category of this type takes of memory: lists and texts."""
    kind = category_kind(data_type)
    return kind is not None and (kind.multi_hot or kind.values == "text")


def _is_number(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(data_type) or pa.types.is_floating(data_type))


def _is_list(data_type: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(data_type) or types.is_large_list(data_type) or types.is_fixed_size_list(data_type)


def labels(column: pa.Array) -> np.ndarray:
    """(n,) float32 of a column of a label type. Raises BadValueError for what is not 0 or 1."""
    values = _numbers(column, np.float64)
    bad = (values != 0) & (values != 1) | _nulls(column)
    hint = "; map -1 to 0" if np.any(values == -1) else ""
    _raise_at(bad, column, "expected a label of 0 or 1", hint)
    return values.astype(np.float32)


def write_dense(column: pa.Array, transform: str, dense: np.ndarray) -> int:
    """Transform a column of a dense type, or untyped; null is missing. Returns how many values are below 0.

    Raises BadValueError.

    dense: (n,) float32, of any stride. Modified.
    """
    column = typed(column, pa.float64())
    # An unsigned integer need not fit int64.
    integers = pa.types.is_integer(column.type) and not pa.types.is_uint64(column.type)
    values = _numbers(column, np.int64 if integers else np.float64)
    bad = np.zeros(len(column), dtype=np.uint8)
    if transform_column(transform, values, _nulls(column), bad, 1, dense):
        _raise_at(bad, column, f"expected a number {domain(transform)}, or null,")
    return int(np.count_nonzero(values < 0))


def category(column: pa.Array, kind: ColumnKind) -> RawColumn:
    """The keys of a column of a kind, or untyped; a null is missing, a null in place of a list is an empty one.

    Raises BadValueError for integers of 2**63 and more.
    """
    column = typed(column, category_type(kind))
    if not _is_list(column.type):
        return RawColumn(*_keys(column))
    lengths = pa.compute.list_value_length(column)
    offsets = np.zeros(len(column) + 1, dtype=np.int64)
    np.cumsum(_numbers(lengths, np.int64), out=offsets[1:])
    try:
        # Without the values that nulls may hide.
        keys, _, texts = _keys(column.flatten())
    except BadValueError as error:
        raise BadValueError(int(np.searchsorted(offsets, error.row, side="right")) - 1, str(error)) from None
    return RawColumn(keys, offsets, texts)


def value_bytes(column: pa.Array) -> int:
    """What `category` makes of a column, about: keys, and texts."""
    data_type = column.type
    if _is_list(data_type):
        values = int(pa.compute.sum(pa.compute.list_value_length(column)).as_py() or 0)
        column = column.values
    else:
        values = len(column)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary
    elif not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return KEY_BYTES * values
    # Of a list's values those of the whole array, and of a dictionary: all that is asked is their mean.
    return int(values * (2 * KEY_BYTES + column.nbytes / max(len(column), 1)))


def _keys(values: pa.Array) -> tuple[np.ndarray, None, pa.Array | None]:
    """Keys and, of text, texts; in the order of the fields of a RawColumn."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        keys, texts = text_keys(values)
        return keys, None, texts
    if pa.types.is_uint64(values.type):
        keys = _numbers(values, np.uint64, fill=MISSING_KEY)
        # As keys they would be those of negative integers.
        hint = "; make texts of them, or int64 with negative numbers in their place"
        _raise_at(keys > MOST_INTEGER, values, "expected an integer below 2**63", hint)
        return keys, None, None
    return _numbers(values, np.int64, fill=MISSING_KEY).view(np.uint64), None, None


def _numbers(column: pa.Array, dtype: type[np.generic], *, fill: int = 0) -> np.ndarray:
    """The numbers of a column, copied; `fill` where there is null."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if column.null_count:
        column = pa.compute.fill_null(column, pa.scalar(fill, column.type))
    return np.array(column.to_numpy(zero_copy_only=False), dtype=dtype)


def _nulls(column: pa.Array) -> np.ndarray:
    if not column.null_count:
        return np.zeros(len(column), dtype=np.bool_)
    nulls: np.ndarray = column.is_null().to_numpy(zero_copy_only=False)
    return nulls


def _raise_at(bad: np.ndarray, column: pa.Array, expected: str, hint: str = "") -> None:
    if bad.any():
        row = int(np.argmax(bad != 0))
        value = column[row].as_py()
        # pandas writes null where it has NaN; who writes NaN may have had an accident in a computation.
        hint = ", which is not null: fill it, or write null" if value != value else hint
        raise BadValueError(row, f"{expected} and found {'null' if value is None else value}{hint}")
