"""What a checkpoint holds, and a folder of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cupyrec.errors import ModelError
from cupyrec.saving.checkpoint import CHECKPOINT_FILE, Checkpoint, read_checkpoint
from cupyrec.saving.checkpoint_folder import CheckpointFolder
from cupyrec.saving.finite_weights import check_finite
from cupyrec.saving.open_model import checked_tensors

Watch = Callable[[float], None]


def checkpoint_facts(folder: Path, verify: bool, watch: Watch) -> dict[str, Any]:
    """Of checkpoint.json; all files are there and as long as they were.

    verify: read them, compare checksums and look for weights that are not finite. Raises ModelError.
    """
    checkpoint = read_checkpoint(folder)
    if verify:
        checkpoint.check()
        tensors = checked_tensors(checkpoint.tensors()[0], checkpoint.config, folder)
        check_finite(tensors, folder, watch)
    return _facts(checkpoint)


def checkpoints_facts(folder: Path, verify: bool, watch: Watch) -> dict[str, Any]:
    """Of all checkpoints in a folder, by their steps; no facts but an empty list where the folder is not there.

    One that is damaged is listed with what is wrong, or, to verify, ModelError is raised.
    """
    found: list[dict[str, Any]] = []
    places = sorted(path.parent for path in folder.glob(f"[!.]*/{CHECKPOINT_FILE}"))
    for number, place in enumerate(places):

        def watch_part(share: float, number: int = number) -> None:
            watch((number + share) / len(places))

        try:
            found.append({"name": place.name, **checkpoint_facts(place, verify, watch_part)})
        except ModelError as error:
            if verify:
                raise
            found.append({"name": place.name, "damage": str(error)})
    return {"checkpoints": found}


def is_checkpoints(folder: Path) -> bool:
    """Whether a folder holds checkpoints."""
    return CheckpointFolder(folder).newest is not None


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    content, state = checkpoint.content, checkpoint.state
    best = state.best
    return {
        "steps": checkpoint.steps,
        "samples": state.samples,
        "seconds": state.seconds,
        "position": asdict(state.position),
        "best_evaluation": None if best is None else {"step": best.step, **best.metrics.as_dict()},
        "optimizer": content["optimizer"],
        "shape": asdict(checkpoint.config),
        "encoding": content.get("encoding"),
        "files": {name: file["bytes"] for name, file in content["files"].items()},
        "file_bytes": sum(file["bytes"] for file in content["files"].values()),
    }
