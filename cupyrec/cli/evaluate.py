"""`cupyrec evaluate`: metrics of a saved model on Criteo files or prepared data."""

from __future__ import annotations

import json
from typing import Any

import click

from cupyrec.cli import exit_stopped, say
from cupyrec.cli.data_options import (
    DataOptions,
    bad_rows_kept_if_done,
    data_options,
    describe_bad_rows,
    open_model_and_data,
)
from cupyrec.cli.report import describe_metrics


@click.command()
@data_options(overwritten="the file for the bad rows")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as one line of JSON.")
def evaluate(as_json: bool, **values: Any) -> None:
    """Evaluate MODEL, the folder of a trained model or of a checkpoint, on the CPU.

    PATH is Criteo files, as for training, or the folder or a split file of prepared data. The figures are exactly those
    of training when that was on the CPU, too, and batch size and threads are the same.
    """
    from cupyrec.cli.share_progress import ShareProgress
    from cupyrec.runs.interrupt import StopOnInterrupt

    options = DataOptions(**values)
    loaded, data = open_model_and_data(options)
    with bad_rows_kept_if_done(data):
        with StopOnInterrupt() as stop, ShareProgress() as progress:
            metrics = loaded.evaluate(data, stop_requested=stop, on_progress=progress.show)
        if metrics is None:
            click.echo("interrupted before the end; no metrics", err=True)
            exit_stopped(stop.signal)
    if as_json:
        say(json.dumps(metrics.as_dict()))
        return
    for line in (*describe_metrics(metrics), *describe_bad_rows(data, options)):
        say(line)
