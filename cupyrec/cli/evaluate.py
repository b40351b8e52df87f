"""`cupyrec evaluate`: metrics of a saved model on Criteo files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from cupyrec.cli import INTERRUPTED_EXIT_CODE, say
from cupyrec.cli.report import describe_metrics
from cupyrec.config import CRITEO_DENSE_FEATURES
from cupyrec.errors import ConfigError
from cupyrec.option_values import CRITEO_SPARSE_FEATURES


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--batch-size", type=click.IntRange(min=1), default=2048, show_default=True, help="Samples at a time.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; every usable core when not given.")
@click.option(
    "--on-bad-row",
    type=click.Choice(["error", "skip"]),
    default="error",
    show_default=True,
    help="Stop at a bad row, or count it, write it to a file and go on.",
)
@click.option(
    "--bad-rows",
    default="bad_rows.tsv",
    show_default=True,
    metavar="FILE",
    help="File for the bad rows that are skipped.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file for the bad rows when it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as one line of JSON.")
def evaluate(
    model: str,
    paths: tuple[str, ...],
    batch_size: int,
    threads: int | None,
    on_bad_row: str,
    bad_rows: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Evaluate MODEL, the folder of a trained model, on Criteo files, on the CPU.

    The figures are exactly those of training when that was on the CPU, too, and batch size and threads are the same.
    """
    from cupyrec.cli.share_progress import ShareProgress
    from cupyrec.datasets.bad_rows import check_log_file
    from cupyrec.datasets.criteo import CriteoFiles
    from cupyrec.datasets.input_files import find_input_files
    from cupyrec.training.interrupt import StopOnInterrupt
    from cupyrec.training.run_folder import run_files
    from cupyrec.training.trained_model import load_model

    skip = on_bad_row == "skip"
    if skip:
        inputs = [*find_input_files(paths), *run_files(Path(model), bad_rows=False)]
        check_log_file(Path(bad_rows), inputs, overwrite=overwrite)
    loaded = load_model(model, batch_size=batch_size, threads=threads)
    if (loaded.config.features, loaded.config.dense_features) != (CRITEO_SPARSE_FEATURES, CRITEO_DENSE_FEATURES):
        raise ConfigError(
            f"{model}: the model has {loaded.config.features} tables and {loaded.config.dense_features} dense "
            f"features, but Criteo files have {CRITEO_SPARSE_FEATURES} and {CRITEO_DENSE_FEATURES}"
        )
    data = CriteoFiles(
        paths,
        hash_rows=loaded.config.table_rows,
        on_bad_row="skip" if skip else "error",
        bad_rows_path=bad_rows if skip else None,
    )
    with StopOnInterrupt() as stop, ShareProgress() as progress:
        metrics = loaded.evaluate(data, stop_requested=stop, on_progress=progress.show)
    if metrics is None:
        click.echo("interrupted before the end; no metrics", err=True)
        sys.exit(INTERRUPTED_EXIT_CODE)
    if as_json:
        say(json.dumps(metrics.as_dict()))
        return
    for line in describe_metrics(metrics):
        say(line)
    if data.bad_rows:
        say(f"skipped {data.bad_rows:,} bad rows, written to {bad_rows}")
