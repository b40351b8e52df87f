"""What the trainer asks of training data."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from cupyrec.batch import Batch


class Source(Protocol):
    """Anything that yields batches: Criteo files, or a class of one's own.

    table_rows: (F,) rows of each table; dense_features: columns of the dense input.
    """

    @property
    def table_rows(self) -> tuple[int, ...]: ...

    @property
    def dense_features(self) -> int: ...

    def batches(
        self, batch_size: int, *, on_progress: Callable[[float], None] | None = None
    ) -> Generator[Batch, None, None]:
        """Yield every sample once, in order, in batches of at most batch_size samples; may be closed early.

        The trainer does not look into the batches: one whose rows lie outside the tables spoils memory. A source of
        one's own makes them by Batch.from_bags, or calls Batch.validate.
        on_progress is told the share, 0 to 1, of the data handed out so far.
        """


class BatchList:
    """Batches that are in memory already, as a source. Each has at most the batch size the trainer works with."""

    def __init__(self, batches: Sequence[Batch], table_rows: Sequence[int], dense_features: int) -> None:
        """Raises DataError when a batch does not fit the tables; see Batch.validate."""
        self.table_rows, self.dense_features = tuple(table_rows), dense_features
        self._batches = [batch.validate(self.table_rows, dense_features) for batch in batches]

    def batches(
        self, batch_size: int, *, on_progress: Callable[[float], None] | None = None
    ) -> Generator[Batch, None, None]:
        """Yield the batches as they are; the trainer refuses one of more than batch_size samples."""
        for number, batch in enumerate(self._batches, start=1):
            if on_progress is not None:
                on_progress(number / len(self._batches))
            yield batch
