"""What the trainer asks of training data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any, Protocol

from cupyrec.argument_kinds import check_kind
from cupyrec.batch import Batch, check_table_rows
from cupyrec.config import check_at_least
from cupyrec.errors import ConfigError, CupyrecError, DataError


class Source(Protocol):
    """Anything that yields batches: Criteo files, or a class of one's own.

    table_rows: (F,) rows of each table; dense_features: columns of the dense input. A source whose batches need no
    check, because it made them so, and which changes none of them later, says it with an attribute `validated = True`;
    batches of any other are copied, since they may wait long before they train. One that can begin in the middle, or
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
        """Yield every sample once, in order, in batches of at most batch_size samples; may be closed early. Each call
        begins anew.

        Batch.from_bags makes a batch of lists. The trainer checks each one, as Batch.validate does, but those of a
        source that says `validated = True`: there a row outside the tables would spoil memory.
        on_progress is told the share, 0 to 1, of the data handed out so far.
        """


# What `batches` of a seekable source is told as well.
SEEKING = {"epoch": 0, "first_batch": 0}
MEMBERS = ("table_rows", "dense_features", "batches")


def check_source(source: object) -> None:
    """Raise ConfigError where an object is no source, or its `batches` cannot be called as the trainer will."""
    if isinstance(source, type) or not all(hasattr(source, name) for name in MEMBERS):
        what = f"the class {source.__name__}" if isinstance(source, type) else f"a {type(source).__name__}"
        raise ConfigError(
            "the data must be a source, such as cupyrec.CriteoFiles(path), PreparedData(folder), BatchList(...) or an "
            f"object with {', '.join(MEMBERS)}, but are {what}"
        )
    name = type(source).__name__
    try:
        check_table_rows(source.table_rows)  # type: ignore[attr-defined]
        check_at_least(1, dense_features=source.dense_features)  # type: ignore[attr-defined]
    except CupyrecError as error:
        raise ConfigError(f"{name}: {error}") from None
    options = SEEKING if getattr(source, "seekable", False) else {}
    try:
        inspect.signature(source.batches).bind(1, on_progress=None, **options)  # type: ignore[attr-defined]
    except TypeError as error:
        keywords = ", ".join(f"{name}=..." for name in ("on_progress", *options))
        why = ", as it says seekable = True" if options else ""
        raise ConfigError(f"{name}.batches must take (batch_size, {keywords}){why}; it does not: {error}") from None


def name_of(source: object) -> str:
    """Which data they are, for messages: prepared data as they were named, or the first of the files."""
    files = getattr(source, "files", None) or ["the data"]
    return str(getattr(source, "path", files[0]))


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
    Batch.validate does, and what the source raises; a DataError that names no file then names the batch.
    """
    options: dict[str, Any] = {}
    begin = 0
    if getattr(source, "seekable", False):
        options = {"epoch": epoch, "first_batch": first_batch}
        begin, first_batch = first_batch, 0
    batches = source.batches(batch_size, on_progress=on_progress, **options)
    try:
        yield from islice(_checked(batches, source, batch_size, begin), first_batch, None)
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


def _checked(batches: Iterator[Batch], source: Source, batch_size: int, begin: int) -> Iterator[Batch]:
    """begin: the number of the first."""
    if not hasattr(batches, "__iter__"):
        raise DataError(f"{type(source).__name__}.batches gave a {type(batches).__name__}, no batches: does it yield?")
    iterator, is_believed = iter(batches), getattr(source, "validated", False)
    for number in count(begin):
        try:
            batch = next(iterator)
            if not is_believed:
                # A copy, made before it is checked: a source may fill the same arrays again.
                batch = check_batch(batch, source.table_rows, source.dense_features, copied=True)
        except StopIteration:
            return
        except DataError as error:
            if error.path is not None:
                raise
            raise _of_batch(number, error) from error
        check_batch_size(batch, batch_size, number)
        if batch.samples:
            yield batch


def check_batch(batch: object, table_rows: Sequence[int], dense_features: int, *, copied: bool = False) -> Batch:
    """A batch itself, or a copy of it, checked. Raises DataError."""
    if not isinstance(batch, Batch):
        raise DataError(f"a batch must be a cupyrec.Batch, but this is a {type(batch).__name__}; see Batch.from_bags")
    return (batch.copy() if copied else batch).validate(table_rows, dense_features)


def _of_batch(number: int, error: DataError) -> DataError:
    """The error, saying which batch is meant."""
    return DataError(f"batch {number}, counted from 0: {error.reason}", line=error.line, column=error.column)


def check_batch_size(batch: Batch, batch_size: int, number: int | None = None) -> None:
    """Raise ConfigError when a batch has more samples than there is memory for.

    number: which it is, from 0; None where it was given to a loaded model.
    """
    if batch.samples > batch_size:
        name = "the batch" if number is None else f"batch {number}, counted from 0,"
        option = f"; see load_model(..., batch_size={batch.samples})" if number is None else " (batch_size)"
        raise ConfigError(f"{name} has {batch.samples} samples, but there is memory for {batch_size}{option}")


class BatchList:
    """Batches that are in memory already, as a source. Each has at most the batch size the trainer works with."""

    validated = True

    def __init__(self, batches: Sequence[Batch], table_rows: Sequence[int], dense_features: int) -> None:
        """Raises ConfigError where these are no batches, DataError that names the one that does not fit the tables; see
        Batch.validate.
        """
        check_table_rows(table_rows)
        check_at_least(1, dense_features=dense_features)
        self.table_rows, self.dense_features = tuple(table_rows), dense_features
        if isinstance(batches, Batch):
            raise DataError("batches must be a list of batches, but is one; put it into a list")
        check_kind(Iterable, "a list of batches", batches=batches)
        self._batches = []
        for number, batch in enumerate(batches):
            try:
                self._batches.append(check_batch(batch, self.table_rows, dense_features))
            except DataError as error:
                raise _of_batch(number, error) from None

    def batches(
        self, batch_size: int, *, on_progress: Callable[[float], None] | None = None
    ) -> Generator[Batch, None, None]:
        """Yield the batches as they are; the trainer refuses one of more than batch_size samples."""
        for number, batch in enumerate(self._batches, start=1):
            if on_progress is not None:
                on_progress(number / len(self._batches))
            yield batch
