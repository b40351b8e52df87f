"""Map a shard into memory, and find the numbers of its blocks without copying them."""

from __future__ import annotations

import errno
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cupyrec.datasets.prepared import manifest
from cupyrec.datasets.prepared.manifest import DENSE_COLUMN, LABEL_COLUMN, Manifest, Shard
from cupyrec.errors import DataError

# Not pyarrow's own answer, which needs pandas in some of its versions.
ID_DTYPES: dict[pa.DataType, type[np.generic]] = {pa.uint8(): np.uint8, pa.uint16(): np.uint16, pa.uint32(): np.uint32}
PREPARE_AGAIN = "copy it from where it is whole, or prepare the data again with --overwrite"


@dataclass(frozen=True, eq=False)
class IdColumn:
    """A category of n samples.

    ids:     (number of ids,) uint8, uint16 or uint32: within the table.
    offsets: (n + 1,) int32, sample i has ids[offsets[i] : offsets[i + 1]]; None where every sample has one id.
    """

    ids: np.ndarray
    offsets: np.ndarray | None = None

    def part(self, start: int, stop: int) -> IdColumn:
        """The samples start .. stop - 1; the arrays are views."""
        if self.offsets is None:
            return IdColumn(self.ids[start:stop])
        return IdColumn(self.ids, self.offsets[start : stop + 1])


@dataclass(frozen=True, eq=False)
class Block:
    """n samples as they are stored: labels (n,) float32, dense (n, dense features) float32, F columns of ids."""

    labels: np.ndarray
    dense: np.ndarray
    columns: tuple[IdColumn, ...]

    def part(self, start: int, stop: int) -> Block:
        """The samples start .. stop - 1; the arrays are views."""
        return Block(
            self.labels[start:stop], self.dense[start:stop], tuple(column.part(start, stop) for column in self.columns)
        )


class ShardReader:
    """One shard, mapped. Its blocks view the map, which stays as long as one of them does.

    The map is private: an array of it can be written, and the file does not change.
    state: tells the file from one that has been put or written in its place.
    """

    def __init__(self, path: Path, shard: Shard, content: Manifest) -> None:
        """Map the file and check its size and its schema. Raises DataError."""
        self.path, self._shard = path, shard
        self._dense_features = len(content.dense)
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                check_size(path, shard, status.st_size)
                self._bytes = np.frombuffer(
                    mmap.mmap(file.fileno(), shard.size_bytes, access=mmap.ACCESS_COPY), dtype=np.uint8
                )
        except OSError as error:
            raise _cannot_be_read(path, error) from None
        self.state = _state(status)
        try:
            self._file = pa.ipc.open_file(
                pa.BufferReader(pa.py_buffer(self._bytes)), options=pa.ipc.IpcReadOptions(use_threads=False)
            )
            self._check_schema(self._file.schema, content)
            blocks = self._file.num_record_batches
        except (pa.ArrowException, ValueError, TypeError, KeyError, OSError) as error:
            raise self._damaged(error) from None
        if blocks != len(shard.checksums):
            raise self._damaged(f"it has {blocks} blocks, not {len(shard.checksums)}")

    def has_changed(self) -> bool:
        """Whether the file was written to, cut off, replaced or removed since it was mapped."""
        try:
            return _state(self.path.stat()) != self.state
        except OSError:
            return True

    def block(self, number: int) -> Block:
        """A block, 0-based in the file; what it holds is not checked, but that it lies within the file. Raises
        DataError.
        """
        try:
            batch = self._file.get_batch(number)
            samples = min(manifest.BLOCK_SAMPLES, self._shard.samples - number * manifest.BLOCK_SAMPLES)
            if batch.num_rows != samples:
                raise ValueError(f"it has {batch.num_rows} samples, not {samples}")
            labels, dense, *columns = batch.columns
            if any(column.null_count for column in batch.columns):
                raise ValueError("a column has nulls")
            return Block(
                self._view(labels.buffers()[-1], samples, np.float32),
                self._view(dense.buffers()[-1], samples * self._dense_features, np.float32).reshape(samples, -1),
                tuple(self._id_column(column, samples) for column in columns),
            )
        except (pa.ArrowException, ValueError, TypeError, KeyError, IndexError, OSError) as error:
            raise self._damaged(f"block {number}: {error}") from None

    def _id_column(self, column: pa.Array, samples: int) -> IdColumn:
        if not pa.types.is_list(column.type):
            return IdColumn(self._view(column.buffers()[-1], samples, ID_DTYPES[column.type]))
        _, offset_buffer, _, id_buffer = column.buffers()
        offsets = self._view(offset_buffer, samples + 1, np.int32)
        if offsets[0] < 0 or np.any(offsets[1:] < offsets[:-1]):
            raise ValueError("the lengths of a list column are negative")
        ids = self._view(id_buffer, int(offsets[-1]), ID_DTYPES[column.type.value_type])
        return IdColumn(ids, offsets)

    def _view(self, buffer: pa.Buffer | None, count: int, dtype: type[np.generic]) -> np.ndarray:
        """(count,) the beginning of an Arrow buffer, as an array of the map that can be written."""
        size = count * np.dtype(dtype).itemsize
        if size == 0:
            return np.empty(0, dtype)
        first = -1 if buffer is None else buffer.address - self._bytes.ctypes.data
        if buffer is None or buffer.size < size or first < 0 or first + size > self._bytes.shape[0]:
            raise ValueError("a column is shorter than it should be, or compressed")
        if first % np.dtype(dtype).itemsize:
            raise ValueError("a column is not aligned")
        return self._bytes[first : first + size].view(dtype)

    def _check_schema(self, schema: pa.Schema, content: Manifest) -> None:
        names = [LABEL_COLUMN, DENSE_COLUMN, *(category.name for category in content.categories)]
        if schema.names != names:
            raise ValueError(f"the columns are not those of {manifest.MANIFEST_FILE}")
        label, dense, *columns = schema.types
        if label != pa.float32():
            raise ValueError(f"the labels are {label}, not float")
        if not (
            pa.types.is_fixed_size_list(dense)
            and dense.value_type == pa.float32()
            and dense.list_size == len(content.dense)
        ):
            raise ValueError(f"the dense features are {dense}, not {len(content.dense)} floats")
        for category, column in zip(content.categories, columns, strict=True):
            kind = column.value_type if category.multi_hot and pa.types.is_list(column) else column
            if pa.types.is_list(column) != category.multi_hot or kind not in ID_DTYPES:
                expected = "lists of unsigned integers" if category.multi_hot else "unsigned integers"
                raise ValueError(f"column {category.name} is {column}, not {expected} of at most 32 bits")

    def _damaged(self, reason: object) -> DataError:
        return DataError(f"damaged: {reason}; {PREPARE_AGAIN}", path=self.path)


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_size(path: Path, shard: Shard, size_bytes: int | None = None) -> None:
    """Raise DataError when a shard is not there or is shorter or longer than it was made."""
    if size_bytes is None:
        try:
            size_bytes = path.stat().st_size
        except OSError as error:
            raise _cannot_be_read(path, error) from None
    if size_bytes != shard.size_bytes:
        raise DataError(
            f"damaged: it has {size_bytes:,} bytes instead of {shard.size_bytes:,}; {PREPARE_AGAIN}", path=path
        )


def _cannot_be_read(path: Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"a file of the prepared data is missing; {PREPARE_AGAIN}", path=path)
    if error.errno == errno.EMFILE:
        return DataError(
            "too many files are open, as many as there are shards in the shuffle window; take a smaller window, or "
            "allow more with `ulimit -n`",
            path=path,
        )
    return DataError(f"cannot be read: {error.strerror}", path=path)
