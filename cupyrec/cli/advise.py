"""`cupyrec advise`: how large the scratchpad should be for these data."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cupyrec.cli import exit_stopped, say
from cupyrec.cli.advice_report import describe_advice
from cupyrec.cli.data_options import bad_row_options, bad_row_values, bad_rows_kept_if_done, say_unused
from cupyrec.cli.report import describe_skipped
from cupyrec.errors import ConfigError
from cupyrec.option_values import option_name, option_words
from cupyrec.run_config import RunConfig, read_config_file

if TYPE_CHECKING:
    from cupyrec.advice.result import Advice
    from cupyrec.advice.sizes import Question

# Options of `cupyrec train` that decide which rows a step uses and what they take; the command that is recommended
# needs them again, but for --max-steps.
TRAIN_OPTIONS = (
    *("hash_rows", "batch_size", "dimension", "optimizer", "lookahead", "max_steps"),
    *("shuffle", "shuffle_window", "seed"),
)


def _train_options(command: Any) -> Any:
    """Add the options of `cupyrec train` that matter here, as they are described there."""
    known = {each.name: each for each in dataclasses.fields(RunConfig)}
    for each in reversed([known[name] for name in TRAIN_OPTIONS]):
        default = each.default[0] if isinstance(each.default, tuple) else each.default
        name, is_flag = option_name(each.name), isinstance(default, bool)
        command = click.option(
            f"--{name}/--no-{name}" if is_flag else f"--{name}",
            each.name,
            is_flag=is_flag,
            default=None,
            metavar=each.metadata["metavar"],
            help=HELP.get(each.name, each.metadata["help"]) + (f"  [default: {default}]" if default else ""),
        )(command)
    return command


HELP = {
    "lookahead": "Mini-batches known ahead; 4 times the scratchpad's rows over those of a batch when not given.",
    "max_steps": "Read only so many mini-batches.",
    "optimizer": "Decides what a row takes with its state.",
    "shuffle": "Read prepared data in the order of the first epoch of such a training; that of later ones is alike.",
    "seed": "Seed of the shuffling.",
}


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="TOML file with options of train, of which those below are taken; the command line wins.",
)
@_train_options
@click.option(
    "--sizes",
    metavar="SIZES",
    help="Scratchpad sizes to try, with commas between them, each as --scratchpad of train takes it: 1%,10%,8GB,50000. "
    "When not given, from about what never bubbles to what holds all rows that are used.",
)
@click.option("--row-counts", metavar="FILE", help="Write how often each row is used, for train --row-counts.")
@click.option("--plot", metavar="FILE", help="Draw the curves as a PNG (needs matplotlib, the extra 'plot').")
@bad_row_options()
@click.option("--overwrite", is_flag=True, help="Replace the files that are to be written when they exist.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON.")
def advise(
    paths: tuple[str, ...],
    config_file: str | None,
    sizes: str | None,
    row_counts: str | None,
    plot: str | None,
    on_bad_row: str,
    bad_rows: str,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Say how large a scratchpad these data need: what each size would move under each policy.

    Reads Criteo files or prepared data once, as train does; nothing is trained. Memory is bounded: some 500 MB, 8 bytes
    a row of the tables with --row-counts, and a few windows with --shuffle. Temporary files, in the folder that TMPDIR
    names, take 12 bytes for each different row of a batch, about half a GB: beyond, a sample of the rows stands for all
    of them.
    """
    given = {name: value for name, value in options.items() if value is not None}
    from_file = {} if config_file is None else _from_file(config_file)
    config = RunConfig.from_values(from_file | given | {"paths": paths} | bad_row_values(on_bad_row, bad_rows))
    if plot is not None and Path(plot).suffix.lower() != ".png":
        raise ConfigError(f"{plot}: the plot is a PNG; give it a name that ends with .png")
    tried = [] if sizes is None else [size.strip() for size in sizes.split(",")]

    # Here and not above: these load Numba and pyarrow, which `--help` and wrong options need not wait for.
    from cupyrec.advice.plot import load_matplotlib, write_plot
    from cupyrec.advice.sizes import advise as find_advice
    from cupyrec.cli.share_progress import ShareProgress
    from cupyrec.datasets.open_data import is_prepared, open_data
    from cupyrec.embedding.row_counts import write_row_counts
    from cupyrec.evaluation.evaluation import check_labelled
    from cupyrec.runs.interrupt import StopOnInterrupt

    if plot is not None:
        load_matplotlib()
    prepared = is_prepared(paths)
    say_unused(config, prepared=prepared)
    skip = on_bad_row == "skip" and not prepared
    _check_outputs(
        paths, {"--bad-rows": bad_rows if skip else None, "--row-counts": row_counts, "--plot": plot}, overwrite
    )
    data = open_data(
        paths,
        hash_rows=config.hash_rows[0] if len(config.hash_rows) == 1 else config.hash_rows,
        on_bad_row="skip" if skip else "error",
        bad_rows_path=bad_rows if skip else None,
        shuffle=config.shuffle,
        shuffle_window=config.shuffle_window,
        seed=config.seed,
    )
    check_labelled(data)  # it advises how to train
    question = _question(config, tried, len(data.table_rows), row_counts_known=row_counts is not None)
    counts = _new_counts(sum(data.table_rows)) if row_counts is not None else None
    with bad_rows_kept_if_done(data):
        with StopOnInterrupt() as stop, ShareProgress() as progress:
            advice = find_advice(data, question, row_counts=counts, stop_requested=stop, on_progress=progress.show)
        if advice is None:
            click.echo("interrupted before the end; no advice", err=True)
            exit_stopped(stop.signal)
    try:
        if row_counts is not None and counts is not None:
            write_row_counts(row_counts, counts)
        if plot is not None:
            write_plot(Path(plot), advice)
    finally:
        # Reading may have taken hours: what came of it is told, also where a disk has no room.
        command = _train_command(config, config_file, given, advice, row_counts, prepared=prepared)
        skipped = getattr(data, "bad_rows", 0)
        if as_json:
            say(json.dumps(advice.as_dict() | {"command": command, "bad_rows": skipped}))
        else:
            for line in describe_advice(advice, command):
                say(line)
            if skipped:
                say(describe_skipped(skipped, bad_rows))


def _from_file(config_file: str) -> dict[str, Any]:
    """The options of a TOML file of train that matter here. Raises ConfigError, for those that do not matter too."""
    read = RunConfig.from_values(read_config_file(config_file), source=config_file)
    values = {name: getattr(read, name) for name in TRAIN_OPTIONS}
    return {name: value for name, value in values.items() if value is not None}


def _question(config: RunConfig, sizes: list[str], features: int, *, row_counts_known: bool) -> Question:
    """Raises ConfigError."""
    from cupyrec.advice.sizes import Question
    from cupyrec.batch import MOST_BAGS
    from cupyrec.embedding.host_table import record_width
    from cupyrec.optim.registry import make_optimizer
    from cupyrec.training.scratchpad_memory import FLOAT_BYTES

    if config.batch_size * features > MOST_BAGS:
        raise ConfigError(f"batch-size must be at most {MOST_BAGS // features:,}, but is {config.batch_size:,}")
    state = make_optimizer(config.optimizer, eps=config.eps).row_state_width(config.dimension)
    return Question(
        sizes=sizes,
        batch_size=config.batch_size,
        record_bytes=record_width(config.dimension, state, FLOAT_BYTES) * FLOAT_BYTES,
        dimension=config.dimension,
        lookahead=config.lookahead,
        max_steps=config.max_steps,
        row_counts_known=row_counts_known,
    )


def _check_outputs(paths: tuple[str, ...], outputs: dict[str, str | None], overwrite: bool) -> None:
    """Make sure that nothing is replaced that should stay, and no output by another. Raises ConfigError, DataError."""
    from cupyrec.datasets.bad_rows import check_log_file
    from cupyrec.datasets.open_data import data_files

    what = {"--bad-rows": "the bad rows", "--row-counts": "the row counts", "--plot": "the plot"}
    inputs, taken = data_files(paths), set()
    for option, name in outputs.items():
        if name is None:
            continue
        check_log_file(Path(name), inputs, overwrite=overwrite, what=what[option], option=option)
        if Path(name).resolve() in taken:
            raise ConfigError(f"{name}: named twice; give {option} a file of its own")
        taken.add(Path(name).resolve())


def _new_counts(rows: int) -> Any:
    """(R,) int64 zeros. Raises MemoryPlanError where they do not fit."""
    from cupyrec.byte_sizes import format_bytes
    from cupyrec.devices.host_memory import available_bytes
    from cupyrec.embedding.row_counts import new_row_counts
    from cupyrec.errors import MemoryPlanError

    available, needed = available_bytes(), 8 * rows
    if available is not None and needed > available:
        raise MemoryPlanError(
            f"the counts of {rows:,} rows take {format_bytes(needed)} of memory, but {format_bytes(available)} are "
            "available; leave --row-counts out, or make --hash-rows smaller"
        )
    return new_row_counts(rows)


def _train_command(
    config: RunConfig,
    config_file: str | None,
    given: dict[str, Any],
    advice: Advice,
    row_counts: str | None,
    *,
    prepared: bool,
) -> str:
    """The command that trains with the recommended size, and otherwise as was asked here.

    prepared: whether the data are, for which options of raw files mean nothing.
    """
    unused = ("max_steps", "hash_rows") if prepared else ("max_steps",)
    words = ["cupyrec", "train", *config.paths, *(("--config", config_file) if config_file is not None else ())]
    words += ["--system", "scratchpipe"]
    words += ["--scratchpad", advice.recommendation.advice.size]
    for name in TRAIN_OPTIONS:
        if name in given and name not in unused:
            words += option_words(name, given[name])
    if row_counts is not None:
        words += ["--row-counts", row_counts]
    if config.on_bad_row == "skip" and not prepared:
        words += ["--on-bad-row", "skip"]
    return shlex.join(words)
