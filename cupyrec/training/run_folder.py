"""The folder that a run writes to: metrics.jsonl, config.toml, bad rows and the model."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, TextIO

from cupyrec.byte_sizes import format_bytes
from cupyrec.errors import OutputError
from cupyrec.training.saved_model import DESCRIPTION_FILE, write_text

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.toml"
BAD_ROWS_FILE = "bad_rows.tsv"
BAD_ROWS_FILES = (BAD_ROWS_FILE, "bad_rows_valid.tsv")
WEIGHTS_FILES = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
# Before the names of the files of a run whose model is not saved, where another run's files have those names.
UNSAVED = "unsaved-"


def run_files(folder: Path, *, bad_rows: bool = True) -> list[Path]:
    """The files of a run that are in a folder; bad_rows: those for bad rows among them."""
    patterns = (DESCRIPTION_FILE, METRICS_FILE, CONFIG_FILE, *WEIGHTS_FILES, *(BAD_ROWS_FILES if bad_rows else ()))
    return [file for pattern in patterns for file in sorted(folder.glob(pattern))]


class RunFolder:
    """Makes sure, before anything is trained, that the folder can be written; and writes nothing until it is told to.

    The files of an earlier run stay whole until the new model is saved. So long the new run's stand beside them with
    `unsaved-` before their names; and they stay so where it saves none.

    Use it in a `with` statement: where the block ends before anything was written, a folder made for it is removed.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Raises OutputError when the folder holds a run already and overwrite is False, or cannot be written."""
        self.path = Path(path)
        self._config_toml: str | None = None
        self._metrics: TextIO | None = None
        self._metrics_begun = False
        self._names = {CONFIG_FILE, METRICS_FILE, *BAD_ROWS_FILES}
        self._made: list[Path] = []
        try:
            self._earlier = run_files(self.path)
            if not self._earlier or overwrite:
                self._make()
        except OSError as error:
            self._remove_made()
            raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another --output") from None
        if self._earlier and not overwrite:
            raise OutputError(
                f"{path}: holds an earlier run ({self._earlier[0].name}); "
                "choose another --output, or replace it with --overwrite"
            )

    @property
    def earlier(self) -> list[Path]:
        """The files of the earlier run that saving will replace."""
        return list(self._earlier)

    def check_space(self, model_bytes: int) -> None:
        """Raise OutputError when a model of this size does not fit on the disk beside what is there."""
        try:
            free_bytes = shutil.disk_usage(self.path).free
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}; choose another --output") from None
        if model_bytes > free_bytes:
            raise OutputError(
                f"{self.path}: the model takes {format_bytes(model_bytes)}, but {format_bytes(free_bytes)} are free on "
                "this disk; make room, or choose another --output or a smaller --hash-rows or --dimension"
            )

    def place(self, name: str) -> Path:
        """Where a file of the run that will be called `name` is to be written now."""
        self._names.add(name)
        return self.path / f"{UNSAVED if self._earlier else ''}{name}"

    def begin(self, config_toml: str) -> None:
        """Just before training. config_toml: what config.toml is to hold. Raises OutputError."""
        self._config_toml = config_toml
        if self._earlier:
            for name in self._names:
                self._remove(self.place(name))

    def write_config(self) -> None:
        """Write config.toml. Raises OutputError."""
        assert self._config_toml is not None  # begin() was called
        write_text(self.place(CONFIG_FILE), self._config_toml)

    def record(self, entry: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl; the first begins the file anew, beside config.toml. Raises OutputError."""
        if not self._metrics_begun:
            self.write_config()
        path = self.place(METRICS_FILE)
        try:
            if self._metrics is None:
                self._metrics = open(path, "a" if self._metrics_begun else "w", encoding="utf-8")  # noqa: SIM115
                self._metrics_begun = True
            self._metrics.write(json.dumps(entry) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from None

    def replace_earlier(self) -> None:
        """The model of this run is saved: its other files take the place of the earlier run's. Raises OutputError."""
        if not self._earlier:
            return
        self._close_metrics()
        unsaved = {name: self.place(name) for name in self._names}
        for name, path in unsaved.items():
            try:
                if path.exists():
                    os.replace(path, self.path / name)
                else:
                    self._remove(self.path / name)
            except OSError as error:
                raise OutputError(f"{self.path / name}: cannot be written: {error.strerror}") from None
        self._earlier = []

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_metrics()
        self._remove_made()

    def _close_metrics(self) -> None:
        if self._metrics is not None:
            # A line that could not be written was told by `record`; closing would try it again.
            with contextlib.suppress(OSError):
                self._metrics.close()
            self._metrics = None

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path}: cannot be removed: {error.strerror}") from None

    def _make(self) -> None:
        """Make the folders that are missing, and try to write. Raises OSError."""
        for folder in reversed([self.path, *self.path.parents]):
            if not folder.exists():
                folder.mkdir()
                self._made.append(folder)
        with tempfile.TemporaryFile(dir=self.path):
            pass

    def _remove_made(self) -> None:
        """Remove the folders that were made here and are still empty."""
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()
