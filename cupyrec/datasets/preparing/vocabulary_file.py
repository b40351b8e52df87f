"""The Parquet file of a vocabulary.

A row for each id, in order: id (uint32, from 1 on), value, key (uint64) and count (int64). Values of a hex column are
texts as in Criteo files, of at least 8 digits; those of an integer column int64; those of a text column texts, null
where the value is missing. The kind of the column and a checksum stand in the metadata.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cupyrec.datasets.durable_files import durable_file
from cupyrec.datasets.preparing.text_keys import text_keys
from cupyrec.devices.kernel_cache import cached_njit
from cupyrec.errors import DataError, first_line

Kind = Literal["hex", "integer", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GROUP_ROWS = 2**20
COMPRESSION = "zstd"
FORMAT = "cupyrec-vocabulary-1"
LEAST_HEX_DIGITS, MOST_HEX_DIGITS = 8, 16
_DIGITS = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_VALUE_TYPES = {"hex": pa.string(), "integer": pa.int64(), "text": pa.large_string()}


@dataclass(frozen=True)
class VocabularyFile:
    """The content of a file: n ids from 1 on.

    kind: of the column; keys: (n,) uint64; counts: (n,) int64; texts: n of them for a text column, else None.
    """

    kind: Kind
    keys: np.ndarray
    counts: np.ndarray
    texts: pa.ChunkedArray | None


class Numbers(Protocol):
    """An array of one axis, or what gives slices as one does."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


def write_vocabulary(path: Path, keys: Numbers, counts: Numbers, texts: Iterable[pa.Array] | None, kind: Kind) -> None:
    """Write n ids, whole or not at all: the same bytes for the same content and version of pyarrow.

    keys:   (n,) uint64, that of the id 1 at index 0; counts: (n,) int64.
    texts:  for a text column arrays of string or large_string, which together hold the n values in order; else None.

    Memory for GROUP_ROWS rows at a time is used. Raises OutputError.
    """
    if (kind == "text") != (texts is not None):
        raise ValueError("a text column has texts, no other has")
    schema = _schema(kind, keys, counts)
    pieces = _Pieces(iter(texts)) if texts is not None else None
    options = {"compression": COMPRESSION, "use_dictionary": False, "write_statistics": False}
    with (
        durable_file(path) as partial,
        pa.parquet.ParquetWriter(partial, schema, write_page_checksum=True, **options) as writer,
    ):
        for start in range(0, keys.shape[0], GROUP_ROWS):
            stop = min(start + GROUP_ROWS, keys.shape[0])
            values = _values(keys[start:stop], kind) if pieces is None else pieces.take(stop - start)
            ids = np.arange(start + 1, stop + 1, dtype=np.uint32)
            arrays = [pa.array(ids), values, pa.array(keys[start:stop]), pa.array(counts[start:stop])]
            writer.write_batch(pa.record_batch(arrays, schema=schema), row_group_size=GROUP_ROWS)
        if pieces is not None and not pieces.is_empty():
            raise ValueError("there are more texts than keys")


def read_vocabulary(path: Path) -> VocabularyFile:
    """Read a whole file and check it. Raises DataError for a file that is damaged or no vocabulary."""
    try:
        with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            return _read(file, path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"the vocabulary cannot be read: {first_line(error)}", path=path) from None


def read_texts(path: Path, keys: Numbers, n: int) -> Iterator[pa.Array]:
    """Yield the n values of a text column, GROUP_ROWS at a time. keys: (n or more,) uint64, as they were read.

    Raises DataError when the file is damaged, or its values are not those of the first n keys.
    """
    start = 0
    try:
        with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(GROUP_ROWS, columns=["value"]):
                found, texts = text_keys(batch.column(0))
                stop = start + found.shape[0]
                if not np.array_equal(found, keys[start:stop]):
                    raise _changed(path)
                start = stop
                yield texts
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"the vocabulary cannot be read: {first_line(error)}", path=path) from None
    if start != n:
        raise _changed(path)


def _changed(path: Path) -> DataError:
    return DataError("the vocabulary has changed since it was read; put back what was there", path=path)


def _read(file: pa.parquet.ParquetFile, path: Path) -> VocabularyFile:
    metadata = file.schema_arrow.metadata or {}
    kind = next((kind for kind in KINDS if metadata.get(b"kind") == kind.encode()), None)
    if kind is None or metadata.get(b"format") != FORMAT.encode():
        raise DataError("not a vocabulary written by cupyrec", path=path)
    # As many rows as there are: those that the metadata name would all be allotted at once.
    keys, counts, texts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], []
    rows = 0
    for batch in file.iter_batches(GROUP_ROWS):
        ids, values, batch_keys, batch_counts = batch.columns
        if ids.null_count or batch_keys.null_count or batch_counts.null_count:
            raise DataError("the vocabulary is damaged: there are nulls", path=path)
        keys.append(batch_keys.to_numpy())
        counts.append(batch_counts.to_numpy())
        if kind == "text":
            found, values = text_keys(values)
            fits = np.array_equal(found, keys[-1])
            texts.append(values)
        else:
            fits = values.equals(_values(keys[-1], kind))
        if not fits or not np.array_equal(ids.to_numpy(), np.arange(rows + 1, rows + batch.num_rows + 1)):
            raise DataError("the vocabulary is damaged: ids, values and keys do not fit together", path=path)
        rows += batch.num_rows
    all_keys, all_counts = np.concatenate(keys), np.concatenate(counts)
    # The checksum tells what the pages with their own checksums do not: whether all of them are there.
    if not file.schema_arrow.equals(_schema(kind, all_keys, all_counts), check_metadata=True):
        raise DataError("the vocabulary is damaged: it does not have its checksum", path=path)
    all_texts = pa.chunked_array(texts, pa.large_string()) if kind == "text" else None
    return VocabularyFile(kind, all_keys, all_counts, all_texts)


def _schema(kind: Kind, keys: Numbers, counts: Numbers) -> pa.Schema:
    """The schema of a file with this content, whose CRC-32 it has."""
    checksum = 0
    for numbers in (keys, counts):
        for start in range(0, numbers.shape[0], GROUP_ROWS):
            checksum = zlib.crc32(numbers[start : start + GROUP_ROWS].tobytes(), checksum)
    fields = [
        pa.field("id", pa.uint32(), nullable=False),
        pa.field("value", _VALUE_TYPES[kind], nullable=kind == "text"),
        pa.field("key", pa.uint64(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
    return pa.schema(fields, metadata={"format": FORMAT, "kind": kind, "crc32": f"{checksum:08x}"})


def _values(keys: np.ndarray, kind: Kind) -> pa.Array:
    """The values of a hex or integer column, which follow from their keys."""
    if kind == "integer":
        return pa.array(keys.view(np.int64))
    offsets = np.empty(keys.shape[0] + 1, dtype=np.int32)
    digits = np.empty(keys.shape[0] * MOST_HEX_DIGITS, dtype=np.uint8)
    used = _write_hex(keys, offsets, digits)
    return pa.StringArray.from_buffers(keys.shape[0], pa.py_buffer(offsets), pa.py_buffer(digits[:used]))


@cached_njit()
def _write_hex(keys, offsets, digits):
    """Write the digits of the keys one after the other. offsets: (n + 1,), digits: (16 n,). Returns how many."""
    at = 0
    offsets[0] = 0
    for index in range(keys.shape[0]):
        key = keys[index]
        count = LEAST_HEX_DIGITS
        while count < MOST_HEX_DIGITS and key >> np.uint64(4 * count) != 0:
            count += 1
        for digit in range(count):
            digits[at + count - 1 - digit] = _DIGITS[(key >> np.uint64(4 * digit)) & np.uint64(15)]
        at += count
        offsets[index + 1] = at
    return at


class _Pieces:
    """Texts that come in arrays of any length, taken in others."""

    def __init__(self, arrays: Iterator[pa.Array]):
        self._arrays = arrays
        self._rest = pa.array([], pa.large_string())

    def take(self, n: int) -> pa.Array:
        """The next n texts. Raises ValueError when there are fewer."""
        parts, taken = [], 0
        while taken < n:
            if not len(self._rest):
                array = next(self._arrays, None)
                if array is None:
                    raise ValueError("there are fewer texts than keys")
                self._rest = array.cast(pa.large_string())
            part = self._rest[: n - taken]
            self._rest = self._rest[len(part) :]
            parts.append(part)
            taken += len(part)
        return pa.concat_arrays(parts)

    def is_empty(self) -> bool:
        return not len(self._rest) and all(not len(array) for array in self._arrays)
