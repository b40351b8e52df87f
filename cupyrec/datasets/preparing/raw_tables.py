"""Read Parquet and Arrow files with named columns as raw rows, in bounded memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cupyrec.datasets.preparing import table_columns
from cupyrec.datasets.preparing.raw_rows import ColumnKind, RawRows, join_rows
from cupyrec.errors import ConfigError, DataError, first_line

PARQUET_SUFFIX = ".parquet"
TABLE_SUFFIXES = (PARQUET_SUFFIX, ".arrow", ".feather", ".ipc")
# How much of each column chunk of a Parquet file is read at once.
READ_BYTES = 1 << 20
# Of a row group, so many rows are read to know how large they are.
PROBED_ROWS = 64
# A block that may be as large as it likes.
MOST_BLOCK_BYTES = 1 << 62
_ARROW_FILE_MAGIC = b"ARROW1"

# Usual names of the label, the dense features and the categories.
_SCHEMES = (
    ("label", r"I(\d+)", r"C(\d+)"),  # Criteo, NVTabular
    ("label", r"int_(\d+)", r"cat_(\d+)"),  # torchrec
    ("_c0", r"_c([1-9]|1[0-3])", r"_c(1[4-9]|2\d|3\d)"),  # Spark, in NVIDIA's DLRM example
)

AT_LEAST_ONE_DENSE = "at least one; where there is none, add a column of zeros"
# What names columns that have none of these.
_OPTIONS = {
    "label": "--label (or --no-labels, where there are none)",
    "dense_columns": f"--dense-columns ({AT_LEAST_ONE_DENSE})",
    "category_columns": "--category-columns (at least one)",
}


@dataclass(frozen=True)
class TableColumns:
    """Names of the columns: the label, None where there is none, the dense features and the categories.

    kinds: of the categories, as which those that are untyped are read.
    """

    label: str | None
    dense: tuple[str, ...]
    categories: tuple[str, ...]
    kinds: tuple[ColumnKind, ...] = ()


class RawTable:
    """A .parquet file, or an Arrow IPC file or stream, opened once for what is known of it, and anew for each reading.

    schema, names: of all its columns; rows: how many, None where that is not known without reading all (IPC streams).
    """

    def __init__(self, path: Path):
        """Raises DataError for a file that cannot be read."""
        self.path = path
        self._is_parquet = path.suffix.lower() == PARQUET_SUFFIX
        self.rows: int | None
        with _read_errors(path):
            if self._is_parquet:
                with pa.parquet.ParquetFile(path) as file:
                    self.schema: pa.Schema = file.schema_arrow
                    self.rows = file.metadata.num_rows
            else:
                with pa.memory_map(str(path)) as source:
                    if _is_arrow_file(source):
                        # One column, should they be compressed, is enough to know how many rows there are.
                        reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=[0]))
                        self.rows = sum(batch.num_rows for batch in _file_batches(reader))
                        self.schema = pa.ipc.open_file(source).schema
                    else:
                        self.schema, self.rows = pa.ipc.open_stream(source).schema, None
            self.names: list[str] = self.schema.names

    def blocks(
        self,
        first_row: int = 0,
        *,
        label: str | None,
        dense: Sequence[str],
        categories: Sequence[str],
        kinds: Sequence[ColumnKind] = (),
        transform: str,
        block_rows: int,
        block_bytes: int = MOST_BLOCK_BYTES,
    ) -> Iterator[RawRows]:
        """Yield the rows from first_row (0-based) on, block_rows at a time, and at last what is left.

        block_bytes: blocks whose lists and texts would take more have fewer rows, and take less than twice as much.
        kinds: see TableColumns. transform: a name of TRANSFORMS. Only the columns named are read, in any order.

        Raises DataError, at once for a column that is not there or has a type that is not understood, and on the way
        for a bad value, after the whole blocks before it.
        """
        kinds = tuple(kinds) or (ColumnKind("integer"),) * len(categories)
        columns = TableColumns(label, tuple(dense), tuple(categories), kinds)
        self.check_columns(columns)
        return self._blocks(first_row, columns, transform, block_rows, block_bytes)

    def check_columns(self, columns: TableColumns) -> None:
        """Raise DataError for a column that is not there once, or has a type that is not understood."""
        if columns.label is not None and not table_columns.is_label_type(label := self.type_of(columns.label)):
            raise self.type_error(columns.label, label, table_columns.EXPECTED_LABEL)
        for name in columns.dense:
            if not table_columns.is_dense_type(data_type := self.type_of(name)):
                raise self.type_error(name, data_type, table_columns.EXPECTED_DENSE)
        column_kinds(self, columns.categories)

    def type_of(self, name: str) -> pa.DataType:
        """The type of a column. Raises DataError when there is none of this name, or several."""
        found = self.schema.get_all_field_indices(name)
        if len(found) != 1:
            fault = "there are several columns" if found else "there is no column"
            raise DataError(f"{fault} {name}; the columns are {_listed(self.names)}", path=self.path)
        return self.schema.field(found[0]).type

    def type_error(self, name: str, data_type: pa.DataType, expected: str) -> DataError:
        """The error for a column of a type that is not understood."""
        return DataError(f"column {name} has the type {data_type}, but {expected}", path=self.path)

    def _blocks(
        self, first_row: int, columns: TableColumns, transform: str, block_rows: int, block_bytes: int
    ) -> Generator[RawRows, None, None]:
        parts: list[RawRows] = []
        held = held_bytes = 0
        row = first_row
        with contextlib.closing(self._batches(first_row, columns, block_rows, block_bytes)) as batches:
            for batch in batches:
                start = 0
                while start < batch.num_rows:
                    part, part_bytes = self._first_rows(batch.slice(start, block_rows - held), columns, block_bytes)
                    parts.append(self._rows(part, row, columns, transform))
                    held, row, start = held + part.num_rows, row + part.num_rows, start + part.num_rows
                    held_bytes += part_bytes
                    if held == block_rows or held_bytes >= block_bytes:
                        yield join_rows(parts)
                        parts, held, held_bytes = [], 0, 0
        if parts:
            yield join_rows(parts)

    def _first_rows(self, batch: pa.RecordBatch, columns: TableColumns, most_bytes: int) -> tuple[pa.RecordBatch, int]:
        """The rows of a batch, or as many of the first as do not take more, at least one; and the bytes they take."""
        names = self._of_any_size(columns)
        while (taken := _bytes_of(batch, names)) > most_bytes and batch.num_rows > 1:
            batch = batch.slice(0, batch.num_rows // 2)
        return batch, taken

    def _of_any_size(self, columns: TableColumns) -> list[str]:
        return [name for name in columns.categories if table_columns.has_any_size(self.type_of(name))]

    def _batches(
        self, first_row: int, columns: TableColumns, block_rows: int, block_bytes: int
    ) -> Generator[pa.RecordBatch, None, None]:
        """The rows from first_row on, in pieces of any size that have at least the columns asked for."""
        label = [] if columns.label is None else [columns.label]
        names = list(dict.fromkeys([*label, *columns.dense, *columns.categories]))
        skip = first_row
        with _read_errors(self.path), contextlib.ExitStack() as stack:
            if self._is_parquet:
                # Not pre_buffer, which would hold whole row groups as they are stored.
                file = pa.parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=READ_BYTES)
                stack.enter_context(file)
                groups = range(file.num_row_groups)
                while groups and file.metadata.row_group(groups[0]).num_rows <= skip:
                    skip -= file.metadata.row_group(groups[0]).num_rows
                    groups = groups[1:]
                # Group by group: pyarrow cannot join lists of texts with different dictionaries.
                batches: Iterator[pa.RecordBatch] = (
                    batch
                    for group in groups
                    for batch in file.iter_batches(
                        self._batch_rows(file, group, columns, block_rows, block_bytes),
                        row_groups=[group],
                        columns=names,
                    )
                )
            else:
                source = stack.enter_context(pa.memory_map(str(self.path)))
                wanted = sorted({self.schema.get_field_index(name) for name in names})
                options = pa.ipc.IpcReadOptions(included_fields=wanted)
                if _is_arrow_file(source):
                    batches = _file_batches(pa.ipc.open_file(source, options=options))
                else:
                    batches = iter(pa.ipc.open_stream(source, options=options))
            for batch in batches:
                if skip < batch.num_rows:
                    # The buffers are used as they are: damaged ones must not lead outside.
                    batch.validate(full=True)
                    yield batch.slice(skip)
                skip = max(skip - batch.num_rows, 0)

    def _batch_rows(
        self, file: pa.parquet.ParquetFile, group: int, columns: TableColumns, most_rows: int, most_bytes: int
    ) -> int:
        """Rows of a row group to be read at a time: fewer where its first ones have long lists or texts."""
        names = self._of_any_size(columns)
        if not names or most_rows <= PROBED_ROWS:
            return most_rows
        first = next(file.iter_batches(PROBED_ROWS, row_groups=[group], columns=names), None)
        if first is None:
            return most_rows
        first.validate(full=True)
        return max(min(most_rows, most_bytes * first.num_rows // max(_bytes_of(first, names), 1)), 1)

    def _rows(self, batch: pa.RecordBatch, first_row: int, columns: TableColumns, transform: str) -> RawRows:
        """All rows of a batch. first_row: of the batch, in the file."""
        dense = np.empty((batch.num_rows, len(columns.dense)), dtype=np.float32)
        labels = np.zeros(batch.num_rows, dtype=np.float32)
        negatives = np.zeros(len(columns.dense), dtype=np.int64)
        name = columns.label or ""
        try:
            if columns.label is not None:
                labels = table_columns.labels(batch.column(name))
            for index, name in enumerate(columns.dense):
                negatives[index] = table_columns.write_dense(batch.column(name), transform, dense[:, index])
            categories = []
            for name, kind in zip(columns.categories, columns.kinds, strict=True):
                categories.append(table_columns.category(batch.column(name), kind))
        except table_columns.BadValueError as error:
            raise DataError(f"row {first_row + error.row}, column {name}: {error}", path=self.path) from None
        return RawRows(labels, dense, categories, negatives)


def guess_columns(schema: pa.Schema, missing: Iterable[str] = _OPTIONS, *, labels: bool = True) -> TableColumns:
    """The columns by their usual names, in the order of their numbers.

    These are label, I1 .. and C1 ..; label, int_0 .. and cat_0 ..; _c0 (the label), _c1 .. _c13 and _c14 .. _c39.
    missing: which of `label`, `dense_columns` and `category_columns` have not been named; labels: whether there is a
    label. Raises ConfigError, which names the options for these, where there are none, or those of several schemes.
    """
    found = []
    for label, dense, categories in _SCHEMES:
        columns = TableColumns(
            label if labels else None, _numbered(schema.names, dense), _numbered(schema.names, categories)
        )
        if (not labels or label in schema.names) and columns.dense and columns.categories:
            found.append(columns)
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"cannot tell which columns are meant: give {' and '.join(_OPTIONS[name] for name in missing)}, out of "
        f"{_listed(schema.names)}"
    )


def column_kinds(table: RawTable, categories: Sequence[str]) -> list[ColumnKind | None]:
    """The kind of each category, None where it is untyped. Raises DataError as check_columns."""
    kinds = []
    for name in categories:
        data_type = table.type_of(name)
        kind = table_columns.category_kind(data_type)
        if kind is None and not table_columns.is_untyped(data_type):
            raise table.type_error(name, data_type, table_columns.expected_category(data_type))
        kinds.append(kind)
    return kinds


@contextlib.contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Errors of the system and of pyarrow as a DataError."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        kind = "a Parquet file" if path.suffix.lower() == PARQUET_SUFFIX else "an Arrow IPC file or stream"
        raise DataError(f"cannot be read as {kind}: {first_line(error)}", path=path) from None


def _bytes_of(batch: pa.RecordBatch, names: Sequence[str]) -> int:
    """What columns of lists and texts become in memory, about."""
    return sum(table_columns.value_bytes(batch.column(name)) for name in names)


def _is_arrow_file(source: pa.NativeFile) -> bool:
    magic = source.read(len(_ARROW_FILE_MAGIC))
    source.seek(0)
    return bool(magic == _ARROW_FILE_MAGIC)


def _file_batches(reader: pa.ipc.RecordBatchFileReader) -> Iterator[pa.RecordBatch]:
    return (reader.get_batch(index) for index in range(reader.num_record_batches))


def _numbered(names: Sequence[str], pattern: str) -> tuple[str, ...]:
    """The names that match, in the order of the number in the first group."""
    matches = [match for name in names if (match := re.fullmatch(pattern, name))]
    return tuple(match[0] for match in sorted(matches, key=lambda match: int(match[1])))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "no columns"
