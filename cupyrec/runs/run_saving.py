"""How a run's model is saved: at its end, where it was stopped, and when an error ends it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from cupyrec.counted import counted
from cupyrec.errors import CupyrecError, DataError
from cupyrec.runs.run_records import RunRecords, describe
from cupyrec.saving.open_model import open_model
from cupyrec.saving.run_folder import RunFolder
from cupyrec.saving.saved_model import write_model
from cupyrec.training.trainer import Trainer


def step_to_save(trainer: Trainer, which: str) -> int:
    """The step of which the model is to be saved. which: last or best; without an evaluation the last is the best."""
    best = trainer.state.best
    return trainer.system.steps_done if which == "last" or best is None else best.step


def save(trainer: Trainer, folder: RunFolder, training: dict[str, Any], *, step: int, ended: bool) -> Path:
    """Save the model; where it is. training: facts to be kept with it.

    step: of the weights; there is a checkpoint of it, or it is the last. ended: whether the run came to its end, and
    takes the place of an earlier one. Raises CupyrecError.
    """
    folder.write_config()
    place = folder.model_place(ended=ended)
    facts = {**training, "model_step": step, "device": trainer.device.description, "threads": trainer.threads}
    if step == trainer.system.steps_done:
        trainer.write_model(place, facts)
    else:
        best = open_model(folder.checkpoints.place(step))
        write_model(place, best.config, best.tensors, steps=step, training=facts)
    if place == folder.path:
        folder.replace_earlier()
    return place


def rescue(
    trainer: Trainer, folder: RunFolder, records: RunRecords, facts: dict[str, Any], error: Exception, which: str
) -> str:
    """Save the steps trained before an error, and say how that went. which: as step_to_save."""
    done = trainer.system.steps_done
    steps, are = f"the {counted(done, 'step')} trained before", "is" if done == 1 else "are"
    try:
        step = step_to_save(trainer, which)
        place = save(trainer, folder, {**facts, "stopped_by": describe(error)}, step=step, ended=False)
    except CupyrecError as failure:
        whole = folder.checkpoints.steps()
        goes_on = f"; the checkpoint of step {whole[-1]:,} is whole: go on with --resume" if whole else ""
        return f"{steps} could not be saved: {failure}{goes_on}"
    # The model is whole; a full disk may still want room for a line.
    with contextlib.suppress(CupyrecError):
        records.stopped(error, step)
    stays = "" if place == folder.path else f"; the earlier run in {folder.path} stays as it was"
    if step < done:
        return f"of {steps} the best, after step {step:,}, is saved in {place}{stays}"
    return f"{steps} {are} saved in {place}{stays}"


def with_note(error: CupyrecError, note: str) -> CupyrecError:
    """The same error with a note at the end of its message."""
    if isinstance(error, DataError):
        return DataError(f"{error.reason} ({note})", path=error.path, line=error.line, column=error.column)
    return type(error)(f"{error} ({note})")
