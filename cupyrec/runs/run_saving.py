"""How a run's model is saved: at its end, where it was stopped, and when an error ends it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from cupyrec.counted import counted
from cupyrec.errors import CupyrecError, DataError
from cupyrec.runs.run_records import RunRecords, describe
from cupyrec.saving.run_folder import RunFolder
from cupyrec.training.trainer import Trainer


def save(trainer: Trainer, folder: RunFolder, training: dict[str, Any], *, ended: bool) -> Path:
    """Save the model; where it is. training: facts to be kept with it.

    ended: whether the run came to its end, and takes the place of an earlier one. Raises CupyrecError.
    """
    folder.write_config()
    place = folder.model_place(ended=ended)
    device = {"device": trainer.device.description, "threads": trainer.threads}
    trainer.write_model(place, {**training, **device})
    if place == folder.path:
        folder.replace_earlier()
    return place


def rescue(trainer: Trainer, folder: RunFolder, records: RunRecords, facts: dict[str, Any], error: Exception) -> str:
    """Save the steps trained before an error, and say how that went."""
    done = trainer.system.steps_done
    steps, are = f"the {counted(done, 'step')} trained before", "is" if done == 1 else "are"
    try:
        place = save(trainer, folder, {**facts, "stopped_by": describe(error)}, ended=False)
    except CupyrecError as failure:
        return f"{steps} could not be saved: {failure}"
    # The model is whole; a full disk may still want room for a line.
    with contextlib.suppress(CupyrecError):
        records.stopped(error)
    stays = "" if place == folder.path else f"; the earlier run in {folder.path} stays as it was"
    return f"{steps} {are} saved in {place}{stays}"


def with_note(error: CupyrecError, note: str) -> CupyrecError:
    """The same error with a note at the end of its message."""
    if isinstance(error, DataError):
        return DataError(f"{error.reason} ({note})", path=error.path, line=error.line, column=error.column)
    return type(error)(f"{error} ({note})")
