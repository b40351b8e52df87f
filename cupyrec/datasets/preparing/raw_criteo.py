"""Parse lines of Criteo data into raw rows: the label, 13 dense features and the keys of 26 categories."""

from __future__ import annotations

from cupyrec.datasets.criteo_rows import DENSE_FEATURES, SPARSE_FEATURES, BadLine, parse_rows
from cupyrec.datasets.preparing.raw_rows import ColumnKind, RawColumn, RawRows

DENSE_NAMES = tuple(f"I{number}" for number in range(1, DENSE_FEATURES + 1))
CATEGORY_NAMES = tuple(f"C{number}" for number in range(1, SPARSE_FEATURES + 1))
CATEGORY_KINDS = (ColumnKind("hex"),) * SPARSE_FEATURES


def parse_raw_rows(text: bytes, transform: str, *, labelled: bool = True) -> tuple[RawRows, list[BadLine]]:
    """Parse whole lines; see criteo_rows.parse_rows.

    The key of a category is its value; a blank has the key 0, as has the value 0.
    """
    rows, bad_lines = parse_rows(text, transform, labelled=labelled)
    return RawRows(rows.labels, rows.dense, [RawColumn(keys) for keys in rows.keys], rows.negatives), bad_lines
