"""Models as safetensors files: written as a stream, in shards, all or nothing; read without a copy.

A model below the limit of a shard is `model.safetensors`. A larger one is `model-00001-of-00003.safetensors` and so
on, with `model.safetensors.index.json` that names the file of each tensor: Hugging Face's convention.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cupyrec.errors import ModelError, OutputError
from cupyrec.training.safetensors_header import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    NAMES,
    HeaderError,
    TensorEntry,
    encode_header,
    parse_header,
)

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
SHARD_PATTERN = "model-?????-of-?????.safetensors"
PARTIAL_SUFFIX = ".partial"
# Large enough to keep a disk busy, small enough to be a passing copy.
BLOCK_BYTES = 2**23


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


def write_sharded(
    folder: Path,
    tensors: Mapping[str, TensorSource],
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> list[Path]:
    """Write a model into a folder, which is made if need be; return its files, the one to be opened first last.

    metadata:        strings kept in every file.
    max_shard_bytes: data bytes of a file. A tensor is never split: a larger one has a file to itself.

    All files are written under other names and reach the disk before the first is renamed: a reader sees the old
    model, or none for a moment (where the new one has shards), or the new one. Files of the old model that are not
    overwritten are removed. When anything fails before the renaming, the old model stays and nothing is left behind.
    Raises OutputError when the folder cannot be written or is full; TypeError, ValueError on an unusable tensor.
    """
    shards = _plan_shards(tensors, max_shard_bytes)
    names = [SINGLE_NAME]
    if len(shards) > 1:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    partials = [folder / (name + PARTIAL_SUFFIX) for name in names]
    try:
        with _as_output_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob("model*.safetensors*" + PARTIAL_SUFFIX):
                leftover.unlink()  # of a process that was killed; as large as a model, perhaps
        for partial, shard in zip(partials, shards, strict=True):
            _write_file(partial, {name: tensors[name] for name in shard}, metadata or {})
        if len(shards) > 1:
            weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
            total_bytes = sum(_size_bytes(source) for source in tensors.values())
            index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
            partials.append(folder / (INDEX_NAME + PARTIAL_SUFFIX))
            with _as_output_error(partials[-1]), open(partials[-1], "wb") as file:
                file.write(json.dumps(index, indent=2).encode())
                _sync(file.fileno())
        with _as_output_error(folder):
            return _publish(folder, partials)
    finally:
        for partial in partials:
            with contextlib.suppress(OSError):
                partial.unlink()


def open_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of the model in a folder by name: memory-mapped, read-only, nothing is read before it is used.

    Raises ModelError that names the file and says what is wrong with it.
    """
    return {name: tensor for tensors, _ in _open_model(folder) for name, tensor in tensors.items()}


def read_metadata(folder: Path) -> dict[str, str]:
    """The metadata of the model in a folder. Raises ModelError as open_tensors does."""
    return {key: value for _, metadata in _open_model(folder) for key, value in metadata.items()}


def _plan_shards(tensors: Mapping[str, TensorSource], max_shard_bytes: int) -> list[list[str]]:
    """Names of the tensors of each file: as many as fit, in the order given. Within a file, wide elements come first:
    then each tensor lies at a multiple of its element.
    """
    shards: list[list[str]] = [[]]
    filled_bytes = 0
    for name, source in tensors.items():
        if name == "__metadata__" or np.dtype(source.dtype).newbyteorder("<") not in NAMES:
            raise TypeError(f"tensor {name!r} of dtype {source.dtype} cannot be kept in a safetensors file")
        if shards[-1] and filled_bytes + _size_bytes(source) > max_shard_bytes:
            shards.append([])
            filled_bytes = 0
        shards[-1].append(name)
        filled_bytes += _size_bytes(source)
    return [sorted(shard, key=lambda name: -tensors[name].dtype.itemsize) for shard in shards]


def _size_bytes(source: TensorSource) -> int:
    return math.prod(source.shape) * source.dtype.itemsize


def _write_file(path: Path, tensors: Mapping[str, TensorSource], metadata: Mapping[str, str]) -> None:
    """Write one file and wait until it is on the disk."""
    entries, end = [], 0
    for name, source in tensors.items():
        begin, end = end, end + _size_bytes(source)
        entries.append(TensorEntry(name, source.dtype.newbyteorder("<"), tuple(source.shape), begin, end))
    with contextlib.ExitStack() as stack:
        with _as_output_error(path):
            file = stack.enter_context(open(path, "wb", buffering=0))
            _write_all(file, encode_header(entries, metadata))
        for entry in entries:
            written_bytes = 0
            for block in tensors[entry.name].blocks():
                if block.dtype != tensors[entry.name].dtype:
                    raise TypeError(f"tensor {entry.name!r} is {entry.dtype}, but a block is {block.dtype}")
                written_bytes += block.nbytes
                little_endian = np.ascontiguousarray(block, dtype=entry.dtype).reshape(-1).view(np.uint8)
                with _as_output_error(path):
                    _write_all(file, little_endian.data)
            if written_bytes != entry.end - entry.begin:
                raise ValueError(
                    f"tensor {entry.name!r} has {entry.end - entry.begin} bytes, but its blocks have {written_bytes}"
                )
        with _as_output_error(path):
            _sync(file.fileno())


def _write_all(file: Any, data: bytes | memoryview) -> None:
    """Write all of the data: a raw file may take less at once (2 GB on Linux)."""
    unwritten = memoryview(data)
    while unwritten:
        unwritten = unwritten[file.write(unwritten) :]


def _publish(folder: Path, partials: list[Path]) -> list[Path]:
    """Give complete files their names, the one a reader opens last, and remove those of the model before."""
    files = [partial.with_name(partial.name.removesuffix(PARTIAL_SUFFIX)) for partial in partials]
    stale = {folder / SINGLE_NAME, folder / INDEX_NAME, *folder.glob(SHARD_PATTERN)} - set(files)
    if len(files) > 1:
        # New shards may have the names of old ones: no index may point at them until all are there.
        for entry_point in (folder / SINGLE_NAME, folder / INDEX_NAME):
            entry_point.unlink(missing_ok=True)
        _sync_folder(folder)
    for partial, file in zip(partials, files, strict=True):
        os.replace(partial, file)
    _sync_folder(folder)
    for path in stale:
        path.unlink(missing_ok=True)
    return files


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """Bring renames to the disk, on systems where a folder can be opened for that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}): "
            f"check that the folder may be written to and that its disk has room"
        ) from error


def _open_model(folder: Path) -> list[tuple[dict[str, np.ndarray], dict[str, str]]]:
    """Tensors and metadata of each file of a model, checked against the index where there is one."""
    if (folder / SINGLE_NAME).exists():
        return [_open_file(folder / SINGLE_NAME)]
    index = folder / INDEX_NAME
    if not index.exists():
        raise ModelError(f"{folder}: holds no model (neither {SINGLE_NAME} nor {INDEX_NAME})")
    expected: dict[str, set[str]] = {}
    for tensor, shard in _read_weight_map(index).items():
        expected.setdefault(shard, set()).add(tensor)
    opened = []
    for shard, names in sorted(expected.items()):
        tensors, metadata = _open_file(folder / shard)
        if set(tensors) != names:
            odd = min(set(tensors) ^ names)
            where = "is in the file, but not" if odd in tensors else "is not in the file, but"
            raise ModelError(f"{folder / shard}: tensor {odd!r} {where} in {INDEX_NAME}")
        opened.append((tensors, metadata))
    return opened


def _read_weight_map(index: Path) -> dict[str, str]:
    """The file name of each tensor. Raises ModelError."""
    try:
        weight_map = json.loads(index.read_bytes().decode("utf-8"))["weight_map"]
        names = set(weight_map.values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: cannot be read as an index with a weight_map ({error!r})") from error
    if not names:
        raise ModelError(f"{index}: names no tensor")
    for name in names:
        # A plain name: an index that came from elsewhere must not lead out of the folder.
        if not isinstance(name, str) or name != Path(name).name or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: {name!r} is not the name of a safetensors file in its folder")
    return weight_map


def _open_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Map one file. Raises ModelError."""
    try:
        with open(path, "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes < LENGTH_BYTES:
                raise HeaderError(f"it has {size_bytes} bytes")
            data = mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_READ)
        header_bytes = int.from_bytes(data[:LENGTH_BYTES], "little")
        start = LENGTH_BYTES + header_bytes
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
    return tensors, metadata
