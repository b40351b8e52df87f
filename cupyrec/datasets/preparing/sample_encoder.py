"""Batches of raw values that are in memory, encoded as a folder of prepared data is: for a model that serves."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from cupyrec.argument_kinds import check_paths
from cupyrec.batch import Batch, table_offsets
from cupyrec.datasets.preparing import table_columns
from cupyrec.datasets.preparing.encode import Encoder
from cupyrec.datasets.preparing.known_vocabularies import KnownVocabularies
from cupyrec.datasets.preparing.raw_rows import ColumnKind, RawColumn
from cupyrec.datasets.preparing.vocabulary_file import read_vocabulary
from cupyrec.errors import ConfigError, DataError

Values = Literal["hex", "text", "integer"]
ALL_VALUES: tuple[Values, ...] = ("hex", "text", "integer")
HEX = ALL_VALUES[0]
HEX_DIGITS = re.compile("[0-9a-fA-F]{1,16}")
# Of more columns than these, texts and integers among them, it is not tried out which were hashed as what.
MOST_TRIED_CATEGORIES = 12


@dataclass(frozen=True)
class _Columns:
    """As KnownVocabularies asks for them."""

    dense: tuple[str, ...]
    categories: tuple[str, ...]
    kinds: tuple[ColumnKind, ...]


class SampleEncoder:
    """Makes batches of raw values, with the ids and the dense transform of a folder that `cupyrec prepare` made.

    dense, categories: names of the columns that are asked for; label: of the one that may be there, None where nobody
    knows; table_rows: (F,); dense_features; encoding: that of the folder. Several threads may use it.
    """

    def __init__(self, folder: str | Path) -> None:
        """folder: with the vocabularies; the data themselves need not be there. Raises ConfigError, DataError."""
        check_paths(folder=folder)
        self._folder = Path(folder)
        self._known = KnownVocabularies(self._folder)
        manifest = self._known.manifest
        self.dense, self.label = manifest.dense, self._known.columns["label"]
        self.categories = tuple(category.name for category in manifest.categories)
        self.table_rows, self.dense_features = manifest.table_rows, len(manifest.dense)
        self.encoding = manifest.encoding
        self._starts = table_offsets(self.table_rows)
        # Of each category's values: as its vocabulary says; of hashes as they turn out to be.
        self._values: list[str | None] = [
            None if category.vocabulary is None else read_vocabulary(self._folder / category.vocabulary).kind
            for category in manifest.categories
        ]
        if not any(self._values):
            self._values = self._values_of_hashes()
        self._lock = threading.Lock()
        self._fitting: set[tuple[ColumnKind, ...]] = set()
        self._encoders: Sequence[Encoder] = ()

    def batch(self, samples: Any) -> Batch:
        """A batch of at least one sample, for TrainedModel.predict. Values that the vocabulary does not know get id 0.

        samples: columns by name: a dict of lists, an Arrow table, or a data frame that Arrow takes (pandas, polars);
        other columns are not looked at. None is a missing value, as is NaN outside Arrow tables; an empty list is an
        empty bag. Without the column of the label all labels are 0. Raises ConfigError, and DataError that names column
        and sample.
        """
        table = _as_table(samples)
        if not table.num_rows:
            raise DataError("there are no samples to encode")
        columns = [self._category(number, table) for number in range(len(self.categories))]
        encoders = self._encoders_of(tuple(kind for _, kind in columns))
        B, F = table.num_rows, len(self.categories)
        dense = np.empty((B, self.dense_features), np.float32)
        for index, name in enumerate(self.dense):
            column = _column(table, name)
            if not table_columns.is_dense_type(column.type):
                raise DataError(f"column {name} has the type {column.type}, but {table_columns.EXPECTED_DENSE}")
            with _named(name):
                table_columns.write_dense(column, self._known.manifest.dense_transform, dense[:, index])
        rows, lengths = [], np.ones((F, B), np.int64)
        for feature, ((column, _), encoder) in enumerate(zip(columns, encoders, strict=True)):
            ids = np.empty(column.keys.shape[0], np.uint32)
            with self._lock:  # an encoder counts
                encoder.encode(column, ids)
            rows.append(self._starts[feature] + ids.astype(np.int64))
            if column.offsets is not None:
                lengths[feature] = np.diff(column.offsets)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Batch(dense, np.concatenate(rows), offsets, self._labels(table), self.encoding)

    def _category(self, number: int, table: pa.Table) -> tuple[RawColumn, ColumnKind]:
        """The keys of a category's values, and what they are."""
        name, wanted, manifest = self.categories[number], self._values[number], self._known.manifest
        untyped = ColumnKind("text" if wanted in (HEX, "text") else "integer", manifest.categories[number].multi_hot)
        column = _column(table, name)
        if pa.types.is_floating(column.type) and column.null_count == len(column):
            column = pa.nulls(len(column))  # as in frames of pandas
        column = table_columns.typed(column, table_columns.category_type(untyped))
        kind = table_columns.category_kind(column.type)
        if kind is None:
            expected = table_columns.expected_category(column.type)
            if wanted == "text":
                expected = "a category of texts must be strings, or lists of them; cast it to string"
            raise DataError(f"column {name} has the type {column.type}, but {expected}")
        with _named(name):
            raw = table_columns.category(column, kind)
        if raw.texts is None or wanted != HEX:
            is_bool = kind.is_bool and column.null_count < len(column)
            return raw, replace(kind, is_bool=is_bool)
        return RawColumn(_hex_keys(raw.texts, name), raw.offsets), ColumnKind(HEX, kind.multi_hot)

    def _values_of_hashes(self) -> list[str | None]:
        """What was hashed, where it can be found out: the encoding tells whether all are right, and not which."""
        F = len(self.categories)
        likely, several = [(values,) * F for values in ALL_VALUES], F <= MOST_TRIED_CATEGORIES
        mixed: Iterable[tuple[Values, ...]] = itertools.product(ALL_VALUES[1:], repeat=F) if several else ()
        for values in itertools.chain(likely, mixed):
            pairs = zip(values, self._known.manifest.categories, strict=True)
            kinds = tuple(ColumnKind(value, category.multi_hot) for value, category in pairs)
            with contextlib.suppress(DataError):
                self._known.check_columns(_Columns(self.dense, self.categories, kinds))
                return list(values)
        return [None] * F

    def _encoders_of(self, kinds: tuple[ColumnKind, ...]) -> Sequence[Encoder]:
        """Of each category, for values of these kinds; read when first asked for. Raises DataError."""
        with self._lock:
            if kinds not in self._fitting:
                self._known.check_columns(_Columns(self.dense, self.categories, kinds))
                encoders = self._known.encoders()
                # They are the same for all kinds that fit.
                self._encoders = self._encoders or encoders
                self._fitting.add(kinds)
            return self._encoders

    def _labels(self, table: pa.Table) -> np.ndarray:
        if self.label is None or self.label not in table.column_names:
            return np.zeros(table.num_rows, np.float32)
        column = table_columns.typed(_column(table, self.label), pa.int64())
        if not table_columns.is_label_type(column.type):
            raise DataError(f"column {self.label} has the type {column.type}, but {table_columns.EXPECTED_LABEL}")
        with _named(self.label):
            return table_columns.labels(column)


class _named:
    """Within it a bad value names its column and sample."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, table_columns.BadValueError):
            raise DataError(f"sample {error.row}, column {self._name}: {error}") from None


def _as_table(samples: Any) -> pa.Table:
    if isinstance(samples, (pa.Table, pa.RecordBatch)):
        return samples
    if isinstance(samples, dict):
        samples = {name: _array(name, values) for name, values in samples.items()}
    try:
        return pa.table(samples)
    except OverflowError:
        # A frame with numbers that int64 does not hold.
        return pa.table({name: _array(name, values) for name, values in samples.items()})
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise ConfigError(
            "samples must be columns by name, as {'age': [30], 'user': ['u17']}, an Arrow table or a data frame, all "
            f"columns of one length: {error}"
        ) from None


def _array(name: str, values: Any) -> pa.Array | pa.ChunkedArray:
    """Values in memory; NaN is missing, as in frames of pandas. Raises ConfigError, DataError."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    expected = f"column {name} must be a list with a value of one type for each sample"
    if isinstance(values, (str, bytes)):
        raise ConfigError(f"{expected}, but is {values!r}")
    with contextlib.suppress(OverflowError):
        try:
            return pa.array(values, from_pandas=True)
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise ConfigError(f"{expected}: {error}") from None
    # Numbers that int64 does not hold.
    for data_type in (pa.uint64(), pa.list_(pa.uint64())):
        with contextlib.suppress(OverflowError, pa.ArrowException):
            return pa.array(values, data_type, from_pandas=True)
    raise DataError(f"column {name} has numbers that 64 bits do not hold")


def _column(table: pa.Table, name: str) -> pa.Array:
    """A column as one array. Raises DataError where there is none."""
    found = [number for number, each in enumerate(table.schema.names) if each == name]
    if len(found) != 1:
        fault = "there are several columns" if found else "there is no column"
        raise DataError(f"{fault} {name}; the columns are {', '.join(table.schema.names) or 'none'}")
    column = table.column(found[0])
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # as of some versions of Arrow
            column = pa.concat_arrays(column.chunks)
    return _without_views(column)


def _without_views(column: pa.Array) -> pa.Array:
    """Texts as Arrow has had them longer: frames of polars have views of them, in dictionaries and lists as well."""
    if pa.types.is_dictionary(column.type) and _is_view(column.type.value_type):
        return column.dictionary.cast(pa.large_string()).take(column.indices)
    if _is_view(column.type):
        return column.cast(pa.large_string())
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        value_type = column.type.value_type
        if _is_view(value_type) or (pa.types.is_dictionary(value_type) and _is_view(value_type.value_type)):
            lengths = pa.compute.fill_null(pa.compute.list_value_length(column), 0)
            offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))]).astype(np.int64)
            # Without the values that nulls may hide. A null in place of a list is an empty one.
            return pa.LargeListArray.from_arrays(pa.array(offsets), _without_views(column.flatten()))
    return column


def _is_view(data_type: pa.DataType) -> bool:
    is_string_view = getattr(pa.types, "is_string_view", None)  # of newer versions of Arrow
    return is_string_view is not None and bool(is_string_view(data_type))


def _hex_keys(texts: pa.Array, name: str) -> np.ndarray:
    """(n,) uint64, the numbers that up to 16 hexadecimal digits are; 0 where nothing is there. Raises DataError."""
    keys = np.zeros(len(texts), np.uint64)
    for number, text in enumerate(texts.to_pylist()):
        if text is None:
            continue
        if not HEX_DIGITS.fullmatch(text):
            raise DataError(f"column {name}: {text!r} is not a number of up to 16 hexadecimal digits")
        keys[number] = int(text, 16)
    return keys
