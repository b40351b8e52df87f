"""Parse lines of Criteo data into raw rows: the label, 13 dense features and the keys of 26 categories."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cupyrec.datasets import parse_cells
from cupyrec.datasets.criteo_rows import (
    DENSE_FEATURES,
    LABEL_COLUMNS,
    SPARSE_FEATURES,
    BadLine,
    Cells,
    expected_cell,
    parse_lines,
    parse_unlabelled,
)
from cupyrec.datasets.preparing.dense_transforms import domain, transform_column
from cupyrec.datasets.preparing.plain_lines import parse_plain_lines
from cupyrec.datasets.preparing.raw_rows import ColumnKind, RawColumn, RawRows

DENSE_NAMES = tuple(f"I{number}" for number in range(1, DENSE_FEATURES + 1))
CATEGORY_NAMES = tuple(f"C{number}" for number in range(1, SPARSE_FEATURES + 1))
CATEGORY_KINDS = (ColumnKind("hex"),) * SPARSE_FEATURES


def parse_raw_rows(text: bytes, transform: str, *, labelled: bool = True) -> tuple[RawRows, list[BadLine]]:
    """Parse whole lines, each ending in LF or CRLF: the good rows and the bad lines, both in order of lines.

    text:      without NUL bytes.
    transform: a name of TRANSFORMS; an integer that it has no result for makes a line bad.
    labelled:  whether lines begin with a label; those without get 0.

    The key of a category is its value; a blank has the key 0, as has the value 0.
    """
    if not labelled:
        return parse_unlabelled(text, lambda text: parse_raw_rows(text, transform))
    rows = _parse_plain(text, transform)
    if rows is not None:
        return rows, []

    def parse_columns(columns: Iterable[Cells], bad_columns: np.ndarray) -> tuple[np.ndarray, ...]:
        return _parse_columns(columns, bad_columns, transform)

    def expected(column: int, cell: bytes) -> str:
        if LABEL_COLUMNS < column <= LABEL_COLUMNS + DENSE_FEATURES and _is_integer(cell):
            return f"an integer {domain(transform)},"
        return expected_cell(column, cell)

    (labels, dense, keys, negative), good, bad_lines = parse_lines(text, parse_columns, expected)
    if bad_lines:
        labels, dense, keys, negative = labels[good], dense[good], keys[:, good], negative[:, good]
    return RawRows(labels, dense, [RawColumn(column) for column in keys], negative.sum(axis=1)), bad_lines


def _parse_plain(text: bytes, transform: str) -> RawRows | None:
    """All rows, by the short way; None where a line is not plainly good."""
    n = text.count(b"\n")
    labels = np.empty(n, dtype=np.float32)
    integers, missing = np.empty((DENSE_FEATURES, n), dtype=np.int64), np.empty((DENSE_FEATURES, n), dtype=np.bool_)
    keys = np.empty((SPARSE_FEATURES, n), dtype=np.uint64)
    if not parse_plain_lines(np.frombuffer(text, dtype=np.uint8), labels, integers, missing, keys):
        return None
    dense, bad_columns = np.empty((n, DENSE_FEATURES), dtype=np.float32), np.zeros(n, dtype=np.uint8)
    for number in range(DENSE_FEATURES):
        if transform_column(transform, integers[number], missing[number], bad_columns, 1, dense[:, number]):
            return None
    negatives = np.count_nonzero(integers < 0, axis=1)
    return RawRows(labels, dense, [RawColumn(column) for column in keys], negatives)


def _parse_columns(columns: Iterable[Cells], bad_columns: np.ndarray, transform: str) -> tuple[np.ndarray, ...]:
    """Labels (n,), dense (n, 13), keys (26, n) and where integers are below 0 (13, n) of n lines."""
    n = bad_columns.shape[0]
    labels = np.empty(n, dtype=np.float32)
    dense = np.empty((n, DENSE_FEATURES), dtype=np.float32)
    keys = np.empty((SPARSE_FEATURES, n), dtype=np.uint64)
    negative = np.empty((DENSE_FEATURES, n), dtype=np.bool_)
    integers, missing = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.bool_)
    for index, buffers in enumerate(columns):
        cells = (*buffers, bad_columns, index + 1)
        if index < LABEL_COLUMNS:
            parse_cells.parse_labels(*cells, labels)
        elif index < LABEL_COLUMNS + DENSE_FEATURES:
            parse_cells.parse_integers(*cells, integers, missing)
            feature = index - LABEL_COLUMNS
            transform_column(transform, integers, missing, bad_columns, index + 1, dense[:, feature])
            np.less(integers, 0, out=negative[feature])
        else:
            parse_cells.parse_hex(*cells, keys[index - LABEL_COLUMNS - DENSE_FEATURES])
    return labels, dense, keys, negative


def _is_integer(cell: bytes) -> bool:
    values, missing = np.empty(1, dtype=np.int64), np.empty(1, dtype=np.bool_)
    data = np.frombuffer(cell + b"\0", dtype=np.uint8)
    marks = np.zeros(1, dtype=np.uint8)
    return parse_cells.parse_integers(np.array([0, len(cell)], dtype=np.int32), data, marks, 1, values, missing) == 0
