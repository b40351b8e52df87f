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

    Use it in a `with` statement: where the block ends before the first record, a folder made for it is removed.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Raises OutputError when the folder holds a run already and overwrite is False, or cannot be written."""
        self.path = Path(path)
        self._metrics: TextIO | None = None
        held = [name for name in (DESCRIPTION_FILE, METRICS_FILE) if (self.path / name).exists()]
        if held and not overwrite:
            raise OutputError(
                f"{path}: holds an earlier run ({held[0]}); choose another --output, or replace it with --overwrite"
            )
        self._made: list[Path] = []
        try:
            for folder in reversed([self.path, *self.path.parents]):
                if not folder.exists():
                    folder.mkdir()
                    self._made.append(folder)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            self._remove_made()
            raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another --output") from None

    def write_config(self, toml: str) -> None:
        """Write config.toml. Raises OutputError."""
        write_text(self.path / CONFIG_FILE, toml)

    def record(self, entry: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl; the first begins the file anew. Raises OutputError."""
        path = self.path / METRICS_FILE
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
            self._metrics.close()
        self._remove_made()

    def _remove_made(self) -> None:
        """Remove the folders that were made here and are still empty."""
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()
