"""One mini-batch as plain data, validated once where it is made, and the plan of its coalesced update."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cupyrec.errors import DataError

# A plan holds bags and lookups as int32.
MOST_BAGS = 2**31 - 1
# The members of a batch that are arrays.
ARRAYS = ("dense", "rows", "offsets", "labels")


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """B samples with F sparse features and N lookups in all, in host memory.

    dense:   (B, dense features) float32, finite, already transformed.
    rows:    (N,) int64, global rows: table offset + id within the table. Feature after feature, and within
             a feature sample after sample: bag (f, b) is rows[offsets[f*B + b] : offsets[f*B + b + 1]].
    offsets: (F*B + 1,) int64, ascending from 0 to N. A bag may have any length, 0 too; there are at most MOST_BAGS,
             and as many lookups.
    labels:  (B,) float32, 0 or 1.
    encoding: how values became rows, see prepared.encoding; None where the batch does not say.
    """

    dense: np.ndarray
    rows: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    encoding: str | None = None

    @property
    def samples(self) -> int:
        """B."""
        return self.labels.shape[0]

    @property
    def features(self) -> int:
        """F. A batch without samples has none."""
        return (self.offsets.shape[0] - 1) // self.samples if self.samples else 0

    @property
    def lookups(self) -> int:
        """N."""
        return self.rows.shape[0]

    def copy(self) -> Batch:
        """A batch with arrays of its own; what is no array stays as it is, for `validate` to find."""
        copies: dict[str, Any] = {name: getattr(self, name) for name in ARRAYS}
        for name, given in copies.items():
            if isinstance(given, np.ndarray):
                copies[name] = np.array(given, order="C")
        return replace(self, **copies)

    def validate(self, table_rows: Sequence[int], dense_features: int) -> Batch:
        """Check shapes, dtypes, labels, that dense values are finite and that every row lies in its feature's table.

        table_rows: (F,) rows of each table. O(N + B). Returns the batch itself. Raises DataError that says expected
        and actual.
        """
        for name in ARRAYS:
            given = getattr(self, name)
            if not isinstance(given, np.ndarray) or given.ndim == 0:
                kind = f"() {given.dtype}" if isinstance(given, np.ndarray) else type(given).__name__
                raise DataError(
                    f"batch.{name} must be a NumPy array of at least one axis, but is {kind}; see Batch.from_bags"
                )
        check_table_rows(table_rows)
        B, F = self.samples, len(table_rows)
        if F * B > MOST_BAGS:
            raise DataError(
                f"a batch holds at most {MOST_BAGS} bags, but {B} samples of {F} features are {F * B}; "
                "take smaller batches"
            )
        if self.lookups > MOST_BAGS:
            raise DataError(f"a batch holds at most {MOST_BAGS} lookups, but has {self.lookups}; take smaller batches")
        for name, array, shape, dtype in (
            ("dense", self.dense, (B, dense_features), np.float32),
            ("rows", self.rows, (self.lookups,), np.int64),
            ("offsets", self.offsets, (F * B + 1,), np.int64),
            ("labels", self.labels, (B,), np.float32),
        ):
            if array.shape != shape or array.dtype != dtype:
                raise DataError(f"batch.{name} must be {shape} {np.dtype(dtype)}, but is {array.shape} {array.dtype}")
        if self.offsets[0] != 0 or self.offsets[-1] != self.lookups or np.any(np.diff(self.offsets) < 0):
            raise DataError(f"batch.offsets must ascend from 0 to the number of lookups, {self.lookups}")
        wrong = np.flatnonzero((self.labels != 0) & (self.labels != 1))
        if wrong.size:
            raise DataError(f"batch.labels must be 0 or 1, but that of sample {wrong[0]} is {self.labels[wrong[0]]}")
        infinite = np.argwhere(~np.isfinite(self.dense))
        if infinite.size:
            sample, column = infinite[0]
            raise DataError(
                f"batch.dense must be finite, but column {column} of sample {sample} is {self.dense[sample, column]}"
            )
        starts = table_offsets(table_rows)
        for feature in range(F):
            begin, end = self.offsets[feature * B], self.offsets[(feature + 1) * B]
            lookups = self.rows[begin:end]
            first, last = starts[feature], starts[feature + 1]
            if lookups.size and (lookups.min() < first or lookups.max() >= last):
                lookup = begin + np.flatnonzero((lookups < first) | (lookups >= last))[0]
                sample = np.searchsorted(self.offsets, lookup, side="right") - 1 - feature * B
                raise DataError(
                    f"sample {sample}, feature {feature}: global row {self.rows[lookup]} is not in the table, which "
                    f"holds the global rows {first} to {last - 1}"
                )
        return self

    @classmethod
    def from_bags(
        cls,
        dense: Any,
        bags: Sequence[Sequence[Sequence[int]]],
        labels: Any,
        table_rows: Sequence[int],
    ) -> Batch:
        """Make a validated batch from ids within each table.

        dense: (B, dense features) numbers; bags: F lists of B lists of ids, whole numbers from 0; labels: (B,) numbers;
        table_rows: (F,).
        Convenient, not fast: readers build their arrays directly. Raises DataError that names sample and feature.
        """
        check_table_rows(table_rows)
        dense, labels = _floats("dense", dense, "(B, dense features)", 2), _floats("labels", labels, "(B,)", 1)
        try:
            bags_of = [len(feature) for feature in bags]
        except TypeError:
            raise DataError("bags must be a list for each feature, of a list of ids for each sample") from None
        if bags_of != [len(labels)] * len(table_rows):
            raise DataError(f"bags must be {len(table_rows)} lists of {len(labels)}, but are lists of {bags_of}")
        lengths, rows, start = [], [], 0
        for number, (feature, table) in enumerate(zip(bags, table_rows, strict=True)):
            for sample, bag in enumerate(feature):
                ids = _ids(bag, int(table), f"sample {sample}, feature {number}")
                lengths.append(len(ids))
                rows += [start + each for each in ids]
            start += int(table)
        batch = cls(
            dense=dense,
            rows=np.array(rows, dtype=np.int64),
            offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
            labels=labels,
        )
        return batch.validate(table_rows, dense.shape[1])


def check_table_rows(table_rows: Any) -> None:
    """Raise DataError where they are not a sequence of whole numbers."""
    try:
        for rows in table_rows:
            operator.index(rows)
    except TypeError:
        raise DataError(
            f"table_rows must be the rows of each table, such as (1000, 50), but is {table_rows!r}"
        ) from None


def _floats(name: str, values: Any, shape: str, dimensions: int) -> np.ndarray:
    """An argument of from_bags as a C-contiguous array of float32. Raises DataError."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise DataError(f"{name} must be numbers {shape}, but its rows differ in length") from None
    if array.dtype.kind not in "biuf" or array.ndim != dimensions:
        raise DataError(f"{name} must be numbers {shape}, but is {array.shape} {array.dtype}")
    with np.errstate(over="ignore"):  # what is then infinite is told
        return np.ascontiguousarray(array, dtype=np.float32)


def _ids(bag: Any, rows: int, where: str) -> list[int]:
    """The ids of a bag of a table of so many rows. Raises DataError."""
    try:
        given = list(bag)
    except TypeError:
        raise DataError(f"{where}: a bag must be a list of ids, but is {bag!r}") from None
    ids: list[int] = []
    for each in given:
        try:
            ids.append(operator.index(each))
        except TypeError:
            raise DataError(f"{where}: an id must be a whole number, but is {each!r}") from None
        if not 0 <= ids[-1] < rows:
            raise DataError(f"{where}: id {ids[-1]} is not in the table, which has {rows} rows, from 0 to {rows - 1}")
    return ids


@dataclass(frozen=True, eq=False)
class CoalescePlan:
    """The lookups of one batch sorted by row, stably, and cut into one segment for each unique row.

    unique_rows:     (U,) int64, ascending.
    segment_offsets: (U + 1,) int64, from 0 to N.
    segment_lookups: (N,) int32, which lookups they are: 0 to N - 1; within a segment ascending.
    segment_bags:    (N,) int32, the bag f*B + b of each of these lookups. The same array as segment_lookups where
                     every bag has one lookup.
    """

    unique_rows: Any
    segment_offsets: Any
    segment_lookups: Any
    segment_bags: Any

    @property
    def unique(self) -> int:
        """U."""
        return self.unique_rows.shape[0]


def table_offsets(table_rows: Sequence[int]) -> np.ndarray:
    """The first global row of each table, and after them the rows of all tables: (F + 1,) int64."""
    return np.concatenate([[0], np.cumsum(np.asarray(table_rows, dtype=np.int64))]).astype(np.int64)


# A segment of more lookups than this is summed in chunks of so many, by several thread groups of a GPU.
LONG_SEGMENT = 64


@dataclass(frozen=True, eq=False)
class GpuCoalescePlan:
    """A CoalescePlan in device memory, whose sizes only the device knows; arrays are as long as they could need to be.

    lookups:         N.
    unique_rows:     (N,) int64; the first U are meant, ascending.
    segment_offsets: (N + 1,) int64; the first U + 1 are meant.
    segment_lookups, segment_bags: (N,) int32, as in CoalescePlan.
    unique_count:    (1,) int32: U.
    long_segments:   (most_long_segments(N),) int32, ascending: the segments of more than LONG_SEGMENT lookups.
    long_offsets:    (most_long_segments(N) + 1,) int32, from 0: where the chunks of each begin among all chunks.
    long_counts:     (2,) int32: how many long segments, and chunks of all of them.
    """

    lookups: int
    unique_rows: Any
    segment_offsets: Any
    segment_lookups: Any
    segment_bags: Any
    unique_count: Any
    long_segments: Any
    long_offsets: Any
    long_counts: Any


def most_long_segments(lookups: int) -> int:
    """The most segments of more than LONG_SEGMENT lookups that so many lookups can make; at least 1."""
    return max(lookups // (LONG_SEGMENT + 1), 1)


def most_chunks(lookups: int) -> int:
    """The most chunks that the long segments of so many lookups can make; at least 1."""
    return max(lookups // LONG_SEGMENT + most_long_segments(lookups), 1)
