"""The files of a run: training and validation data, and where bad rows go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cupyrec.config import RunConfig
from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.source import Source
from cupyrec.errors import ConfigError

BAD_ROWS_FILE = "bad_rows.tsv"


class RunData:
    """Finds the files; reads none before `split`."""

    def __init__(self, config: RunConfig, folder: Path | None) -> None:
        """folder: where the bad rows go when the configuration names no file. Raises ConfigError, DataError."""
        if not config.paths:
            raise ConfigError("no training data: name Criteo files, a folder or a glob such as 'data/day_*'")
        self._path = Path(config.bad_rows or (folder / BAD_ROWS_FILE if folder else BAD_ROWS_FILE))
        # Readers do not share a file.
        self._valid_path = self._path.with_stem(f"{self._path.stem}_valid")
        self._share = _share(config.valid)
        rows = config.hash_rows[0] if len(config.hash_rows) == 1 else config.hash_rows
        how: dict[str, Any] = {"hash_rows": rows, "on_bad_row": config.on_bad_row}
        self._train = CriteoFiles(config.paths, **how, bad_rows_path=self._path)
        self._valid = None
        if config.valid and self._share is None:
            self._valid = CriteoFiles(config.valid, **how, bad_rows_path=self._valid_path)
        self.table_rows, self.dense_features = self._train.table_rows, self._train.dense_features

    def split(self, say: Callable[[str], None]) -> tuple[Source, Source | None]:
        """The training data and the validation data; a share is cut off by counting all lines, which reads the files.

        Raises ConfigError, DataError.
        """
        if self._share is not None:
            train, tail = self._train.split_tail(self._share)
            say(
                f"training on the first {train.count_lines():,} lines of {_files(self._train)}, "
                f"validating on the last {tail.count_lines():,}"
            )
            return train, tail
        validation = f"validating on {_files(self._valid)}" if self._valid else "no validation data (--valid)"
        say(f"training on {_files(self._train)}, {validation}")
        return self._train, self._valid

    def bad_rows(self) -> dict[Path, int]:
        """How many bad rows were skipped so far, by the file that holds them."""
        counts = {self._path: self._train.bad_rows, self._valid_path: self._valid.bad_rows if self._valid else 0}
        return {path: count for path, count in counts.items() if count}


def _share(valid: tuple[str, ...]) -> float | None:
    """The share of the tail that --valid names, None where it names files. Raises ConfigError."""
    if len(valid) != 1 or Path(valid[0]).exists():
        return None
    try:
        share = float(valid[0])
    except ValueError:
        return None
    if not 0 < share < 1:
        raise ConfigError(f"--valid must be files, or a share of the training lines between 0 and 1, but is {valid[0]}")
    return share


def _files(data: CriteoFiles) -> str:
    return str(data.files[0]) if len(data.files) == 1 else f"{len(data.files)} files"
