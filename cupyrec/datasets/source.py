"""What the trainer asks of training data."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from cupyrec.batch import Batch
from cupyrec.errors import ConfigError


class Source(Protocol):
    """Anything that yields batches: Criteo files, or a class of one's own.

    table_rows: (F,) rows of each table; dense_features: columns of the dense input. A source whose batches need no
    check, because it made them so, says it with an attribute `validated = True`. One that can begin in the middle, or
    gives its samples in another order in each epoch, says so with `seekable = True`: `batches` then takes the keywords
    epoch (0-based) and first_batch (how many batches of the epoch to leave out) as well.
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


def read_batches(
    source: Source,
    batch_size: int,
    *,
    on_progress: Callable[[float], None] | None = None,
    epoch: int = 0,
    first_batch: int = 0,
) -> Generator[Batch, None, None]:
    """The batches of a source that have samples, each checked; closing it closes the source's own iterator.

    epoch: 0-based; a source that is not seekable gives the same in each. first_batch: how many batches of the epoch are
    left out; a source that is not seekable reads them all the same.
    A row that is in no table would be read and written outside of them: only a source that has the attribute
    `validated = True` is believed. Raises ConfigError on a batch of more than batch_size samples, DataError as
    Batch.validate does, and what the source raises.
    """
    options: dict[str, Any] = {}
    if getattr(source, "seekable", False):
        options = {"epoch": epoch, "first_batch": first_batch}
        first_batch = 0
    batches = source.batches(batch_size, on_progress=on_progress, **options)
    try:
        yield from islice(_checked(batches, source, batch_size), first_batch, None)
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


def _checked(batches: Iterator[Batch], source: Source, batch_size: int) -> Iterator[Batch]:
    for batch in batches:
        check_batch_size(batch, batch_size)
        if batch.samples:
            if not getattr(source, "validated", False):
                batch.validate(source.table_rows, source.dense_features)
            yield batch


def check_batch_size(batch: Batch, batch_size: int) -> None:
    """Raise ConfigError when a batch has more samples than there is memory for."""
    if batch.samples > batch_size:
        raise ConfigError(f"a batch has {batch.samples} samples, but there is memory for {batch_size} (batch_size)")


class BatchList:
    """Batches that are in memory already, as a source. Each has at most the batch size the trainer works with."""

    validated = True

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
