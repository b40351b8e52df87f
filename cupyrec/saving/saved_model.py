"""A trained model on disk: `model.safetensors` (in shards when large) and `model.json`, which says what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cupyrec import __version__
from cupyrec.config import DlrmConfig
from cupyrec.datasets.durable_files import durable_file, make_folders, sync_file
from cupyrec.datasets.prepared.manifest import MANIFEST_FILE
from cupyrec.datasets.prepared.splits import SPLIT_SUFFIX
from cupyrec.embedding.host_table import HostTable
from cupyrec.errors import ModelError
from cupyrec.models.dlrm import Dlrm, dense_parameters
from cupyrec.saving.safetensors_file import ArraySource, TensorSource
from cupyrec.saving.safetensors_io import (
    INDEX_NAME,
    SINGLE_NAME,
    read_metadata,
    write_sharded,
)

DESCRIPTION_FILE = "model.json"
FORMAT, FORMAT_VERSION = "cupyrec-model", 1
MAX_SHARD_BYTES = 4_000_000_000
WEIGHT_BYTES = 4  # float32


def save_model(
    folder: str | Path,
    model: Dlrm,
    table: HostTable,
    *,
    steps: int,
    training: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write weights (no optimizer state) and description. Where writing fails the old model stays whole; a reader that
    comes just when the new files get their names may be told that they do not belong together.

    Tensors: `embedding.F.weight` (rows, D), and `bottom.L.weight` (out, in), `bottom.L.bias` (out,), `top...` alike.
    training: JSON-safe facts about the run, kept with the model. Tables are streamed: memory does not grow with them.
    Raises OutputError when the folder cannot be written.
    """
    tensors = model_tensors(model, table)
    sources = {name: ArraySource(_on_host(array, model)) for name, array in tensors.items()}
    write_model(folder, model.config, sources, steps=steps, training=training, max_shard_bytes=max_shard_bytes)


def write_model(
    folder: str | Path,
    model_config: DlrmConfig,
    sources: Mapping[str, TensorSource],
    *,
    steps: int,
    training: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a model whose weights come from anywhere; see save_model. sources: the tensors by their names there."""
    folder = Path(folder)
    config = asdict(model_config)
    identity = {"format": FORMAT, "model": json.dumps(config), "steps": str(steps)}
    description = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "cupyrec": __version__,
        "model": config,
        "steps": steps,
        "training": dict(training or {}),
    }
    with durable_file(folder / DESCRIPTION_FILE) as partial:
        make_folders(folder)
        partial.write_bytes((json.dumps(description, indent=2) + "\n").encode())
        sync_file(partial)  # there is room for it, before the old weights go
        write_sharded(folder, sources, identity, max_shard_bytes)


def read_model(folder: str | Path) -> tuple[DlrmConfig, dict[str, Any]]:
    """The shape of a saved model and the whole of its model.json.

    Raises ModelError that says which file is missing, damaged or of another kind.
    """
    folder = Path(folder)
    description = _read_description(folder)
    try:
        config = DlrmConfig(**description["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / DESCRIPTION_FILE}: the description of the model is damaged: {error}") from None
    metadata = read_metadata(folder)
    if metadata.get("model") != json.dumps(asdict(config)) or metadata.get("steps") != str(description.get("steps")):
        raise ModelError(f"{folder}: {DESCRIPTION_FILE} and the tensors beside it are not of the same model")
    return config, description


def _what_else(folder: Path) -> str:
    """What a folder that holds no model is, and what to do with that."""
    if (folder / MANIFEST_FILE).exists() or folder.suffix == SPLIT_SUFFIX:
        return "; these are prepared data: the model is named first, then the data"
    if (folder / SINGLE_NAME).exists() or (folder / INDEX_NAME).exists():
        return "; weights from elsewhere become a model with `cupyrec import`"
    return ""


def model_bytes(config: DlrmConfig) -> int:
    """The bytes of all weights of a model, which is what its files take but for their headers."""
    return WEIGHT_BYTES * (sum(config.table_rows) * config.dimension + dense_parameters(config))


def model_tensors(model: Dlrm, table: HostTable) -> dict[str, Any]:
    """All weights by the names they have in the file: views, those of the model where the model is."""
    tensors: dict[str, Any] = {f"embedding.{t}.weight": table.weights_of(t) for t in range(len(table.table_rows))}
    for part, mlp in (("bottom", model.bottom), ("top", model.top)):
        for layer, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
            tensors[f"{part}.{layer}.weight"] = weight
            tensors[f"{part}.{layer}.bias"] = bias
    return tensors


def _on_host(array: Any, model: Dlrm) -> np.ndarray:
    """A weight that may be on the model's device. Those are the small ones: tables are on the host."""
    return array if isinstance(array, np.ndarray) else model.device.download(array)


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"{folder}: holds no cupyrec model: {DESCRIPTION_FILE}: {error.strerror}{_what_else(folder)}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: damaged: {error}") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ModelError(f"{path}: not a cupyrec model")
    if description.get("version") != FORMAT_VERSION:
        raise ModelError(
            f"{path}: format version {description.get('version')!r}, but this cupyrec reads {FORMAT_VERSION}"
        )
    return description
