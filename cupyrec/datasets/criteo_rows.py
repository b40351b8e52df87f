"""Parse lines of Criteo data into rows, and say what is wrong with those that are none.

A row has 40 tab-separated columns: the label, 13 integers and 26 hexadecimal categories. Rows of files without labels
have the other 39, and get the label 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cupyrec.datasets.criteo_lines import parse_lines
from cupyrec.datasets.dense_transforms import domain, transform_column
from cupyrec.datasets.input_files import CSV_ADVICE

LABEL_COLUMNS, DENSE_FEATURES, SPARSE_FEATURES = 1, 13, 26
COLUMNS = LABEL_COLUMNS + DENSE_FEATURES + SPARSE_FEATURES

LONGEST_QUOTE = 40


@dataclass(frozen=True, slots=True)
class CriteoRows:
    """n good rows.

    labels:    (n,) float32, 0 or 1.
    dense:     (n, 13) float32, in C order and transformed.
    keys:      (26, n) uint64, in C order: the values of the categories, 0 where there is none.
    negatives: (13,) int64, how many integers of each dense feature were below 0.
    """

    labels: np.ndarray
    dense: np.ndarray
    keys: np.ndarray
    negatives: np.ndarray


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

    @property
    def advice(self) -> str:
        """What can be done."""
        is_csv = self.line == 0 and _is_csv(self.text)
        return CSV_ADVICE if is_csv else "correct it, or leave bad rows out with --on-bad-row skip"


def parse_rows(text: bytes, transform: str, *, labelled: bool = True) -> tuple[CriteoRows, list[BadLine]]:
    """Parse whole lines, each ending in LF or CRLF: the good rows and the bad lines, both in order of lines.

    transform: a name of dense_transforms.TRANSFORMS; an integer that it has no result for makes a line bad.
    labelled:  whether lines begin with a label; those without get 0.
    """
    n = text.count(b"\n")
    labels, dense = np.empty(n, dtype=np.float32), np.empty((n, DENSE_FEATURES), dtype=np.float32)
    # What is not parsed, from the first bad cell of a line on, counts as missing.
    integers: np.ndarray = np.empty((DENSE_FEATURES, n), dtype=np.int64)
    missing = np.ones((DENSE_FEATURES, n), dtype=np.bool_)
    keys: np.ndarray = np.empty((SPARSE_FEATURES, n), dtype=np.uint64)
    bad_columns = np.empty(n, dtype=np.uint8)
    parse_lines(np.frombuffer(text, dtype=np.uint8), labelled, labels, integers, missing, keys, bad_columns)
    first_integer = 1 + labelled * LABEL_COLUMNS
    for feature in range(DENSE_FEATURES):
        column = first_integer + feature
        transform_column(transform, integers[feature], missing[feature], bad_columns, column, dense[:, feature])
    bad_lines = []
    if bad_columns.any():
        lines = text.split(b"\n")
        for line in map(int, np.flatnonzero(bad_columns)):
            feature = int(bad_columns[line]) - first_integer
            has_no_result = 0 <= feature < DENSE_FEATURES and not missing[feature, line]
            expected = f"an integer {domain(transform)}," if has_no_result else _expected_cell(feature)
            bad_lines.append(_bad_line(line, lines[line].removesuffix(b"\r"), labelled, bad_columns[line], expected))
        good = bad_columns == 0
        labels, dense = labels[good], dense[good]
        integers, keys = integers.compress(good, axis=1), keys.compress(good, axis=1)
    return CriteoRows(labels, dense, keys, np.count_nonzero(integers < 0, axis=1)), bad_lines


def _expected_cell(feature: int) -> str:
    """What a cell should be. feature: of the dense features and the categories after them; below 0 for the label."""
    if feature < 0:
        return "a label of 0 or 1"
    if feature < DENSE_FEATURES:
        return "an integer of at most 19 digits and 64 bits, or a blank,"
    return "at most 16 hexadecimal digits, or a blank,"


def _bad_line(line: int, text: bytes, labelled: bool, column: int, expected: str) -> BadLine:
    """Say what is wrong with a line: its number of columns, or else the cell in `column`, which is not as expected."""
    cells = text.split(b"\t")
    columns = COLUMNS if labelled else COLUMNS - LABEL_COLUMNS
    if len(cells) == columns:
        return BadLine(line, int(column), f"expected {expected} and found {_quote(cells[column - 1])}", text)
    hint = ""
    if (columns, len(cells)) == (COLUMNS, COLUMNS - LABEL_COLUMNS):
        hint = " (without labels? prepare and predict take such files with --no-labels)"
    elif (columns, len(cells)) == (COLUMNS - LABEL_COLUMNS, COLUMNS):
        hint = " (with labels? then leave out --no-labels)"
    elif _is_csv(text):
        hint = " (CSV?)"
    found = len(cells) if text else "an empty line"
    return BadLine(line, None, f"expected {columns} columns separated by tabs and found {found}{hint}", text)


def _is_csv(line: bytes) -> bool:
    return b"\t" not in line and (b"," in line or b";" in line)


def _quote(cell: bytes) -> str:
    shown = cell if len(cell) <= LONGEST_QUOTE else cell[:LONGEST_QUOTE] + b"..."
    try:
        return repr(shown.decode())
    except UnicodeDecodeError:
        return repr(shown)[1:]
