"""Parse lines of Criteo data: through pyarrow's CSV reader into columns of cells, then cell by cell.

A row has 40 tab-separated columns: the label, 13 integers and 26 hexadecimal categories. Rows of files without labels
have the other 39, and get the label 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.csv

from cupyrec.batch import table_offsets
from cupyrec.datasets import parse_cells

LABEL_COLUMNS, DENSE_FEATURES, SPARSE_FEATURES = 1, 13, 26
COLUMNS = LABEL_COLUMNS + DENSE_FEATURES + SPARSE_FEATURES

# What a line without a label begins with when it is parsed.
NO_LABEL = b"0\t"
LONGEST_QUOTE = 40
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# An Arrow column of blanks may have no data buffer; a kernel wants one all the same.
NO_CELL_DATA = np.frombuffer(b"\0", dtype=np.uint8)

# The cells of a column: offsets (n + 1,) int32 and data uint8, see parse_cells.
Cells = tuple[np.ndarray, np.ndarray]
Rows = TypeVar("Rows")

_NAMES = [str(column) for column in range(COLUMNS)]
_PARSE_OPTIONS = pa.csv.ParseOptions(
    delimiter="\t", quote_char=False, escape_char=False, newlines_in_values=False, ignore_empty_lines=False
)
_CONVERT_OPTIONS = pa.csv.ConvertOptions(
    check_utf8=False, column_types={name: pa.binary() for name in _NAMES}, strings_can_be_null=False
)


@dataclass(frozen=True, slots=True)
class ParsedRows:
    """n good rows, feature-major as in a batch.

    dense: (n, 13) float32, log(x + 1); rows: (26, n) int64, global rows; labels: (n,) float32, 0 or 1.
    """

    dense: np.ndarray
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, part: slice | np.ndarray) -> ParsedRows:
        """Some of the rows: views for a slice, copies for a mask or indices."""
        return ParsedRows(self.dense[part], self.rows[:, part], self.labels[part])


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no row.

    line:   0-based, within the text that was parsed.
    column: 1-based column of the first bad cell; None when the number of columns is wrong.
    reason: what was expected and what was found.
    text:   the whole line without its line end.
    """

    line: int
    column: int | None
    reason: str
    text: bytes


def expected_cell(column: int, cell: bytes) -> str:
    """What a bad cell of a 1-based column should have been."""
    if column <= LABEL_COLUMNS:
        return "a label of 0 or 1"
    if column <= LABEL_COLUMNS + DENSE_FEATURES:
        return "an integer of at most 19 digits and 64 bits, or a blank,"
    return "at most 16 hexadecimal digits, or a blank,"


def parse_rows(text: bytes, table_rows: Sequence[int], *, labelled: bool = True) -> tuple[ParsedRows, list[BadLine]]:
    """Parse whole lines, each ending in LF or CRLF: the good rows and the bad lines, both in order of lines.

    text:       without NUL bytes.
    table_rows: (26,) rows of each table; a category becomes table offset + value mod rows.
    labelled:   whether lines begin with a label; those without get 0.
    """
    if not labelled:
        return parse_unlabelled(text, lambda text: parse_rows(text, table_rows))

    def parse_columns(columns: Iterable[Cells], bad_columns: np.ndarray) -> ParsedRows:
        return _parse_columns(columns, bad_columns, table_rows)

    parsed, good, bad_lines = parse_lines(text, parse_columns)
    return (parsed[good] if bad_lines else parsed), bad_lines


def parse_lines(
    text: bytes,
    parse_columns: Callable[[Iterable[Cells], np.ndarray], Rows],
    expected: Callable[[int, bytes], str] = expected_cell,
) -> tuple[Rows, np.ndarray, list[BadLine]]:
    """Parse whole lines, each ending in LF or CRLF, into rows of whatever kind.

    text:          without NUL bytes.
    parse_columns: parses the cells of n lines of 40 columns, column after column, into n rows, and marks the bad ones
                   in its second argument, (n,) uint8, see parse_cells. An empty line counts as one of blanks.
    expected:      says for a 1-based column and a bad cell of it what it should have been.

    Returns the rows that parse_columns made, which of them are good, (n,) bool, and the bad lines in order.
    """
    plain = _without_carriage_returns(text)
    try:
        parsed, narrow = _parse_text(plain, parse_columns)
        bad_columns = narrow
    except pa.ArrowInvalid:
        # Some line has another number of columns. Those of the right width are parsed for themselves.
        lines = plain.split(b"\n")[:-1]
        fits = np.array([line.count(b"\t") == COLUMNS - 1 for line in lines])
        fitting = b"".join(line + b"\n" for line, fit in zip(lines, fits, strict=True) if fit)
        parsed, narrow = _parse_text(fitting, parse_columns)
        bad_columns = np.full(len(lines), COLUMNS, dtype=np.uint8)
        bad_columns[fits] = narrow
    good = narrow == 0
    if not bad_columns.any():
        return parsed, good, []
    lines = text.split(b"\n")
    return (
        parsed,
        good,
        [
            _describe(int(line), int(bad_columns[line]), lines[line].removesuffix(b"\r"), expected)
            for line in np.flatnonzero(bad_columns)
        ],
    )


def parse_unlabelled(text: bytes, parse: Callable[[bytes], tuple[Rows, list[BadLine]]]) -> tuple[Rows, list[BadLine]]:
    """Parse whole lines of 39 columns, without a label; see parse_rows.

    parse: what parses lines with labels.
    """
    rows, bad_lines = parse(NO_LABEL + text[:-1].replace(b"\n", b"\n" + NO_LABEL) + text[-1:])
    return rows, [_without_label(bad) for bad in bad_lines]


def _without_label(bad: BadLine) -> BadLine:
    text = bad.text[len(NO_LABEL) :]
    if bad.column is None:
        return BadLine(bad.line, None, _wrong_width(text, COLUMNS - LABEL_COLUMNS), text)
    return BadLine(bad.line, bad.column - LABEL_COLUMNS, bad.reason, text)


def _without_carriage_returns(text: bytes) -> bytes:
    """The same number of lines, each ending in LF: pyarrow would also end a line at a carriage return alone.

    Such a one belongs to its cell and makes it bad, and so does what stands in for it here.
    """
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"?")
    # pyarrow drops a byte order mark at the start of what it parses, which may be the middle of a file.
    return BYTE_ORDER_MARK + text if text.startswith(BYTE_ORDER_MARK) else text


def _parse_text(text: bytes, parse_columns: Callable[[Iterable[Cells], np.ndarray], Rows]) -> tuple[Rows, np.ndarray]:
    """Parse n lines of 40 cells: all rows, and the 1-based first bad column of each, (n,) uint8, 0 for none.

    Raises pyarrow.ArrowInvalid for other widths.
    """
    if not text:
        bad_columns = np.zeros(0, dtype=np.uint8)
        return parse_columns([(np.zeros(1, dtype=np.int32), NO_CELL_DATA)] * COLUMNS, bad_columns), bad_columns
    table = pa.csv.read_csv(
        pa.BufferReader(text),
        # One block, so that every column comes as one piece.
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=len(text), column_names=_NAMES),
        parse_options=_PARSE_OPTIONS,
        convert_options=_CONVERT_OPTIONS,
    )
    bad_columns = np.zeros(table.num_rows, dtype=np.uint8)
    return parse_columns(map(_buffers, table.itercolumns()), bad_columns), bad_columns


def _parse_columns(columns: Iterable[Cells], bad_columns: np.ndarray, table_rows: Sequence[int]) -> ParsedRows:
    parsed = _unwritten_rows(bad_columns.shape[0])
    starts = table_offsets(table_rows)
    for index, buffers in enumerate(columns):
        cells = (*buffers, bad_columns, index + 1)
        if index < LABEL_COLUMNS:
            parse_cells.parse_labels(*cells, parsed.labels)
        elif index < LABEL_COLUMNS + DENSE_FEATURES:
            parse_cells.parse_counts(*cells, parsed.dense[:, index - LABEL_COLUMNS])
        else:
            feature = index - LABEL_COLUMNS - DENSE_FEATURES
            parse_cells.parse_categories(*cells, starts[feature], np.uint64(table_rows[feature]), parsed.rows[feature])
    return parsed


def _unwritten_rows(n: int) -> ParsedRows:
    return ParsedRows(
        dense=np.empty((n, DENSE_FEATURES), dtype=np.float32),
        rows=np.empty((SPARSE_FEATURES, n), dtype=np.int64),
        labels=np.empty(n, dtype=np.float32),
    )


def _buffers(column: pa.ChunkedArray) -> Cells:
    """The cells of a column of one piece: views, nothing is copied."""
    (cells,) = column.chunks
    _, offsets, data = cells.buffers()
    offsets = np.frombuffer(offsets, dtype=np.int32)[cells.offset : cells.offset + len(cells) + 1]
    return offsets, np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else NO_CELL_DATA


def _describe(line: int, column: int, text: bytes, expected: Callable[[int, bytes], str]) -> BadLine:
    """Say what is wrong with a line: its number of columns, or else the cell in `column`."""
    cells = text.split(b"\t")
    if len(cells) != COLUMNS:
        return BadLine(line, None, _wrong_width(text, COLUMNS), text)
    cell = cells[column - 1]
    return BadLine(line, column, f"expected {expected(column, cell)} and found {_quote(cell)}", text)


def _wrong_width(text: bytes, expected: int) -> str:
    found = text.count(b"\t") + 1
    hint = ""
    if (expected, found) == (COLUMNS, COLUMNS - LABEL_COLUMNS):
        hint = " (without labels? prepare and predict take such files with --no-labels)"
    elif (expected, found) == (COLUMNS - LABEL_COLUMNS, COLUMNS):
        hint = " (with labels? then leave out --no-labels)"
    return f"expected {expected} columns separated by tabs and found {found if text else 'an empty line'}{hint}"


def _quote(cell: bytes) -> str:
    shown = cell if len(cell) <= LONGEST_QUOTE else cell[:LONGEST_QUOTE] + b"..."
    try:
        return repr(shown.decode())
    except UnicodeDecodeError:
        return repr(shown)[1:]
