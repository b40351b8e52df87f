"""What a run adds to its checkpoints, and how it goes on from one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cupyrec.datasets.source import Source
from cupyrec.errors import ConfigError, ModelError
from cupyrec.run_config import RunConfig, read_config_file
from cupyrec.runs.data_fingerprint import check_same_files, fingerprint
from cupyrec.runs.resume import check_resumed, find_checkpoint, with_older
from cupyrec.runs.run_data import RunData, bad_rows_files
from cupyrec.runs.run_records import RunRecords
from cupyrec.saving.checkpoint import Checkpoint
from cupyrec.saving.run_folder import BAD_ROWS_FILES, CONFIG_FILE, RunFolder
from cupyrec.saving.training_state import TrainingState
from cupyrec.systems.static import StaticSystem
from cupyrec.training.trainer import Trainer


def wants_to_resume(config: RunConfig) -> bool:
    """Whether a run is to go on from a checkpoint. Raises ConfigError on options that do not go together."""
    resumes, name = config.resumes, config.resume_option
    if resumes and config.overwrite:
        raise ConfigError(f"{name} goes on with a run and --overwrite begins another in its place; give one of them")
    if config.output is None and (resumes or config.checkpoint_every):
        name = name if resumes else "--checkpoint-every"
        raise ConfigError(f"{name} needs a folder for the checkpoints: name it with --output")
    return resumes


def choose_checkpoint(config: RunConfig, folder: RunFolder, say: Callable[[str], None]) -> Checkpoint | None:
    """That from which a run goes on, None where it begins. Raises ConfigError, ModelError."""
    checkpoint = find_checkpoint(folder.checkpoints, config.resume_step)
    if checkpoint is None:
        say(f"{folder.path} holds no checkpoint to go on from: training begins anew")
        return None
    notes = check_resumed(config, checkpoint)
    best = checkpoint.state.best
    if config.save == "best" and best is not None and best.step not in folder.checkpoints.steps():
        raise ConfigError(
            f"--save best: the best evaluation so far was after step {best.step:,}, of which {folder.checkpoints.path} "
            "holds no checkpoint; go on with --save last"
        )
    say(f"going on from {checkpoint.folder}")
    for note in notes:
        say(note)
    return checkpoint


class RunCheckpoints:
    """The data of a run, and what its checkpoints say of them and of the records."""

    def __init__(self, config: RunConfig, train: Source, valid: Source | None) -> None:
        sources = {"training": train, "validation": valid}
        self._files: dict[str, Sequence[Path]] = {what: _telling_files(source) for what, source in sources.items()}
        if config.system == StaticSystem.name and config.row_counts is not None:
            # They choose the rows that are summed apart.
            self._files["row counts"] = (Path(config.row_counts),)

    def check_same_data(self, checkpoint: Checkpoint) -> None:
        """Raise DataError when the data are others than when a checkpoint was made."""
        for what, files in self._files.items():
            check_same_files(files, checkpoint.content["data"].get(what, ()), what)

    def describe(
        self, config_toml: str, data: RunData, records: RunRecords, folder: RunFolder
    ) -> Callable[[], dict[str, Any]]:
        """See Checkpoints. config_toml: of config_to_keep."""
        files = {what: fingerprint(files) for what, files in self._files.items()}
        written = [str(path) for path in data.written]

        def describe() -> dict[str, Any]:
            now = {"records": records.state(), "metrics_bytes": folder.metrics_bytes()}
            return {"config": config_toml, **data.facts, "data": files, "written": written, **now}

        return describe


def written_before(folder: RunFolder, checkpoint: Checkpoint | None) -> set[Path]:
    """Absolute: the files for bad rows and traces that a run wrote before it was stopped, as far as it is known."""
    written = {(folder.path / name).absolute() for name in BAD_ROWS_FILES}
    if checkpoint is not None:
        return written | {Path(path) for path in checkpoint.content.get("written", ())}
    with contextlib.suppress(ConfigError):
        bad_rows = RunConfig.from_values(read_config_file(folder.place(CONFIG_FILE))).bad_rows
        if bad_rows is not None:
            written |= {path.absolute() for path in bad_rows_files(Path(bad_rows))}
    return written


def _telling_files(source: Source | None) -> Sequence[Path]:
    """The files by which data are known again; of prepared data those that tell of the others."""
    files: Sequence[Path] = getattr(source, "files", ())
    return getattr(source, "telling_files", files)


def load_checkpoint(trainer: Trainer, checkpoint: Checkpoint, folder: RunFolder) -> TrainingState:
    """Let a trainer go on from a checkpoint. Raises ModelError, with what else could be taken."""
    try:
        return trainer.load_checkpoint(checkpoint.folder)
    except ModelError as error:
        raise with_older(error, folder.checkpoints, checkpoint.steps) from None
