"""What a path holds: a run, a model, an exported model, a checkpoint or prepared data, as facts for JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cupyrec.config import DlrmConfig
from cupyrec.datasets.prepared.manifest import MANIFEST_FILE, UNFINISHED
from cupyrec.datasets.preparing.output_folder import WORK_FOLDER
from cupyrec.errors import DataError, ModelError
from cupyrec.inspection.inspect_checkpoints import checkpoint_facts, checkpoints_facts, is_checkpoints
from cupyrec.inspection.inspect_prepared import prepared_facts, split_facts
from cupyrec.inspection.inspect_run import run_facts
from cupyrec.models.dlrm import dense_parameters
from cupyrec.saving.checkpoint import CHECKPOINT_FILE
from cupyrec.saving.checkpoint_folder import CHECKPOINTS_FOLDER
from cupyrec.saving.finite_weights import check_finite
from cupyrec.saving.open_model import OpenedModel, open_model
from cupyrec.saving.reference_names import are_own_names, are_reference_names, infer_config
from cupyrec.saving.run_folder import CONFIG_FILE, METRICS_FILE, UNSAVED
from cupyrec.saving.safetensors_checksum import check_checksums
from cupyrec.saving.safetensors_file import ArraySource, TensorSource
from cupyrec.saving.safetensors_io import (
    INDEX_NAME,
    SINGLE_NAME,
    open_tensors,
    read_metadata,
    weights_files,
)
from cupyrec.saving.saved_model import DESCRIPTION_FILE, model_bytes

Watch = Callable[[float], None]


def inspect_path(path: str | Path, *, verify: bool = False, on_progress: Watch | None = None) -> dict[str, Any]:
    """The facts; `kind` says which others there are: run, model, exported model, checkpoint, checkpoints, prepared data
    or split.

    verify: read everything, compare checksums and look for weights that are not finite; on_progress is told the share
    done, 0 to 1. Raises ModelError or DataError on the first damage, and where the path holds nothing of cupyrec's.
    """
    place, watch = Path(path), on_progress or _ignore
    if not place.exists():
        raise ModelError(f"{path}: no such file or folder")
    kind, facts = _facts(place, verify, watch)
    return {"kind": kind, "path": str(path), **facts, "verified": verify}


def _facts(place: Path, verify: bool, watch: Watch) -> tuple[str, dict[str, Any]]:
    if place.is_file():
        if place.name == MANIFEST_FILE:
            return "prepared data", prepared_facts(place.parent, verify, watch)
        if place.suffix == ".json" and (place.parent / MANIFEST_FILE).exists():
            return "split", split_facts(place, verify, watch)
        if place.suffix == ".safetensors":
            return "exported model", _exported_facts(place, verify, watch)
        raise ModelError(
            f"{place}: neither a .safetensors file nor a split file beside {MANIFEST_FILE}; name one, or a folder"
        )
    if (place / MANIFEST_FILE).exists():
        return "prepared data", prepared_facts(place, verify, watch)
    if (place / CHECKPOINT_FILE).exists():
        return "checkpoint", checkpoint_facts(place, verify, watch)
    if is_checkpoints(place):
        return "checkpoints", checkpoints_facts(place, verify, watch)
    has_model = (place / DESCRIPTION_FILE).exists()
    of_a_run = (CONFIG_FILE, METRICS_FILE, UNSAVED + CONFIG_FILE, UNSAVED + METRICS_FILE)
    if any((place / name).exists() for name in of_a_run) or is_checkpoints(place / CHECKPOINTS_FOLDER):
        return "run", {
            "model": _model_facts(place, verify, watch) if has_model else None,
            **run_facts(place),
            "checkpoints": checkpoints_facts(place / CHECKPOINTS_FOLDER, verify, watch)["checkpoints"],
        }
    if has_model:
        return "model", _model_facts(place, verify, watch)
    if (place / SINGLE_NAME).exists() or (place / INDEX_NAME).exists():
        return "exported model", _exported_facts(place, verify, watch)
    if (place / WORK_FOLDER).exists():
        raise DataError(UNFINISHED, path=place)
    raise ModelError(
        f"{place}: holds nothing that cupyrec makes: no {DESCRIPTION_FILE}, {CONFIG_FILE}, {METRICS_FILE}, "
        f"{SINGLE_NAME}, {CHECKPOINT_FILE} or {MANIFEST_FILE}"
    )


def _model_facts(place: Path, verify: bool, watch: Watch) -> dict[str, Any]:
    opened = open_model(place, compare_checksums=False)
    checksums = verify and _verify(place, opened.tensors, watch)
    return _shape_facts(opened.config) | _description_facts(opened, place) | {"checksums_compared": checksums}


def _description_facts(opened: OpenedModel, place: Path) -> dict[str, Any]:
    description = opened.description
    return {
        **_files_facts(place),
        "steps": opened.steps,
        "encoding": opened.encoding,
        "cupyrec": description.get("cupyrec"),
        "training": description.get("training"),
    }


def _exported_facts(place: Path, verify: bool, watch: Watch) -> dict[str, Any]:
    tensors, metadata = open_tensors(place), read_metadata(place)
    if are_own_names(tensors) and not are_reference_names(tensors):
        raise ModelError(
            f"{place}: the weights of a cupyrec model; name the folder that has its {DESCRIPTION_FILE} as well"
        )
    if not are_reference_names(tensors):
        raise ModelError(
            f"{place}: holds tensors, but not those of a DLRM: {next(iter(tensors), 'none')!r} is no name that "
            "`cupyrec export` writes"
        )
    config = infer_config(tensors, metadata.get("pooling", "sum"), where=place)
    sources = {name: ArraySource(tensor) for name, tensor in tensors.items()}
    return _shape_facts(config) | {
        **_files_facts(place),
        "metadata": metadata,
        "checksums_compared": verify and _verify(place, sources, watch),
    }


def _verify(place: Path, tensors: Mapping[str, TensorSource], watch: Watch) -> bool:
    """Compare the checksums of the weights, and look for some that are not finite. Returns whether all files of them
    have a checksum. Raises ModelError.
    """
    all_have = check_checksums(weights_files(place), lambda share: watch(share / 2))
    check_finite(tensors, place, lambda share: watch(0.5 + share / 2))
    return all_have


def _files_facts(place: Path) -> dict[str, Any]:
    files = weights_files(place)
    return {"file_bytes": sum(file.stat().st_size for file in files), "files": len(files)}


def _shape_facts(config: DlrmConfig) -> dict[str, Any]:
    dense = dense_parameters(config)
    return {
        "shape": asdict(config),
        "parameters": sum(config.table_rows) * config.dimension + dense,
        "dense_parameters": dense,
        "weight_bytes": model_bytes(config),
    }


def _ignore(share: float) -> None:
    """Nobody watches."""
