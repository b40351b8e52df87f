"""`cupyrec predict`: the predictions of a saved model as a Parquet file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cupyrec.cli import exit_stopped, say
from cupyrec.cli.data_options import (
    DataOptions,
    bad_rows_kept_if_done,
    data_options,
    describe_bad_rows,
    input_files,
    open_model_and_data,
)
from cupyrec.counted import counted

if TYPE_CHECKING:
    import numpy as np

    from cupyrec.datasets.predictions_file import PredictionsFile
    from cupyrec.evaluation.metrics import MetricsResult


@click.command()
@data_options(overwritten="the predictions, or the file for the bad rows,")
@click.option("--output", required=True, metavar="FILE", help="Parquet file to write.")
@click.option("--no-labels", is_flag=True, help="Raw files have no labels: the other 39 columns alone.")
def predict(output: str, no_labels: bool, **values: Any) -> None:
    """Write what MODEL, the folder of a trained model or of a checkpoint, predicts, on the CPU.

    PATH is Criteo files, as for training, or the folder or a split file of prepared data. The Parquet file has a row
    for each sample, in order, with probability, logit and, of data that have one, label, all float32; bad rows that are
    skipped are not in it.
    With the same batch size and threads the predictions are the same bits; with others they differ by rounding alone.
    """
    from cupyrec.cli.share_progress import ShareProgress
    from cupyrec.datasets.bad_rows import check_log_file
    from cupyrec.datasets.predictions_file import PredictionsFile, check_name
    from cupyrec.errors import ConfigError
    from cupyrec.evaluation.metrics import BinaryMetrics
    from cupyrec.runs.interrupt import StopOnInterrupt

    options, path = DataOptions(**values, labels=not no_labels), Path(output)
    check_log_file(path, input_files(options), overwrite=options.overwrite, what="the predictions", option="--output")
    check_name(path)
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: not a regular file; name one to be written with --output")
    loaded, data = open_model_and_data(options, outputs=[path])
    labelled: bool = getattr(data, "labelled", True)
    metadata = {"cupyrec.model": options.model, "cupyrec.steps": str(loaded.description["steps"])}
    if loaded.encoding is not None:
        metadata["cupyrec.encoding"] = loaded.encoding

    with (
        bad_rows_kept_if_done(data),
        StopOnInterrupt() as stop,
        ShareProgress() as progress,
        BinaryMetrics() as metrics,
        PredictionsFile(path, metadata, labels=labelled) as file,
    ):

        def take(logits: np.ndarray, labels: np.ndarray) -> None:
            # Of data without labels, it sees to it that logits are finite, and no more.
            metrics.update(logits, labels)
            file.add(logits, labels if labelled else None)

        began = time.perf_counter()
        whole = loaded.predict_all(data, take, stop_requested=stop, on_progress=progress.show)
        if whole:
            file.finish()
        seconds = time.perf_counter() - began
        result = metrics.result() if labelled else None
        if not whole:
            click.echo("interrupted before the end; no predictions", err=True)
            exit_stopped(stop.signal)
    say(_summary(file, result, seconds))
    for line in describe_bad_rows(data, options):
        say(line)


def _summary(file: PredictionsFile, metrics: MetricsResult | None, seconds: float) -> str:
    """metrics: None of data without labels."""
    rows = file.samples
    parts = [
        f"{counted(rows, 'prediction')} in {seconds:.1f} s ({rows / max(seconds, 1e-9):,.0f}/s)",
        f"mean probability {file.probability_sum / rows:.4f}",
    ]
    if metrics is None:
        parts.append("no labels")
    elif metrics.auc is not None:
        parts += [f"AUC {metrics.auc:.4f}", f"log loss {metrics.log_loss:.4f}"]
    return f"{', '.join(parts)}, written to {file.path}"
