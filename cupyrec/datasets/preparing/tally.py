"""What a preparation has counted on its way, as it stands in the journal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cupyrec.datasets.preparing.raw_rows import RawRows


@dataclass(frozen=True)
class Tally:
    """What had been read at some place.

    inputs:    (files, 2) samples and bad rows of each file; bad_rows, bad_rows_bytes: what the file of bad rows holds.
    negatives: (d,) values below 0 of each dense feature; positives: samples with the label 1; both None where an
               earlier cupyrec, which began, did not count.
    """

    inputs: list[list[int]]
    bad_rows: int = 0
    bad_rows_bytes: int = 0
    negatives: list[int] | None = None
    positives: int | None = None

    @classmethod
    def start(cls, files: int, dense_features: int) -> Tally:
        """Before anything is read."""
        return cls([[0, 0] for _ in range(files)], negatives=[0] * dense_features, positives=0)

    def after(self, file: int, rows: RawRows, bad_rows: int, bad_rows_bytes: int) -> Tally:
        """With a part of a file, 0-based. rows: as they were parsed; bad_rows_bytes: with those of the part."""
        inputs = [list(counts) for counts in self.inputs]
        inputs[file][0] += len(rows)
        inputs[file][1] += bad_rows
        negatives = self.negatives
        if negatives is not None and rows.negatives is not None:
            negatives = (negatives + rows.negatives).tolist()
        positives = None if self.positives is None else self.positives + int(np.count_nonzero(rows.labels))
        return Tally(inputs, self.bad_rows + bad_rows, bad_rows_bytes, negatives, positives)
