"""One safetensors file: written as a stream, with its checksum; read without a copy."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cupyrec.datasets.durable_files import output_errors
from cupyrec.errors import ModelError
from cupyrec.saving.safetensors_checksum import CHECKSUM_KEY, NO_CHECKSUM, place_of_checksum
from cupyrec.saving.safetensors_header import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    HeaderError,
    TensorEntry,
    encode_header,
    parse_header,
)

# Large enough to keep a disk busy, small enough to be a passing copy.
BLOCK_BYTES = 2**23
# How a file of torch.save begins, and how one of PyTorch before 1.6 does.
ZIP, PICKLE = b"PK", b"\x80\x02"


@dataclass(frozen=True)
class WrittenFile:
    """The size of a file, and the CRC-32 of all of it."""

    size_bytes: int
    crc32: int


class TensorSource(Protocol):
    """A tensor to be written, block by block."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""

    @property
    def dtype(self) -> np.dtype:
        """The tensor's dtype."""

    def blocks(self) -> Iterator[np.ndarray]:
        """Arrays of the tensor's dtype, any shape, C-contiguous: its elements in C order, each once."""


class ArraySource:
    """An array as a TensorSource. It may be strided, as `records[:, :D]` is: at most 8 MB are copied at a time,
    or one index of the first axis where that is more.
    """

    def __init__(self, array: np.ndarray):
        self.shape, self.dtype = array.shape, array.dtype
        self._array = array

    def blocks(self) -> Iterator[np.ndarray]:
        rows = self._array if self._array.ndim else self._array.reshape(1)
        if not rows.size:
            return
        step = max(1, BLOCK_BYTES * rows.shape[0] // rows.nbytes)
        for start in range(0, rows.shape[0], step):
            yield np.ascontiguousarray(rows[start : start + step])


class PatchedSource:
    """A table, some rows of which are replaced as they are handed out: at most 8 MB are copied at a time."""

    def __init__(self, table: np.ndarray, rows: np.ndarray, values: np.ndarray, first_row: int) -> None:
        """table: (R, D); rows: (n,) ascending, counted from first_row as the table's first; values: (n, D)."""
        self.shape, self.dtype = table.shape, table.dtype
        self._table, self._rows, self._values, self._first_row = table, rows, values, first_row

    def blocks(self) -> Iterator[np.ndarray]:
        start = 0
        for block in ArraySource(self._table).blocks():
            stop = start + block.shape[0]
            first, last = np.searchsorted(self._rows, (self._first_row + start, self._first_row + stop))
            patched = block.copy()
            patched[self._rows[first:last] - (self._first_row + start)] = self._values[first:last]
            yield patched
            start = stop


def fill(target: np.ndarray, source: TensorSource) -> None:
    """Set an array to a tensor of its shape, of which each block is whole indices of the first axis."""
    start = 0
    for block in source.blocks():
        part = block.reshape(-1, *target.shape[1:])
        target[start : start + part.shape[0]] = part
        start += part.shape[0]


def open_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Map one file: its tensors, in the order of the data, and its metadata but for a checksum. Raises ModelError."""
    try:
        with open(path, "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes < LENGTH_BYTES:
                raise HeaderError(f"it has {size_bytes} bytes")
            data = mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_READ)
        header_bytes = int.from_bytes(data[:LENGTH_BYTES], "little")
        start = LENGTH_BYTES + header_bytes
        if header_bytes > MAX_HEADER_BYTES and data[: len(ZIP)] in (ZIP, PICKLE):
            raise HeaderError("a file as torch.save writes it; write the weights with safetensors.torch.save_file")
        if header_bytes > MAX_HEADER_BYTES or start > size_bytes:
            raise HeaderError(f"its header of {header_bytes} bytes cannot be in a file of {size_bytes}")
        entries, metadata = parse_header(data[LENGTH_BYTES:start], size_bytes - start)
        tensors: dict[str, np.ndarray] = {
            entry.name: np.ndarray(entry.shape, entry.dtype, buffer=data, offset=start + entry.begin)
            for entry in entries
        }
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        # Of HeaderError, and of NumPy on a shape of more axes, or more elements, than an array can have.
        raise ModelError(f"{path}: damaged, or not a safetensors file: {error}") from error
    metadata.pop(CHECKSUM_KEY, None)
    return tensors, metadata


def size_bytes_of(source: TensorSource) -> int:
    return math.prod(source.shape) * source.dtype.itemsize


def write_file(
    path: Path, tensors: Mapping[str, TensorSource], metadata: Mapping[str, str], *, own_checksum: bool = False
) -> WrittenFile:
    """Write one file, its tensors in this order, and wait until it is on the disk. Raises as write_sharded does.

    own_checksum: the file has its checksum in its metadata; the one that is returned is then that of the file without.
    """
    entries, end = [], 0
    metadata = {CHECKSUM_KEY: NO_CHECKSUM, **metadata} if own_checksum else metadata
    for name, source in tensors.items():
        begin, end = end, end + size_bytes_of(source)
        entries.append(TensorEntry(name, source.dtype.newbyteorder("<"), tuple(source.shape), begin, end))
    with contextlib.ExitStack() as stack:
        with output_errors(path):
            file = stack.enter_context(open(path, "wb", buffering=0))
            header = encode_header(entries, metadata)
            _write_all(file, header)
        checksum = zlib.crc32(header)
        for entry in entries:
            written_bytes = 0
            for block in tensors[entry.name].blocks():
                if block.dtype != tensors[entry.name].dtype:
                    raise TypeError(f"tensor {entry.name!r} is {entry.dtype}, but a block is {block.dtype}")
                written_bytes += block.nbytes
                little_endian = np.ascontiguousarray(block, dtype=entry.dtype).reshape(-1).view(np.uint8)
                with output_errors(path):
                    _write_all(file, little_endian.data)
                checksum = zlib.crc32(little_endian.data, checksum)
            if written_bytes != entry.end - entry.begin:
                raise ValueError(
                    f"tensor {entry.name!r} has {entry.end - entry.begin} bytes, but its blocks have {written_bytes}"
                )
        with output_errors(path):
            place = place_of_checksum(header) if own_checksum else None
            if place is not None:
                file.seek(place[0])
                _write_all(file, b"%08x" % checksum)
            os.fsync(file.fileno())
    return WrittenFile(len(header) + end, checksum)


def _write_all(file: Any, data: bytes | memoryview) -> None:
    """Write all of the data: a raw file may take less at once (2 GB on Linux)."""
    unwritten = memoryview(data)
    while unwritten:
        unwritten = unwritten[file.write(unwritten) :]
