"""A model on disk, opened without loading it: what it is, and its weights mapped into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cupyrec.config import DlrmConfig
from cupyrec.errors import ModelError
from cupyrec.evaluation.data_encoding import model_encoding
from cupyrec.functions.dot_interaction import interaction_width
from cupyrec.saving.checkpoint import CHECKPOINT_FILE, read_checkpoint
from cupyrec.saving.checkpoint_folder import newest_checkpoint
from cupyrec.saving.safetensors_checksum import check_checksums
from cupyrec.saving.safetensors_file import ArraySource, TensorSource
from cupyrec.saving.safetensors_io import open_tensors, weights_files
from cupyrec.saving.saved_model import DESCRIPTION_FILE, read_model


@dataclass(frozen=True)
class OpenedModel:
    """config: the shape; description: the whole of model.json, or of a checkpoint; steps: trained so far.

    encoding:  that of the data it was trained with, None where nobody knows; see data_encoding.
    tensors:   all weights by the names of a saved model, in its order; float32, read from the files when they are used.
    optimizer: of a checkpoint, its name and settings; None of a model.
    state:     what the optimizer remembers, see Checkpoint.tensors; not checked. Empty of a model.
    """

    config: DlrmConfig
    description: dict[str, Any]
    steps: int
    encoding: str | None
    tensors: dict[str, TensorSource]
    optimizer: dict[str, Any] | None = None
    state: dict[str, TensorSource] = field(default_factory=dict)


def open_model(path: str | Path, *, compare_checksums: bool = True) -> OpenedModel:
    """Open the folder of a saved model, or of one checkpoint. compare_checksums: read all of it, and compare them.

    Raises ModelError that says what is missing, damaged or does not fit.
    """
    folder = Path(path)
    _check_no_file(folder)
    optimizer: dict[str, Any] | None = None
    state: dict[str, TensorSource] = {}
    if (folder / CHECKPOINT_FILE).exists():
        checkpoint = read_checkpoint(folder)
        if compare_checksums:
            checkpoint.check()
        config, (tensors, state) = checkpoint.config, checkpoint.tensors()
        optimizer = checkpoint.content["optimizer"]
        description = {"steps": checkpoint.steps, "training": checkpoint.content}
    else:
        _check_not_of_checkpoints(folder)
        config, description = read_model(folder)
        tensors = {name: ArraySource(tensor) for name, tensor in open_tensors(folder).items()}
        if compare_checksums:
            check_checksums(weights_files(folder))
    steps = description["steps"]
    if type(steps) is not int or steps < 0:
        raise ModelError(f"{folder}: the description of the model is damaged: steps is {steps!r}")
    encoding = model_encoding(config, description, folder)
    checked = checked_tensors(tensors, config, folder)
    return OpenedModel(config, description, steps, encoding, checked, optimizer, state)


def _check_no_file(path: Path) -> None:
    """Raise ModelError where a file of a model is named in place of its folder."""
    if path.is_file() and any((path.parent / name).exists() for name in (DESCRIPTION_FILE, CHECKPOINT_FILE)):
        raise ModelError(f"{path}: a file; name the folder of the model, {path.parent}")


def _check_not_of_checkpoints(folder: Path) -> None:
    """Raise ModelError where the folder holds checkpoints in place of a model."""
    if (folder / DESCRIPTION_FILE).exists():
        return
    checkpoint = newest_checkpoint(folder)
    if checkpoint is not None:
        raise ModelError(f"{folder}: holds no model, but checkpoints; name one of them, such as {checkpoint}")


def tensor_shapes(config: DlrmConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of a model, by the names and in the order of a saved model."""
    shapes: dict[str, tuple[int, ...]] = {
        f"embedding.{table}.weight": (rows, config.dimension) for table, rows in enumerate(config.table_rows)
    }
    width = interaction_width(config.features, config.dimension, self_interaction=config.self_interaction)
    for part, widths in (("bottom", (config.dense_features, *config.bottom)), ("top", (width, *config.top))):
        for layer, (inputs, outputs) in enumerate(pairwise(widths)):
            shapes[f"{part}.{layer}.weight"] = (outputs, inputs)
            shapes[f"{part}.{layer}.bias"] = (outputs,)
    return shapes


def checked_tensors(tensors: Mapping[str, TensorSource], config: DlrmConfig, where: Path) -> dict[str, TensorSource]:
    """The weights of a model among some tensors, in their order. Raises ModelError on the first that does not fit."""
    for name, shape in tensor_shapes(config).items():
        if name not in tensors:
            raise ModelError(f"{where}: tensor {name} is missing")
        if tensors[name].shape != shape or tensors[name].dtype != np.float32:
            raise ModelError(
                f"{where}: tensor {name} is {tensors[name].shape} {tensors[name].dtype}, "
                f"but {shape} float32 was expected"
            )
    return {name: tensors[name] for name in tensor_shapes(config)}
