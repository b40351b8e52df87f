"""Rows whose categories have become rows of tables, as raw training reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cupyrec.batch import table_offsets
from cupyrec.datasets.criteo_rows import CriteoRows


@dataclass(frozen=True, slots=True)
class HashedRows:
    """n rows, feature-major as in a batch.

    dense: (n, 13) float32; rows: (26, n) int64, global rows; labels: (n,) float32, 0 or 1.
    """

    dense: np.ndarray
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, part: slice) -> HashedRows:
        """A range of the rows: views of the arrays."""
        return HashedRows(self.dense[part], self.rows[:, part], self.labels[part])


def hash_keys(parsed: CriteoRows, table_rows: Sequence[int]) -> HashedRows:
    """Give every category a row of its table.

        rows[f, i] = first global row of table f + keys[f, i] mod table_rows[f]

    table_rows: (26,) rows of each table, at least 1.
    """
    rows = (parsed.keys % np.array(table_rows, dtype=np.uint64)[:, None]).view(np.int64)
    rows += table_offsets(table_rows)[:-1, None]
    return HashedRows(parsed.dense, rows, parsed.labels)
