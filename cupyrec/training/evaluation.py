"""Evaluation of a system on a source, without changing it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupyrec.config import DlrmConfig
from cupyrec.datasets.source import Source, check_source, read_batches
from cupyrec.errors import ConfigError, DataError
from cupyrec.systems.step import System
from cupyrec.training.metrics import BinaryMetrics, MetricsResult


@dataclass(frozen=True)
class Evaluation:
    """Metrics on the validation data after `step` steps."""

    step: int
    metrics: MetricsResult


def evaluate(
    system: System,
    source: Source,
    batch_size: int,
    *,
    stop_requested: Callable[[], bool] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> MetricsResult | None:
    """Predict all samples of a source and measure; None when it was asked to stop before the end.

    Memory does not grow with the number of samples; see BinaryMetrics. Raises DivergenceError on a NaN logit,
    ConfigError on a source without labels and on a batch of more samples than batch_size, and what the source raises.
    """
    check_labelled(source)
    with (
        BinaryMetrics() as metrics,
        closing(read_batches(source, batch_size, on_progress=on_progress)) as batches,
        overflow_is_seen_later(),
    ):
        for batch in batches:
            if stop_requested is not None and stop_requested():
                return None
            metrics.update(np.asarray(system.predict(batch), dtype=np.float32), batch.labels)
        result = metrics.result()
    if not result.samples:
        raise DataError(
            f"there are no samples to evaluate on: the batches of {type(source).__name__} have none; does its method "
            "batches begin anew at each call, or give an iterator that is used up?"
        )
    return result


def overflow_is_seen_later() -> AbstractContextManager[Any]:
    """Within it NumPy does not warn of numbers that overflow: the loss and the metrics look for them."""
    return np.errstate(over="ignore", invalid="ignore")


def check_labelled(source: Source) -> None:
    """Raise ConfigError when a source says, by an attribute `labelled`, that its samples have no labels."""
    if not getattr(source, "labelled", True):
        where = getattr(source, "path", "the data")
        raise ConfigError(
            f"{where}: the samples have no labels, so they can be predicted, but not trained on or evaluated"
        )


OTHER_VOCABULARIES = (
    "; data for a model that was trained on prepared data are made with `cupyrec prepare PATH... --vocabulary FOLDER`, "
    "FOLDER being the prepared data of the training"
)


def check_source_fits(source: Source, config: DlrmConfig) -> None:
    """Raise ConfigError when a source is none, or was made for other tables or dense features than a model."""
    check_source(source)
    wanted, found = (config.features, config.dense_features), (len(source.table_rows), source.dense_features)
    if found != wanted:
        raise ConfigError(
            f"the data have {found[0]} tables and {found[1]} dense features, but the model was made for {wanted[0]} "
            f"and {wanted[1]}"
        )
    if tuple(source.table_rows) != config.table_rows:
        raise ConfigError(
            f"the data have tables of {_text(source.table_rows)} rows, but the model was made for "
            f"{_text(config.table_rows)}{OTHER_VOCABULARIES if hasattr(source, 'encoding') else ''}"
        )


def _text(table_rows: tuple[int, ...]) -> str:
    return str(table_rows[0]) if len(set(table_rows)) == 1 else ", ".join(str(rows) for rows in table_rows)
