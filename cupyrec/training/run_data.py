"""The files of a run: training and validation data, and where bad rows go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cupyrec.datasets.bad_rows import check_log_file
from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.input_files import find_input_files
from cupyrec.datasets.source import Source
from cupyrec.errors import ConfigError
from cupyrec.run_config import RunConfig
from cupyrec.training.run_folder import BAD_ROWS_FILE, CONFIG_FILE, METRICS_FILE, RunFolder
from cupyrec.training.saved_model import DESCRIPTION_FILE


class RunData:
    """Finds the files and makes sure that the run will replace none of them; reads none before `split`."""

    def __init__(self, config: RunConfig, folder: RunFolder | None, config_file: str | Path | None = None) -> None:
        """folder: where the bad rows go when the configuration names no file; config_file: it must stay as well.

        Raises ConfigError, DataError.
        """
        if not config.paths:
            raise ConfigError("no training data: name Criteo files, a folder or a glob such as 'data/day_*'")
        self._share = _share(config.valid)
        files = find_input_files(config.paths)
        valid_files = find_input_files(config.valid) if config.valid and self._share is None else ()
        _check_apart(files, valid_files)
        inputs = [*files, *valid_files]
        if folder is not None:
            _check_not_replaced(inputs, folder)
        kept = [Path(each) for each in (config_file, config.row_counts) if each is not None]
        if config.trace is not None:
            check_log_file(
                Path(config.trace), [*inputs, *kept], overwrite=config.overwrite, what="the trace", option="--trace"
            )
            kept.append(Path(config.trace))
            if folder is not None:
                _check_not_own(Path(config.trace), folder, "the trace")
        # Where bad rows are written while the run goes on, and what those files are called in the end.
        self._logs: list[tuple[Path, Path]] = []
        if config.on_bad_row == "skip":
            inputs += kept
            self._logs = _bad_row_logs(config, folder, inputs, validation=bool(valid_files))
        rows = config.hash_rows[0] if len(config.hash_rows) == 1 else config.hash_rows
        how: dict[str, Any] = {"hash_rows": rows, "on_bad_row": config.on_bad_row}
        train_log, valid_log, *_ = *(written for written, _ in self._logs), None, None
        self._train = CriteoFiles(files, **how, bad_rows_path=train_log)
        self._valid = CriteoFiles(valid_files, **how, bad_rows_path=valid_log) if valid_files else None
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
        counts = (self._train.bad_rows, self._valid.bad_rows if self._valid else 0)
        return {path: count for (_, path), count in zip(self._logs, counts, strict=False) if count}


def _check_apart(files: Sequence[Path], valid_files: Sequence[Path]) -> None:
    places = {file.resolve() for file in files}
    for file in valid_files:
        if file.resolve() in places:
            raise ConfigError(
                f"the validation file {file} is among the training files; name others, or a share such as --valid 0.1"
            )


def _check_not_replaced(inputs: Sequence[Path], folder: RunFolder) -> None:
    replaced = {file.resolve() for file in folder.earlier}
    for file in inputs:
        if file.resolve() in replaced:
            raise ConfigError(f"the input file {file} would be replaced by this run; choose another --output")


def _bad_row_logs(
    config: RunConfig, folder: RunFolder | None, inputs: Sequence[Path], *, validation: bool
) -> list[tuple[Path, Path]]:
    """For the training data and, if there are any, the validation files: where bad rows are written, and where they are
    found in the end. Readers do not share a file. Raises ConfigError.
    """
    path = Path(config.bad_rows or (folder.path / BAD_ROWS_FILE if folder else BAD_ROWS_FILE))
    if path.name in ("", ".."):
        raise ConfigError(f"{path}: a folder; name a file with --bad-rows")
    logs = []
    for final in [path, path.with_stem(f"{path.stem}_valid")][: 1 + validation]:
        check_log_file(final, inputs, overwrite=config.overwrite)
        in_folder = folder is not None and final.parent.resolve() == folder.path.resolve()
        if folder is None or not in_folder:
            logs.append((final, final))
            continue
        _check_not_own(final, folder, "the bad rows")
        logs.append((folder.place(final.name), final))
    return logs


def _check_not_own(path: Path, folder: RunFolder, what: str) -> None:
    """Raise ConfigError when a file is one that the run itself writes to its folder."""
    own = path.name in (DESCRIPTION_FILE, CONFIG_FILE, METRICS_FILE) or path.suffix == ".safetensors"
    if own and path.parent.resolve() == folder.path.resolve():
        raise ConfigError(f"{what} would overwrite the run's own {path.name}; name another file")


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
