"""What commands share that read data: the trained model to use on them, and what to do with bad rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cupyrec.cli.report import describe_skipped
from cupyrec.cli.whole_number import WholeNumber
from cupyrec.config import CRITEO_DENSE_FEATURES
from cupyrec.errors import ConfigError
from cupyrec.option_values import CRITEO_SPARSE_FEATURES
from cupyrec.run_config import RunConfig

if TYPE_CHECKING:
    from cupyrec.datasets.source import Source
    from cupyrec.training.trained_model import TrainedModel


# Where bad rows go when no file is named.
BAD_ROWS = "bad_rows.tsv"


@dataclass(frozen=True)
class DataOptions:
    """The values of what data_options adds to a command. labels: whether raw files have them.

    Raises ConfigError where model and data stand in each other's place.
    """

    model: str
    paths: tuple[str, ...]
    batch_size: int
    threads: int | None
    on_bad_row: str
    bad_rows: str
    overwrite: bool
    labels: bool = True

    def __post_init__(self) -> None:
        models = [path for path in self.paths if _holds_model(path)]
        if models and not _holds_model(self.model):
            raise ConfigError(f"{models[0]}: holds a model; the model is named first, then the data: MODEL PATH...")


def data_options(overwritten: str) -> Callable[[Any], Any]:
    """A decorator that gives a command MODEL, PATH... and the options of DataOptions; it gets them by these names.

    overwritten: what --overwrite replaces.
    """
    parameters = (
        click.argument("model", metavar="MODEL"),
        click.argument("paths", nargs=-1, required=True, metavar="PATH..."),
        click.option("--batch-size", type=WholeNumber(), default=2048, show_default=True, help="Samples at a time."),
        click.option("--threads", type=WholeNumber(), help="CPU threads; every usable core when not given."),
        bad_row_options(),
        click.option("--overwrite", is_flag=True, help=f"Replace {overwritten} when it exists."),
    )

    return _each_of(*parameters)


def bad_row_options(default: str | None = BAD_ROWS) -> Callable[[Any], Any]:
    """A decorator that gives a command --on-bad-row and --bad-rows.

    default: the file when none is named; None: one in the folder DIR that the command writes.
    """
    in_folder = f"  [default: {BAD_ROWS} in DIR]" if default is None else ""
    return _each_of(
        click.option(
            "--on-bad-row",
            type=click.Choice(["error", "skip"]),
            default="error",
            show_default=True,
            help="Stop at a bad row of a raw file, or count it, write it to a file and go on.",
        ),
        click.option(
            "--bad-rows",
            default=default,
            show_default=True,
            metavar="FILE",
            help=f"File for the bad rows that are skipped.{in_folder}",
        ),
    )


def _each_of(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One decorator of several, whose options are listed in this order."""

    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def input_files(options: DataOptions) -> list[Path]:
    """The files that are read, which may not be written. Raises ConfigError, DataError."""
    from cupyrec.datasets.input_files import find_input_files
    from cupyrec.datasets.open_data import is_prepared
    from cupyrec.saving.run_folder import run_files

    if is_prepared(options.paths):
        path = Path(options.paths[0])
        data = [file for file in (path if path.is_dir() else path.parent).rglob("*") if file.is_file()]
    else:
        data = list(find_input_files(options.paths))
    model = Path(options.model)
    return [*data, *run_files(model, bad_rows=False), *model.glob("*.json"), *model.glob("*.safetensors")]


def open_model_and_data(options: DataOptions, outputs: Sequence[Path] = ()) -> tuple[TrainedModel, Source]:
    """Load the model, and open the data as it needs them.

    outputs: files that will be written, which the bad rows may not be. Raises CupyrecError; what would fail at the end
    of a long evaluation is told before it begins.
    """
    from cupyrec.datasets.bad_rows import check_log_file
    from cupyrec.datasets.input_files import find_input_files
    from cupyrec.datasets.open_data import is_prepared, open_data
    from cupyrec.runs.thread_count import thread_warning
    from cupyrec.training.trained_model import load_model

    prepared = is_prepared(options.paths)
    if not prepared:
        find_input_files(options.paths)  # what is missing is told first
    skip = options.on_bad_row == "skip" and not prepared
    if skip:
        check_log_file(Path(options.bad_rows), input_files(options), overwrite=options.overwrite)
        if Path(options.bad_rows).resolve() in [output.resolve() for output in outputs]:
            raise ConfigError(f"the bad rows would overwrite {options.bad_rows}; name another file with --bad-rows")
    given = bad_row_values(options.on_bad_row, options.bad_rows)
    say_unused(RunConfig.from_values(given), prepared=prepared)
    warning = thread_warning(options.threads)
    if warning is not None:
        click.echo(warning, err=True)
    loaded = load_model(options.model, batch_size=options.batch_size, threads=options.threads)
    config = loaded.config
    if not prepared and (config.features, config.dense_features) != (CRITEO_SPARSE_FEATURES, CRITEO_DENSE_FEATURES):
        raise ConfigError(
            f"{options.model}: the model has {config.features} tables and {config.dense_features} dense "
            f"features, but Criteo files have {CRITEO_SPARSE_FEATURES} and {CRITEO_DENSE_FEATURES}; name data prepared "
            "as those of the training, with `cupyrec prepare PATH... --vocabulary FOLDER`"
        )
    data = open_data(
        options.paths,
        hash_rows=config.table_rows,
        on_bad_row="skip" if skip else "error",
        bad_rows_path=options.bad_rows if skip else None,
        labels=options.labels,
    )
    if not options.labels and data.labelled:
        raise ConfigError(
            "--no-labels is for raw files; prepared data say themselves that they have labels; leave it out"
        )
    loaded.check_fits(data)
    return loaded, data


def say_unused(config: RunConfig, *, prepared: bool) -> None:
    """Tell of options that do nothing, as train does. config: with what is given of these; prepared: the data are."""
    from cupyrec.runs.run_checks import options_without_effect
    from cupyrec.runs.run_data import raw_options

    unused = raw_options(config) if prepared else []
    useless = options_without_effect(config)
    for what, names in {"without effect": useless, "not used with prepared data": unused}.items():
        if names:
            click.echo(f"{what}: {', '.join(names)}", err=True)


def bad_row_values(on_bad_row: str, bad_rows: str) -> dict[str, Any]:
    """As options of train; the file only where it is not the usual one."""
    return {"on_bad_row": on_bad_row, **({} if bad_rows == BAD_ROWS else {"bad_rows": bad_rows})}


@contextmanager
def bad_rows_kept_if_done(data: Source) -> Iterator[None]:
    """Where the block ends before its end, the file of bad rows goes: it would stand in the way of the next attempt."""
    try:
        yield
    except BaseException:
        if hasattr(data, "discard_bad_rows"):
            data.discard_bad_rows()
        raise


def _holds_model(path: str) -> bool:
    """Whether it is the folder of a model, or of a checkpoint."""
    from cupyrec.saving.checkpoint import CHECKPOINT_FILE
    from cupyrec.saving.saved_model import DESCRIPTION_FILE

    return any((Path(path) / name).exists() for name in (DESCRIPTION_FILE, CHECKPOINT_FILE))


def describe_bad_rows(data: Source, options: DataOptions) -> list[str]:
    """What was skipped, as a line, if anything was."""
    count = getattr(data, "bad_rows", 0)
    return [describe_skipped(count, options.bad_rows)] if count else []
