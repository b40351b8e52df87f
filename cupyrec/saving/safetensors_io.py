"""Models as safetensors files: written as a stream, in shards, all or nothing; read without a copy.

A model below the limit of a shard is `model.safetensors`. A larger one is `model-00001-of-00003.safetensors` and so
on, with `model.safetensors.index.json` that names the file of each tensor: Hugging Face's convention.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cupyrec.datasets.durable_files import make_folders, output_errors, sync_file, sync_folder
from cupyrec.errors import ModelError
from cupyrec.saving.safetensors_file import TensorSource, open_file, size_bytes_of, write_file
from cupyrec.saving.safetensors_header import NAMES

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
# Whatever files the weights of a model are in.
WEIGHTS_FILES = (SINGLE_NAME, INDEX_NAME, "model-?????-of-?????.safetensors")
PARTIAL_SUFFIX = ".partial"
# What is left of a writing that was killed.
PARTIAL_FILES = f"model*.safetensors*{PARTIAL_SUFFIX}"


def write_sharded(
    folder: Path,
    tensors: Mapping[str, TensorSource],
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> list[Path]:
    """Write a model into a folder, which is made if need be; return its files, the one to be opened first last.

    metadata:        strings kept in every file, beside its checksum.
    max_shard_bytes: data bytes of a file. A tensor is never split: a larger one has a file to itself.

    All files are written under other names and reach the disk before the first is renamed: a reader sees the old
    model, or none for a moment (where the new one has shards), or the new one. Files of the old model that are not
    overwritten are removed. When anything fails before the renaming, the old model stays and nothing is left behind.
    Raises OutputError when the folder cannot be written or is full; TypeError, ValueError on an unusable tensor.
    """
    shards = plan_shards(tensors, max_shard_bytes)
    names = [SINGLE_NAME]
    if len(shards) > 1:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    partials = [folder / (name + PARTIAL_SUFFIX) for name in names]
    try:
        with output_errors(folder):
            make_folders(folder)
            for leftover in folder.glob(PARTIAL_FILES):
                leftover.unlink()  # as large as a model, perhaps
        for partial, shard in zip(partials, shards, strict=True):
            write_file(partial, {name: tensors[name] for name in shard}, metadata or {}, own_checksum=True)
        if len(shards) > 1:
            weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
            total_bytes = sum(size_bytes_of(source) for source in tensors.values())
            index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
            partials.append(folder / (INDEX_NAME + PARTIAL_SUFFIX))
            with output_errors(partials[-1]):
                partials[-1].write_bytes(json.dumps(index, indent=2).encode())
                sync_file(partials[-1])
        with output_errors(folder):
            return _publish(folder, partials)
    finally:
        for partial in partials:
            with contextlib.suppress(OSError):
                partial.unlink()


def open_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of the model in a folder by name: memory-mapped, read-only, nothing is read before it is used.

    folder: or one safetensors file. Raises ModelError that names the file and says what is wrong with it.
    """
    return {name: tensor for tensors, _ in _open_model(folder) for name, tensor in tensors.items()}


def read_metadata(folder: Path) -> dict[str, str]:
    """The metadata of the model in a folder. Raises ModelError as open_tensors does."""
    return {key: value for _, metadata in _open_model(folder) for key, value in metadata.items()}


def weights_files(folder: Path) -> list[Path]:
    """The files that have the tensors of the model in a folder. folder: as open_tensors. Raises ModelError."""
    return list(_tensor_names(folder))


def plan_shards(tensors: Mapping[str, TensorSource], max_shard_bytes: int) -> list[list[str]]:
    """Names of the tensors of each file: as many as fit, in the order given. Within a file, wide elements come first:
    then each tensor lies at a multiple of its element.
    """
    shards: list[list[str]] = [[]]
    filled_bytes = 0
    for name, source in tensors.items():
        if name == "__metadata__" or np.dtype(source.dtype).newbyteorder("<") not in NAMES:
            raise TypeError(f"tensor {name!r} of dtype {source.dtype} cannot be kept in a safetensors file")
        if shards[-1] and filled_bytes + size_bytes_of(source) > max_shard_bytes:
            shards.append([])
            filled_bytes = 0
        shards[-1].append(name)
        filled_bytes += size_bytes_of(source)
    return [sorted(shard, key=lambda name: -tensors[name].dtype.itemsize) for shard in shards]


def _publish(folder: Path, partials: list[Path]) -> list[Path]:
    """Give complete files their names, the one a reader opens last, and remove those of the model before."""
    files = [partial.with_name(partial.name.removesuffix(PARTIAL_SUFFIX)) for partial in partials]
    stale = {file for pattern in WEIGHTS_FILES for file in folder.glob(pattern)} - set(files)
    if len(files) > 1:
        # New shards may have the names of old ones: no index may point at them until all are there.
        for entry_point in (folder / SINGLE_NAME, folder / INDEX_NAME):
            entry_point.unlink(missing_ok=True)
        sync_folder(folder)
    for partial, file in zip(partials, files, strict=True):
        os.replace(partial, file)
    sync_folder(folder)
    for path in stale:
        path.unlink(missing_ok=True)
    return files


def _open_model(folder: Path) -> list[tuple[dict[str, np.ndarray], dict[str, str]]]:
    """Tensors and metadata of each file of a model, checked against the index where there is one."""
    opened = []
    for file, names in _tensor_names(folder).items():
        tensors, metadata = open_file(file)
        if names is not None and set(tensors) != names:
            odd = min(set(tensors) ^ names)
            where = "is in the file, but not" if odd in tensors else "is not in the file, but"
            raise ModelError(f"{file}: tensor {odd!r} {where} in {INDEX_NAME}")
        opened.append((tensors, metadata))
    return opened


def _tensor_names(folder: Path) -> dict[Path, set[str] | None]:
    """The files of a model, and the tensors that the index, where there is one, has in each. Raises ModelError."""
    if folder.is_file():
        return {folder: None}
    if (folder / SINGLE_NAME).exists():
        return {folder / SINGLE_NAME: None}
    index = folder / INDEX_NAME
    if not index.exists():
        raise ModelError(f"{folder}: holds no model (neither {SINGLE_NAME} nor {INDEX_NAME})")
    names: dict[str, set[str]] = {}
    for tensor, shard in _read_weight_map(index).items():
        names.setdefault(shard, set()).add(tensor)
    return {folder / shard: names[shard] for shard in sorted(names)}


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
