"""Models for other programs, and from them: safetensors with the names of the DLRM reference."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cupyrec import __version__
from cupyrec.byte_sizes import format_bytes
from cupyrec.config import DlrmConfig
from cupyrec.datasets.durable_files import free_bytes, make_folders
from cupyrec.errors import ConfigError, ModelError, OutputError
from cupyrec.folder_lock import FolderLock
from cupyrec.saving.checkpoint import CHECKPOINT_FILE
from cupyrec.saving.open_model import open_model, tensor_shapes
from cupyrec.saving.reference_names import infer_config, reference_name
from cupyrec.saving.safetensors_checksum import check_checksums
from cupyrec.saving.safetensors_file import ArraySource
from cupyrec.saving.safetensors_io import (
    PARTIAL_FILES,
    WEIGHTS_FILES,
    open_tensors,
    read_metadata,
    weights_files,
    write_sharded,
)
from cupyrec.saving.saved_model import DESCRIPTION_FILE, MAX_SHARD_BYTES, model_bytes, write_model

# What others that read safetensors look for: the tensors are laid out as PyTorch's are.
TENSOR_FORMAT = "pt"
ARCHITECTURE = "DLRM_Net"


def export_model(
    path: str | Path, output: str | Path, *, overwrite: bool = False, max_shard_bytes: int = MAX_SHARD_BYTES
) -> list[Path]:
    """Write the weights of a model, or of a checkpoint, with the names of the DLRM reference; return the files.

    Metadata: `arch_interaction_itself`, `pooling`, `steps` and, where it is known, `encoding`. Tables are streamed from
    file to file: memory does not grow with them. Raises ModelError, and OutputError where output cannot be written.
    """
    opened = open_model(path)
    _check_output(Path(output), Path(path), WEIGHTS_FILES, model_bytes(opened.config), overwrite=overwrite)
    metadata = {
        "format": TENSOR_FORMAT,
        "architecture": ARCHITECTURE,
        "arch_interaction_op": "dot",
        "arch_interaction_itself": str(opened.config.self_interaction),
        "pooling": opened.config.pooling,
        "steps": str(opened.steps),
        "cupyrec": __version__,
    }
    if opened.encoding is not None:
        metadata["encoding"] = opened.encoding
    sources = {reference_name(name): tensor for name, tensor in opened.tensors.items()}
    with _locked(Path(output)):
        return write_sharded(Path(output), sources, metadata, max_shard_bytes)


def import_model(
    path: str | Path,
    output: str | Path,
    *,
    pooling: str | None = None,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> DlrmConfig:
    """Make a cupyrec model of weights with the names of the DLRM reference; return its shape.

    path: a folder with model.safetensors or an index of shards, or one safetensors file. pooling: None takes what the
    metadata say, else sum, as the reference does. Streams as export_model. Raises ModelError that names the tensor that
    does not fit, ConfigError where pooling contradicts the metadata, and OutputError.
    """
    if not Path(path).exists():
        raise ModelError(f"{path}: no such file or folder")
    if (Path(path) / CHECKPOINT_FILE).exists():
        raise ModelError(f"{path}: a checkpoint of cupyrec's: evaluate, predict and export take it as it is")
    tensors, metadata = open_tensors(Path(path)), read_metadata(Path(path))
    check_checksums(weights_files(Path(path)))
    known = metadata.get("pooling")
    if pooling is not None and known is not None and pooling != known:
        raise ConfigError(f"{path}: the model was trained with --pooling {known}; leave the option out")
    config = infer_config(tensors, pooling or known or "sum", where=path)
    replaced = (*WEIGHTS_FILES, DESCRIPTION_FILE)
    _check_output(Path(output), Path(path), replaced, model_bytes(config), overwrite=overwrite)
    steps = metadata.get("steps", "")
    training: dict[str, Any] = {"imported_from": str(path), "encoding": metadata.get("encoding")}
    with _locked(Path(output)):
        write_model(
            output,
            config,
            {name: ArraySource(tensors[reference_name(name)]) for name in tensor_shapes(config)},
            # Of another program's weights nobody knows.
            steps=int(steps) if steps.isascii() and steps.isdigit() and len(steps) < 19 else 0,
            training=training,
            max_shard_bytes=max_shard_bytes,
        )
    return config


def _locked(output: Path) -> FolderLock:
    """The lock of the folder, which is made if need be. Raises OutputError."""
    try:
        make_folders(output)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}; choose another --output") from None
    return FolderLock(output)


def _check_output(output: Path, path: Path, replaced: Sequence[str], size_bytes: int, *, overwrite: bool) -> None:
    """Make sure that nothing is replaced but an earlier output of the same kind, and that there is room.

    replaced: patterns of the files that may be. Raises OutputError.
    """
    try:
        if output.resolve() in (path.resolve(), path.resolve().parent if path.is_file() else path.resolve()):
            raise OutputError(f"{output}: holds the model that is read; choose another --output")
        present = sorted(file.name for file in output.iterdir()) if output.exists() else []
        mine = {file.name for pattern in replaced for file in output.glob(pattern)}
        # Those that begin with a dot are locks; partial ones are removed by who writes next.
        others = [
            name
            for name in present
            if name not in mine and not name.startswith(".") and not fnmatch(name, PARTIAL_FILES)
        ]
        if others:
            raise OutputError(f"{output}: holds {others[0]}; choose a new or empty folder with --output")
        if mine and not overwrite:
            raise OutputError(f"{output}: holds a model; choose another --output, or replace it with --overwrite")
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}; choose another --output") from None
    free = free_bytes(output)
    if size_bytes > free:
        raise OutputError(
            f"{output}: the model takes {format_bytes(size_bytes)}, but {format_bytes(free)} are free on this "
            "disk; make room, or choose another --output"
        )
