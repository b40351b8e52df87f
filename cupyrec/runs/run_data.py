"""The data of a run: training and validation data, raw or prepared, and where bad rows go."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from cupyrec.config import DlrmConfig
from cupyrec.counted import counted
from cupyrec.datasets.bad_rows import check_log_file
from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.open_data import data_files, is_prepared, open_data
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.datasets.source import Source
from cupyrec.errors import ConfigError
from cupyrec.evaluation.data_encoding import has_grown_from
from cupyrec.evaluation.evaluation import check_labelled, check_source_fits
from cupyrec.option_values import option_name
from cupyrec.run_config import RunConfig
from cupyrec.saving.run_folder import BAD_ROWS_FILE, CONFIG_FILE, METRICS_FILE, RunFolder
from cupyrec.saving.saved_model import DESCRIPTION_FILE

# Options that raw files need, and those that only prepared data know.
RAW_OPTIONS = ("hash_rows", "on_bad_row", "bad_rows")
HOW_RAW_FILES_BECOME_BATCHES = {
    "dense_transform": "log(max(x, 0) + 1)",
    "category_to_row": "hexadecimal value modulo the rows of its table; a blank is 0",
}


class RunData:
    """Finds the data and makes sure that the run will replace none of them; reads no sample before `split`.

    facts: how values become ids and dense features, to be kept with the model: who uses it must do the same.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder | None,
        config_file: str | Path | None = None,
        *,
        own_files: Collection[Path] = (),
    ) -> None:
        """folder: where the bad rows go when the configuration names no file; config_file: it must stay as well;
        own_files: absolute, that the run itself wrote before it was stopped, and may replace.

        Raises ConfigError, DataError.
        """
        if not config.paths:
            raise ConfigError("no training data: name Criteo files, prepared data, or a glob such as 'data/day_*'")
        self._share = share_of(config.valid)
        valid = config.valid if self._share is None else ()
        inputs = [*data_files(config.paths), *(data_files(valid) if valid else ())]
        if folder is not None:
            _check_not_replaced(inputs, folder)
            if not config.resumes:
                _check_not_among(inputs, folder)
        kept = [Path(each) for each in (config_file, config.row_counts) if each is not None]
        if config.trace is not None:
            may_replace = config.overwrite or Path(config.trace).absolute() in own_files
            check_log_file(
                Path(config.trace),
                [*inputs, *kept],
                overwrite=may_replace,
                what="the trace",
                option="--trace",
                can_overwrite=not config.resumes,
            )
            kept.append(Path(config.trace))
            if folder is not None:
                _check_not_own(Path(config.trace), folder, "the trace")
        # Where bad rows are written while the run goes on, and what those files are called in the end.
        self._logs: list[tuple[Path, Path]] = []
        raw = [not is_prepared(paths) for paths in (config.paths, valid) if paths]
        if config.on_bad_row == "skip" and any(raw):
            self._logs = _bad_row_logs(config, folder, [*inputs, *kept], own_files, validation=bool(valid))
        # Absolute: all that the run writes beside what its folder always holds.
        self.written = [Path(path).absolute() for path in (config.trace, *(final for _, final in self._logs)) if path]
        train_log, valid_log, *_ = *(written for written, _ in self._logs), None, None
        rows = config.hash_rows[0] if len(config.hash_rows) == 1 else config.hash_rows
        how: dict[str, Any] = {"hash_rows": rows, "on_bad_row": config.on_bad_row}
        order: dict[str, Any] = {
            "shuffle": config.shuffle,
            "shuffle_window": config.shuffle_window,
            "seed": config.seed,
        }
        self._shuffle_window = config.shuffle_window if config.shuffle else 0
        self._train = open_data(config.paths, **how, **order, bad_rows_path=train_log)
        self._valid = open_data(valid, **how, bad_rows_path=valid_log) if valid else None
        check_labelled(self._train)
        if self._valid is not None:
            check_labelled(self._valid)
            _check_apart(self._train, self._valid)
        self.table_rows, self.dense_features = self._train.table_rows, self._train.dense_features
        self.unused = [] if any(raw) else raw_options(config)
        self.facts = {**_how_values_are_used(self._train), "encoding": self._train.encoding}

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is read: of the training data, then of validation data of their own."""
        return (*self._train.files, *(self._valid.files if self._valid else ()))

    @property
    def shuffled_samples(self) -> int:
        """The most samples that are shuffled among each other, 0 where none are."""
        train = self._train
        return min(self._shuffle_window, train.samples) if isinstance(train, PreparedData) else 0

    def check_fits(self, shape: DlrmConfig, encoding: str | None) -> None:
        """Raise ConfigError where the data are of other tables than a model, or of another encoding than its data, and
        have not grown from these.
        """
        grown = shape.grown_to(self.table_rows) if has_grown_from(self._train, encoding) else None
        check_source_fits(self._train, grown or shape, encoding)

    def split(self, say: Callable[[str], None]) -> tuple[Source, Source | None]:
        """The training data and the validation data; to cut a share off raw files all their lines are counted.

        Raises ConfigError, DataError.
        """
        if self.unused:
            say(f"not used with prepared data: {', '.join(self.unused)}")
        if self._share is not None:
            train, tail = self._train.split_tail(self._share)
            name = self._train.path if isinstance(self._train, PreparedData) else _name(self._train)
            say(f"training on the first {_count(train)} of {name}, validating on the last {_count(tail)}")
            return train, tail
        validation = f"validating on {_name(self._valid)}" if self._valid else "no validation data (--valid)"
        say(f"training on {_name(self._train)}, {validation}")
        return self._train, self._valid

    def bad_rows(self) -> dict[Path, int]:
        """How many bad rows were skipped so far, by the file that holds them."""
        counts = [getattr(data, "bad_rows", 0) for data in (self._train, self._valid)]
        found = zip(self._logs, counts, strict=False)
        # Of a run that was stopped they keep the names that they had meanwhile.
        return {(written if written.exists() else final): count for (written, final), count in found if count}

    def discard_bad_rows(self) -> None:
        """Remove the files of bad rows that this run has written, as nothing else is left of it."""
        for data in (self._train, self._valid):
            if isinstance(data, CriteoFiles):
                data.discard_bad_rows()


def raw_options(config: RunConfig) -> list[str]:
    """The options that are set to something and mean nothing where all data are prepared."""
    plain = RunConfig()
    return [f"--{option_name(name)}" for name in RAW_OPTIONS if getattr(config, name) != getattr(plain, name)]


def _how_values_are_used(data: CriteoFiles | PreparedData) -> dict[str, str]:
    if isinstance(data, CriteoFiles):
        return HOW_RAW_FILES_BECOME_BATCHES
    return {"dense_transform": data.manifest.dense_transform, "category_to_row": f"prepared ids: {data.manifest.ids}"}


def _check_apart(train: CriteoFiles | PreparedData, valid: CriteoFiles | PreparedData) -> None:
    """Raise ConfigError when samples would be trained on and validated on, or mean different things."""
    if train.encoding != valid.encoding:
        prepared = train.folder if isinstance(train, PreparedData) else None
        raise ConfigError(
            "the validation data were made with another encoding than the training data, by other vocabularies, tables "
            "or another transform of dense features; "
            + (
                f"prepare them with `cupyrec prepare PATH... --vocabulary {shlex.quote(str(prepared))}`"
                if prepared
                else "name raw files, or prepare the training data and, with --vocabulary, the validation data"
            )
        )
    if isinstance(train, PreparedData) and isinstance(valid, PreparedData):
        apart = all(stop <= begin or end <= start for start, stop in train.ranges for begin, end in valid.ranges)
        if train.folder.resolve() == valid.folder.resolve() and not apart:
            raise ConfigError(
                f"the validation samples are among the training samples in {train.folder}; name two splits of it, "
                "such as train.json and valid.json, or a share such as --valid 0.1"
            )
    places = {file.resolve() for file in train.files}
    for file in valid.files:
        if isinstance(valid, CriteoFiles) and file.resolve() in places:
            raise ConfigError(
                f"the validation file {file} is among the training files; name others, or a share such as --valid 0.1"
            )


def _check_not_replaced(inputs: Sequence[Path], folder: RunFolder) -> None:
    replaced = {file.resolve() for file in folder.earlier}
    for file in inputs:
        if file.resolve() in replaced:
            raise ConfigError(f"the input file {file} would be replaced by this run; choose another --output")


def _check_not_among(inputs: Sequence[Path], folder: RunFolder) -> None:
    """Raise ConfigError where the run's files would stand among those that it reads, which may be named by folder."""
    for file in inputs:
        if file.resolve().parent == folder.path.resolve():
            raise ConfigError(f"{folder.path}: the folder of the input file {file.name}; choose another --output")


def _bad_row_logs(
    config: RunConfig,
    folder: RunFolder | None,
    inputs: Sequence[Path],
    own_files: Collection[Path],
    *,
    validation: bool,
) -> list[tuple[Path, Path]]:
    """For the training data and, if there are any, the validation files: where bad rows are written, and where they are
    found in the end. Readers do not share a file. Raises ConfigError.
    """
    path = Path(config.bad_rows or (folder.path / BAD_ROWS_FILE if folder else BAD_ROWS_FILE))
    if path.name in ("", ".."):
        raise ConfigError(f"{path}: a folder; name a file with --bad-rows")
    logs = []
    for final in bad_rows_files(path)[: 1 + validation]:
        may_replace = config.overwrite or final.absolute() in own_files
        check_log_file(final, inputs, overwrite=may_replace, can_overwrite=not config.resumes)
        in_folder = folder is not None and final.parent.resolve() == folder.path.resolve()
        if folder is None or not in_folder:
            logs.append((final, final))
            continue
        _check_not_own(final, folder, "the bad rows")
        logs.append((folder.place(final.name), final))
    return logs


def bad_rows_files(path: Path) -> tuple[Path, Path]:
    """The files for the bad rows of training and of validation files. path: as --bad-rows has it."""
    return path, path.with_stem(f"{path.stem}_valid")


def _check_not_own(path: Path, folder: RunFolder, what: str) -> None:
    """Raise ConfigError when a file is one that the run itself writes to its folder."""
    own = path.name in (DESCRIPTION_FILE, CONFIG_FILE, METRICS_FILE) or path.suffix == ".safetensors"
    if own and path.parent.resolve() == folder.path.resolve():
        raise ConfigError(f"{what} would overwrite the run's own {path.name}; name another file")


def share_of(valid: tuple[str, ...]) -> float | None:
    """The share of the tail that --valid names, None where it names files, which may have gone by now.

    Raises ConfigError.
    """
    if len(valid) != 1 or Path(valid[0]).exists():
        return None
    try:
        share = float(valid[0])
    except ValueError:
        return None
    if not 0 < share < 1:
        raise ConfigError(
            f"--valid must be files, or a share of the training lines between 0 and 1, but is {valid[0]}; leave it out "
            "for no validation"
        )
    return share


def _name(data: CriteoFiles | PreparedData) -> str:
    """Which data they are, for people."""
    if isinstance(data, PreparedData):
        return f"{counted(data.samples, 'sample')} of {data.path}"
    return str(data.files[0]) if len(data.files) == 1 else counted(len(data.files), "file")


def _count(data: CriteoFiles | PreparedData) -> str:
    return counted(data.samples, "sample") if isinstance(data, PreparedData) else counted(data.count_lines(), "line")
