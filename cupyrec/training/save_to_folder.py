"""Where a trainer used as a library saves its model: never beside what belongs to another run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cupyrec.argument_kinds import check_paths
from cupyrec.datasets.prepared.manifest import MANIFEST_FILE
from cupyrec.errors import OutputError
from cupyrec.saving.checkpoint import CHECKPOINT_FILE
from cupyrec.saving.checkpoint_folder import CHECKPOINTS_FOLDER, CheckpointFolder
from cupyrec.saving.run_folder import RunFolder, run_files


def save_to_folder(
    path: str | Path, write: Callable[[Path], None], *, overwrite: bool, own_checkpoints: Path | None
) -> None:
    """Let `write` write a model to a folder that holds none, nor a run; or, with overwrite, in place of what is there.

    own_checkpoints: where the checkpoints of the same training are, None where there are none; they stay.
    What is replaced stays whole until the model is written. Raises OutputError, and what `write` raises.
    """
    check_paths(folder=path)
    if not str(path):
        raise OutputError("a folder is needed to save to, but its name is empty")
    folder = Path(path)
    if CheckpointFolder(folder).steps():
        raise OutputError(f"{folder}: holds checkpoints; choose another folder")
    for name in (MANIFEST_FILE, CHECKPOINT_FILE):
        if (folder / name).exists():
            kind = "prepared data" if name == MANIFEST_FILE else "a checkpoint"
            raise OutputError(f"{folder}: holds {kind} ({name}); choose another folder")
    checkpoints = CheckpointFolder(folder / CHECKPOINTS_FOLDER)
    goes_on = own_checkpoints is not None and own_checkpoints.resolve() == checkpoints.path.resolve()
    others = [] if goes_on or not checkpoints.steps() else [checkpoints.path]
    earlier = [*run_files(folder), *others]
    if earlier and not overwrite:
        raise OutputError(
            f"{folder}: holds an earlier model or run ({earlier[0].name}); choose another folder, or replace it with "
            "overwrite=True"
        )
    if not earlier or goes_on:
        write(folder)
        return
    with RunFolder(folder, overwrite=True) as run_folder:
        run_folder.begin("")
        write(folder)
        run_folder.replace_earlier()
