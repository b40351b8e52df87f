"""What a run left in its folder: its options, how it went and how it ended."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cupyrec.errors import ConfigError, ModelError
from cupyrec.run_config import read_config_file
from cupyrec.saving.run_folder import BAD_ROWS_FILES, CONFIG_FILE, METRICS_FILE, UNSAVED


def run_facts(folder: Path) -> dict[str, Any]:
    """Of config.toml and metrics.jsonl. Raises ModelError where one of them is damaged.

    state: ended, interrupted, stopped (by an error), or unfinished: under way still, or killed.
    """
    config, metrics = _read_config(folder / CONFIG_FILE), _metrics_facts(folder / METRICS_FILE)
    return {
        "state": _state(metrics.get("end")),
        "config": config,
        "metrics": metrics,
        "bad_rows_files": [name for name in BAD_ROWS_FILES if (folder / name).exists()],
        # A later run that has not saved a model, or not yet.
        "unsaved": sorted(file.name for file in folder.glob(f"{UNSAVED}*")),
    }


def _read_config(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return dict(read_config_file(path))
    except ConfigError as error:
        raise ModelError(str(error)) from None


def _metrics_facts(path: Path) -> dict[str, Any]:
    """Counts of the lines, the last of each kind, and the best evaluation, as TrainingState.best. A last line that
    breaks off is left out: the run was killed while it was written.
    """
    last: dict[str, Any] = {}
    counts = {"train": 0, "evaluation": 0}
    first_loss, best = None, None
    for entry in _entries(path):
        kind = entry.get("kind")
        if kind == "train" and first_loss is None:
            first_loss = entry.get("loss")
        if kind == "evaluation" and (best is None or _auc(entry) >= _auc(best)):
            best = entry
        last[str(kind)] = entry
        if kind in counts:
            counts[kind] += 1
            # A run that went on after it had been interrupted.
            last.pop("end", None)
    return {
        "lines": counts,
        "first_loss": first_loss,
        "last_train": last.get("train"),
        "last_evaluation": last.get("evaluation"),
        "best_evaluation": best,
        "end": last.get("end"),
    }


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    entries = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not _is_whole(entry):
            raise ModelError(f"{path}, line {number}: damaged: not a line that a run writes")
        entries.append(entry)
    return entries


def _is_whole(entry: dict[str, Any]) -> bool:
    """Whether a line has what is told of it, and of the kind it should be."""
    needed: dict[str, tuple[type, ...]] = {}
    if entry.get("kind") == "train":
        needed = {"step": (int,), "loss": (int, float)}
    elif entry.get("kind") == "evaluation":
        needed = dict.fromkeys(("step", "samples"), (int,)) | dict.fromkeys(
            ("auc", "log_loss"), (int, float, type(None))
        )
    elif entry.get("kind") == "end" and "stopped_by" not in entry:
        needed = {"samples": (int,), "seconds": (int, float), "evaluation_seconds": (int, float), "system": (dict,)}
    return all(isinstance(entry.get(name), kinds) for name, kinds in needed.items())


def _auc(evaluation: dict[str, Any]) -> float:
    auc = evaluation.get("auc")
    return -math.inf if auc is None else auc


def _state(end: dict[str, Any] | None) -> str:
    if end is None:
        return "unfinished"
    if "stopped_by" in end:
        return "stopped"
    return "interrupted" if end.get("interrupted") else "ended"
