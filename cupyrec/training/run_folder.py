"""The folder that a run writes to: metrics.jsonl, config.toml and the model."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any, TextIO

from cupyrec.errors import OutputError
from cupyrec.training.saved_model import DESCRIPTION_FILE, write_text

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.toml"


class RunFolder:
    """Makes sure, before anything is trained, that the folder can be written; and writes nothing until it is told to.

    Use it in a `with` statement: where the block ends before anything was written, a folder made for it is removed.
    """

    def __init__(self, path: str | Path, config_toml: str, *, overwrite: bool = False) -> None:
        """config_toml: what config.toml is to hold.

        Raises OutputError when the folder holds a run already and overwrite is False, or cannot be written.
        """
        self.path, self._config_toml = Path(path), config_toml
        self._metrics: TextIO | None = None
        self._made: list[Path] = []
        try:
            held = [name for name in (DESCRIPTION_FILE, METRICS_FILE) if (self.path / name).exists()]
            if not held or overwrite:
                self._make()
        except OSError as error:
            self._remove_made()
            raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another --output") from None
        if held and not overwrite:
            raise OutputError(
                f"{path}: holds an earlier run ({held[0]}); choose another --output, or replace it with --overwrite"
            )

    def write_config(self) -> None:
        """Write config.toml. Raises OutputError."""
        write_text(self.path / CONFIG_FILE, self._config_toml)

    def record(self, entry: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl; the first begins the file anew, beside config.toml. Raises OutputError."""
        path = self.path / METRICS_FILE
        if self._metrics is None:
            self.write_config()
        try:
            if self._metrics is None:
                self._metrics = open(path, "w", encoding="utf-8")  # noqa: SIM115 - open for the whole run
            self._metrics.write(json.dumps(entry) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._metrics is not None:
            # A line that could not be written was told by `record`; closing would try it again.
            with contextlib.suppress(OSError):
                self._metrics.close()
        self._remove_made()

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
