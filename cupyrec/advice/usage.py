"""What the steps of the data use: read once, counted exactly where that takes little, and kept on disk for the rest."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from cupyrec.advice.sample import RowSample
from cupyrec.advice.spool import UsageSpool
from cupyrec.advice.window import WindowRows
from cupyrec.batch import Batch
from cupyrec.devices.cpu import CpuStream
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.row_counts import add_lookups
from cupyrec.pipeline.stages import PIPELINED

# Steps whose rows are held while one is planned: with slots for all of them, there is always room.
WINDOW_STEPS = PIPELINED.holds.past + 1 + PIPELINED.holds.future


class Usage:
    """Takes the batches in order (`add`); after `end`, the spool has the sampled rows of each. For a `with` statement.

    samples, steps, lookups: of all batches; batch_samples: B, of the largest.
    window_rows: the different rows of WINDOW_STEPS steps in a row, at most. Exact.
    rows: R; features: F.
    """

    def __init__(
        self, table_rows: Sequence[int], *, sample: RowSample | None = None, row_counts: np.ndarray | None = None
    ) -> None:
        """sample: of the rows that are spooled, a new one when None; row_counts: (R,) int64, lookups are added to it.

        Raises OutputError when there is no place for temporary files.
        """
        self.rows, self.features = sum(table_rows), len(table_rows)
        self.samples = self.batch_samples = self.lookups = self.window_rows = 0
        self.sample, self.spool = sample or RowSample(), UsageSpool()
        self._row_counts = row_counts
        self._coalescer, self._window = Coalescer(CpuStream(), table_rows), WindowRows(WINDOW_STEPS)
        self._unique_rows = array("q")

    @property
    def steps(self) -> int:
        """Batches so far."""
        return len(self._unique_rows)

    @property
    def unique_rows(self) -> np.ndarray:
        """(steps,) int64: U of each step."""
        return np.array(self._unique_rows, np.int64)

    @property
    def rows_used(self) -> int:
        """Different rows that some step uses; estimated when the sample does not hold all rows."""
        return min(round(self.sample.rows / self.sample.rate), self.rows)

    def add(self, batch: Batch) -> None:
        """Take the next batch; nothing of it is kept. Raises OutputError when the spool cannot be written."""
        plan = self._coalescer.plan(batch)
        self.spool.append(self.sample.add(plan.unique_rows, plan.segment_offsets))
        if self._row_counts is not None:
            add_lookups(self._row_counts, batch.rows)
        self.window_rows = max(self.window_rows, self._window.add(plan.unique_rows))
        self.samples += batch.samples
        self.batch_samples = max(self.batch_samples, batch.samples)
        self.lookups += batch.lookups
        self._unique_rows.append(plan.unique)

    def end(self) -> None:
        """No batch follows. Raises OutputError as `add` does."""
        self.spool.link(self.sample.numbers(), self.sample.rows)

    def __enter__(self) -> Usage:
        return self

    def __exit__(self, *_: object) -> None:
        self.spool.close()
