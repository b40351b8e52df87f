"""The folder that a run writes to: metrics.jsonl, config.toml, bad rows, checkpoints and the model."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from cupyrec.byte_sizes import format_bytes
from cupyrec.datasets.durable_files import (
    free_bytes,
    make_folders,
    output_errors,
    remove_unused,
    sync_folder,
    write_durably,
)
from cupyrec.datasets.prepared.manifest import MANIFEST_FILE
from cupyrec.datasets.preparing.output_folder import PREPARATION_FILE
from cupyrec.errors import OutputError
from cupyrec.folder_lock import LOCK_FILE, FolderLock
from cupyrec.saving.checkpoint_folder import CHECKPOINTS_FOLDER, CheckpointFolder
from cupyrec.saving.safetensors_io import WEIGHTS_FILES
from cupyrec.saving.saved_model import DESCRIPTION_FILE

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.toml"
BAD_ROWS_FILE = "bad_rows.tsv"
BAD_ROWS_FILES = (BAD_ROWS_FILE, "bad_rows_valid.tsv")
# Before the names of the files of a run whose model is not saved, where another run's files have those names.
UNSAVED = "unsaved-"
# The folder of the model of a run that was stopped or failed before it could take the place of an earlier one.
UNSAVED_MODEL = f"{UNSAVED}model"


def run_files(folder: Path, *, bad_rows: bool = True) -> list[Path]:
    """The files of a run that are in a folder; bad_rows: those for bad rows among them."""
    patterns = (DESCRIPTION_FILE, METRICS_FILE, CONFIG_FILE, *WEIGHTS_FILES, *(BAD_ROWS_FILES if bad_rows else ()))
    return [file for pattern in patterns for file in sorted(folder.glob(pattern))]


def checkpoints_to_resume(folder: Path) -> Path:
    """Where the checkpoints are from which a run in this folder goes on."""
    unsaved = folder / f"{UNSAVED}{CHECKPOINTS_FOLDER}"
    return unsaved if CheckpointFolder(unsaved).steps() else folder / CHECKPOINTS_FOLDER


class RunFolder:
    """Makes sure, before anything is trained, that the folder can be written; and writes nothing until it is told to.

    The files of an earlier run stay whole until the new run has come to its end and its model is saved. So long the new
    run's stand beside them with `unsaved-` before their names; and they stay so where it is stopped or fails.
    A run that is resumed goes on with its own files, whatever they are called.

    Use it in a `with` statement: where the block ends before anything was written, a folder made for it is removed.
    Meanwhile no other run can use it.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> None:
        """resume: go on with the run that left checkpoints in the folder, or begin where none are.

        Raises OutputError when the folder holds a run already and neither is set, when it holds a model and nothing to
        be resumed, when another run is using it, and when it cannot be written.
        """
        self.path = Path(path)
        self._lock = contextlib.ExitStack()
        self._config_toml: str | None = None
        self._metrics: TextIO | None = None
        self._metrics_begun = False
        self._names = {CONFIG_FILE, METRICS_FILE, *BAD_ROWS_FILES}
        self._made: list[Path] = []
        try:
            for name in (MANIFEST_FILE, PREPARATION_FILE):
                if (self.path / name).exists():
                    raise OutputError(f"{path}: holds prepared data ({name}); choose another --output")
            self._earlier = self._files_there()
            may_write = not self._earlier or overwrite or resume
            if may_write:
                self._make()
            if may_write or (self.path / LOCK_FILE).exists():  # what is there may be of a run that is at work
                self._lock.enter_context(FolderLock(self.path))
                self._earlier = self._files_there()
            if self._earlier and not (overwrite or resume):
                goes_on = CheckpointFolder(checkpoints_to_resume(self.path)).steps()
                hint = ", or go on with it: --resume" if goes_on else ""
                raise OutputError(
                    f"{path}: holds an earlier run ({self._earlier[0].name}); "
                    f"choose another --output, or replace it with --overwrite{hint}"
                )
            if resume:
                self._find_own_files()
        except BaseException as error:
            remove_unused(self._made)
            self._lock.close()
            if isinstance(error, OSError) and not isinstance(error, OutputError):
                raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another --output") from None
            raise

    @property
    def earlier(self) -> list[Path]:
        """The files of the earlier run that saving will replace."""
        return list(self._earlier)

    def check_space(self, needed_bytes: int, what: str) -> None:
        """Raise OutputError when so much does not fit on the disk beside what is there. what: it holds, in words."""
        free = free_bytes(self.path)
        if needed_bytes > free:
            raise OutputError(
                f"{self.path}: {what} takes {format_bytes(needed_bytes)}, but {format_bytes(free)} are free on this "
                "disk; make room, or choose another --output or a smaller --hash-rows or --dimension"
            )

    def place(self, name: str) -> Path:
        """Where a file of the run that will be called `name` is to be written now."""
        self._names.add(name)
        return self.path / f"{UNSAVED if self._earlier else ''}{name}"

    @property
    def checkpoints(self) -> CheckpointFolder:
        """Where the run's checkpoints are now."""
        return CheckpointFolder(self.path / f"{UNSAVED if self._earlier else ''}{CHECKPOINTS_FOLDER}")

    def model_place(self, *, ended: bool) -> Path:
        """Where the run's model is to be saved. ended: whether the run has come to its end, as it was meant to."""
        return self.path if ended or not self._earlier else self.path / UNSAVED_MODEL

    def begin(self, config_toml: str) -> None:
        """Just before training begins. config_toml: what config.toml is to hold. Raises OutputError."""
        self._config_toml = config_toml
        if self._earlier:
            for name in self._names:
                self._remove(self.place(name))
            self.checkpoints.remove_all()
            self._remove_unsaved_model()

    def go_on(self, config_toml: str, step: int, metrics_bytes: int, say: Callable[[str], None]) -> None:
        """In place of `begin`, where training goes on from the checkpoint of a step: what came later is taken back.

        metrics_bytes: what metrics.jsonl had then; say: is told when it has less now. Raises OutputError.
        """
        self._config_toml = config_toml
        path = self.place(METRICS_FILE)
        with output_errors(path):
            size_bytes = path.stat().st_size if path.exists() else 0
            if size_bytes < metrics_bytes:
                say(f"{path}: has {size_bytes:,} bytes, but had {metrics_bytes:,} when the checkpoint was made")
                metrics_bytes = self._end_of_last_line(path)
            self.checkpoints.remove_after(step)
            self.checkpoints.clean()
            if metrics_bytes:
                with open(path, "r+b") as file:
                    file.truncate(metrics_bytes)
                    os.fsync(file.fileno())
                self._metrics_begun = True
        self.write_config()

    @staticmethod
    def _end_of_last_line(path: Path) -> int:
        return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0

    def metrics_bytes(self) -> int:
        """What metrics.jsonl has by now, all of it on the disk. Raises OutputError."""
        if not self._metrics_begun:
            return 0
        path = self.place(METRICS_FILE)
        with output_errors(path):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                size_bytes = os.fstat(file.fileno()).st_size
            sync_folder(self.path)
        return size_bytes

    def write_config(self) -> None:
        """Write config.toml. Raises OutputError."""
        assert self._config_toml is not None  # begin() was called
        write_durably(self.place(CONFIG_FILE), self._config_toml.encode())

    def record(self, entry: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl; the first begins the file anew, beside config.toml. Raises OutputError."""
        if not self._metrics_begun:
            self.write_config()
        path = self.place(METRICS_FILE)
        with output_errors(path):
            if self._metrics is None:
                self._metrics = open(path, "a" if self._metrics_begun else "w", encoding="utf-8")  # noqa: SIM115
                self._metrics_begun = True
            self._metrics.write(json.dumps(entry) + "\n")
            self._metrics.flush()

    def replace_earlier(self) -> None:
        """The model of this run is saved: its other files take the place of the earlier run's. Raises OutputError."""
        if not self._earlier:
            return
        self._close_metrics()
        for name in self._names:
            if not self.place(name).exists():
                self._remove(self.path / name)
        self._remove_unsaved_model()
        self._rename_own()
        self._earlier = []

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_metrics()
        remove_unused(self._made)
        self._lock.close()

    def _files_there(self) -> list[Path]:
        """Of an earlier run; its checkpoints last. Files of bad rows alone are not one."""
        checkpoints = self.path / CHECKPOINTS_FOLDER
        others = [checkpoints] if CheckpointFolder(checkpoints).steps() else []
        return run_files(self.path) + others if run_files(self.path, bad_rows=False) or others else []

    def _find_own_files(self) -> None:
        """Of the run that is resumed. Raises OutputError where there is only a model."""
        there = checkpoints_to_resume(self.path)
        if there.name != CHECKPOINTS_FOLDER and (self.path / f"{UNSAVED}{CONFIG_FILE}").exists():
            self._earlier = self._earlier or [there]  # the run's own are `unsaved-`
            return
        if there.name != CHECKPOINTS_FOLDER:
            self._rename_own()  # which was under way when the run was ended
        elif not CheckpointFolder(there).steps() and (self.path / DESCRIPTION_FILE).exists():
            raise OutputError(
                f"{self.path}: holds a model ({DESCRIPTION_FILE}), but no checkpoint to go on from; "
                "choose another --output, or replace it with --overwrite"
            )
        self._earlier = []

    def _rename_own(self) -> None:
        """Give the run's files their names: config.toml, whose old name tells that it has not begun, first, and the
        checkpoints, which tell where to go on, last. Raises OutputError.
        """
        names = sorted(self._names, key=lambda name: (name != CONFIG_FILE, name))
        for name in names:
            if (unsaved := self.path / f"{UNSAVED}{name}").exists():
                _rename(unsaved, self.path / name)
        unsaved, checkpoints = self.path / f"{UNSAVED}{CHECKPOINTS_FOLDER}", self.path / CHECKPOINTS_FOLDER
        CheckpointFolder(checkpoints).remove_all()
        if unsaved.exists() and not checkpoints.exists():
            _rename(unsaved, checkpoints)
        # One by one, the newest last, where files of others have kept the folder in its place.
        for step in CheckpointFolder(unsaved).steps():
            _rename(CheckpointFolder(unsaved).place(step), CheckpointFolder(checkpoints).place(step))
        with contextlib.suppress(OSError):
            unsaved.rmdir()

    def _remove_unsaved_model(self) -> None:
        """Files of others in its folder stay."""
        folder = self.path / UNSAVED_MODEL
        for file in run_files(folder):
            self._remove(file)
        with contextlib.suppress(OSError):
            folder.rmdir()

    def _close_metrics(self) -> None:
        if self._metrics is not None:
            with contextlib.suppress(OSError), self._metrics as file:  # may write again what `record` could not
                os.fsync(file.fileno())
            self._metrics = None

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path}: cannot be removed: {error.strerror}") from None

    def _make(self) -> None:
        """Make the folders that are missing, and try to write. Raises OSError."""
        self._made = make_folders(self.path)
        with tempfile.TemporaryFile(dir=self.path):
            pass


def _rename(old: Path, new: Path) -> None:
    """Rename, and wait until the disk has it: what is renamed next comes later there too. Raises OutputError."""
    with output_errors(new):
        os.replace(old, new)
        sync_folder(new.parent)
