"""The input files of a preparation, of either kind, as parts that are parsed by whatever thread has time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from cupyrec.datasets.criteo_rows import BadLine
from cupyrec.datasets.file_identity import file_identity
from cupyrec.datasets.file_lines import stored_bytes
from cupyrec.datasets.input_files import CSV_ADVICE
from cupyrec.datasets.line_chunks import CODECS, line_chunks
from cupyrec.datasets.preparing.known_vocabularies import KnownVocabularies
from cupyrec.datasets.preparing.raw_criteo import CATEGORY_KINDS, CATEGORY_NAMES, DENSE_NAMES, parse_raw_rows
from cupyrec.datasets.preparing.raw_rows import ColumnKind, RawRows
from cupyrec.datasets.preparing.raw_tables import (
    TABLE_SUFFIXES,
    RawTable,
    TableColumns,
    column_kinds,
    guess_columns,
)
from cupyrec.datasets.read_ahead import read_ahead
from cupyrec.errors import ConfigError, DataError

TABLE_BLOCK_ROWS = 1 << 12
# Lists and texts make a part of a table smaller when they would take more.
TABLE_BLOCK_BYTES = 1 << 20
TABLE_BLOCKS_AHEAD = 4


@dataclass(frozen=True, slots=True)
class InputPosition:
    """Where a part begins: the file's number, the line or row in it, and, of a plain text file, its byte."""

    file: int = 0
    row: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class InputPart:
    """Some rows of a file, not parsed yet.

    nbytes: what they take of memory, about; lines: physical ones, or rows; bytes_done: of the stored bytes of all
    files, those used up with this part; parse: gives the good rows and the bad lines, whose numbers count from the
    start of the part.
    """

    start: InputPosition
    lines: int
    nbytes: int
    bytes_done: int
    parse: Callable[[], tuple[RawRows, Sequence[BadLine]]]


class RawInput(Protocol):
    """Input files.

    names of the columns; kinds: (F,) of the categories. part_bytes: what a part takes of memory, about, unless a single
    row takes more; parts_ahead: how many are in memory before they are asked for.
    """

    files: tuple[Path, ...]
    dense: tuple[str, ...]
    categories: tuple[str, ...]
    kinds: tuple[ColumnKind, ...]
    part_bytes: int
    parts_ahead: int
    size_bytes: int

    def parts(self, start: InputPosition) -> Generator[InputPart, None, None]:
        """The parts of all files in order, from the start of a part on. Raises DataError."""


def is_table(file: Path) -> bool:
    """Whether a file is Parquet or Arrow, by its name."""
    return file.suffix.lower() in TABLE_SUFFIXES


def open_input(
    files: tuple[Path, ...],
    columns: dict[str, Any],
    transform: str,
    *,
    labels: bool,
    chunk_bytes: int,
    known: KnownVocabularies | None = None,
) -> RawInput:
    """columns: `label`, `dense_columns` and `category_columns`, None where they are to be found by their usual names.

    labels: whether there are any; rows without get the label 0. known: tells the kinds of columns that no file tells.

    Raises ConfigError for files of both kinds and for columns that are not there, DataError for files.
    """
    tables = [file for file in files if is_table(file)]
    if tables and len(tables) < len(files):
        text = next(file for file in files if file not in tables)
        raise ConfigError(f"{tables[0]} is a table and {text} is text; prepare them one by one")
    if tables:
        return TableInput(files, columns, transform, labels, known)
    for name, value in columns.items():
        if value is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')} is for tables, {', '.join(TABLE_SUFFIXES)}; text has the columns of "
                f"Criteo, and {CSV_ADVICE}"
            )
    return TextInput(files, transform, labels, chunk_bytes)


class TextInput:
    """Criteo TSV files, plain or compressed."""

    dense, categories, kinds = DENSE_NAMES, CATEGORY_NAMES, CATEGORY_KINDS
    parts_ahead = 0

    def __init__(self, files: tuple[Path, ...], transform: str, labels: bool, chunk_bytes: int) -> None:
        self.files = files
        # The text, and at most as many bytes of keys and dense features.
        self.part_bytes = 2 * chunk_bytes
        self._transform, self._labelled, self._chunk_bytes = transform, labels, chunk_bytes
        self._sizes = [stored_bytes(file) for file in files]
        self.size_bytes = sum(self._sizes)

    @property
    def plain_bytes(self) -> int:
        """The bytes of the files that are not compressed."""
        return sum(size for file, size in zip(self.files, self._sizes, strict=True) if file.suffix not in CODECS)

    def parts(self, start: InputPosition) -> Generator[InputPart, None, None]:
        """See RawInput.parts. A compressed file is read from its beginning, whatever the start."""
        for number, file in enumerate(self.files[start.file :], start=start.file):
            before = sum(self._sizes[:number])
            first_line, mark = 0, (0, 0)
            if number == start.file:
                first_line = start.row
                mark = (start.row, start.offset) if file.suffix not in CODECS else mark
            chunks = line_chunks(file, start_line=first_line, mark=mark, chunk_bytes=self._chunk_bytes)
            with contextlib.closing(chunks):
                for chunk in chunks:
                    yield InputPart(
                        InputPosition(number, chunk.first_line, chunk.offset),
                        chunk.lines,
                        self.part_bytes,
                        before + chunk.bytes_read,
                        partial(parse_raw_rows, chunk.data, self._transform, labelled=self._labelled),
                    )


class TableInput:
    """Parquet and Arrow files, all with the same columns."""

    def __init__(
        self,
        files: tuple[Path, ...],
        columns: dict[str, Any],
        transform: str,
        labels: bool,
        known: KnownVocabularies | None,
    ) -> None:
        self.files = files
        self._transform, self._known = transform, known
        self._tables = [RawTable(file) for file in files]
        self._columns = _table_columns(self._tables[0], columns, labels)
        self.label, self.dense, self.categories = self._columns.label, self._columns.dense, self._columns.categories
        kinds = [column_kinds(table, self.categories) for table in self._tables]
        self.kinds = tuple(map(self._kind, self.categories, zip(*kinds, strict=True)))
        self.part_bytes = TABLE_BLOCK_ROWS * (4 * len(self.dense) + 16 * len(self.categories))
        if any(kind.multi_hot or kind.values == "text" for kind in self.kinds):
            self.part_bytes += 2 * TABLE_BLOCK_BYTES
        # One more is in the making.
        self.parts_ahead = TABLE_BLOCKS_AHEAD + 1
        self._sizes = [stored_bytes(file) for file in files]
        self.size_bytes = sum(self._sizes)

    def _kind(self, name: str, kinds: Sequence[ColumnKind | None]) -> ColumnKind:
        """Of a category. kinds: in each file, None where it is untyped there. Raises DataError unless they agree."""
        told = ((kind, str(file)) for kind, file in zip(kinds, self.files, strict=True) if kind is not None)
        kind, where = next(told, (None, "the vocabulary"))
        if kind is None and self._known is not None:
            kind = self._known.kind(name)
        if kind is None:
            raise DataError(
                f"column {name} has nulls or empty lists alone, and no file that tells its type; cast it to int64 or "
                "string, or to lists of them, or name other --category-columns",
                path=self.files[0],
            )
        for table, each in zip(self._tables, kinds, strict=True):
            if (each or kind) != kind:
                raise DataError(f"column {name} holds {each}, but {kind} in {where}", path=table.path)
            if each is None and not kind.multi_hot and not pa.types.is_null(table.type_of(name)):
                raise DataError(f"column {name} holds lists, but {kind} in {where}", path=table.path)
        return kind

    def parts(self, start: InputPosition) -> Generator[InputPart, None, None]:
        """See RawInput.parts. The parts are made by a thread that reads ahead."""
        with contextlib.closing(read_ahead(self._parts(start), TABLE_BLOCKS_AHEAD)) as parts:
            yield from parts

    def _parts(self, start: InputPosition) -> Generator[InputPart, None, None]:
        for number, table in enumerate(self._tables[start.file :], start=start.file):
            row = start.row if number == start.file else 0
            before, size = sum(self._sizes[:number]), self._sizes[number]
            blocks = table.blocks(
                row,
                label=self._columns.label,
                dense=self.dense,
                categories=self.categories,
                kinds=self.kinds,
                transform=self._transform,
                block_rows=TABLE_BLOCK_ROWS,
                block_bytes=TABLE_BLOCK_BYTES,
            )
            for rows in blocks:
                done = size * (row + len(rows)) // table.rows if table.rows else 0
                yield InputPart(
                    InputPosition(number, row), len(rows), rows.nbytes, before + done, partial(_parsed, rows)
                )
                row += len(rows)


def identities(files: Sequence[Path]) -> list[dict[str, Any]]:
    """What files are known by when a preparation goes on: their names, and see file_identity. Raises DataError."""
    return [{"name": str(path), **file_identity(path)} for path in files]


def _parsed(rows: RawRows) -> tuple[RawRows, Sequence[BadLine]]:
    return rows, ()


def _table_columns(table: RawTable, columns: dict[str, Any], labels: bool) -> TableColumns:
    """The named columns, and for those that are not named the usual ones. Raises ConfigError."""
    label, dense, categories = (columns[name] for name in ("label", "dense_columns", "category_columns"))
    missing = [name for name, value in columns.items() if value is None and (labels or name != "label")]
    if missing:
        usual = guess_columns(table.schema, missing, labels=labels)
        label = usual.label if label is None else label
        dense = usual.dense if dense is None else dense
        categories = usual.categories if categories is None else categories
    return TableColumns(label, tuple(dense), tuple(categories))
