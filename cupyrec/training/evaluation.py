"""Evaluation of a system on a source, without changing it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupyrec.config import DlrmConfig
from cupyrec.datasets.source import Source, read_batches
from cupyrec.errors import ConfigError
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
    ConfigError on a batch of more samples than batch_size, and what the source raises.
    """
    with (
        BinaryMetrics() as metrics,
        closing(read_batches(source, batch_size, on_progress=on_progress)) as batches,
        overflow_is_seen_later(),
    ):
        for batch in batches:
            if stop_requested is not None and stop_requested():
                return None
            metrics.update(np.asarray(system.predict(batch), dtype=np.float32), batch.labels)
        return metrics.result()


def overflow_is_seen_later() -> AbstractContextManager[Any]:
    """Within it NumPy does not warn of numbers that overflow: the loss and the metrics look for them."""
    return np.errstate(over="ignore", invalid="ignore")


def check_source_fits(source: Source, config: DlrmConfig) -> None:
    """Raise ConfigError when a source was made for other tables or dense features than a model."""
    wanted = (config.table_rows, config.dense_features)
    if (tuple(source.table_rows), source.dense_features) != wanted:
        raise ConfigError(
            f"the data have {source.dense_features} dense features and tables of {_text(source.table_rows)} rows, "
            f"but the model was made for {config.dense_features} and {_text(config.table_rows)}"
        )


def _text(table_rows: tuple[int, ...]) -> str:
    return str(table_rows[0]) if len(set(table_rows)) == 1 else ", ".join(str(rows) for rows in table_rows)
