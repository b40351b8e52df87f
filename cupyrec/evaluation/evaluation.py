"""Evaluation of a system on a source, without changing it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cupyrec.batch import Batch
from cupyrec.config import DlrmConfig
from cupyrec.counted import counted
from cupyrec.datasets.source import Source, check_source, name_of, read_batches
from cupyrec.errors import ConfigError, DataError
from cupyrec.evaluation.data_encoding import check_same_encoding, has_grown_from
from cupyrec.evaluation.metrics import BinaryMetrics, MetricsResult


@dataclass(frozen=True)
class Evaluation:
    """Metrics on the validation data after `step` steps."""

    step: int
    metrics: MetricsResult


class Predicts(Protocol):
    """What is evaluated: a system, a model."""

    def predict(self, batch: Batch) -> np.ndarray:
        """Logits (B,), host; valid until the next call."""


def evaluate(
    system: Predicts,
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
        ignoring_overflow(),
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


def ignoring_overflow() -> AbstractContextManager[Any]:
    """Within it NumPy does not warn of numbers that overflow: the loss and the metrics look for them."""
    return np.errstate(over="ignore", invalid="ignore")


def check_labelled(source: Source) -> None:
    """Raise ConfigError when a source says, by an attribute `labelled`, that its samples have no labels."""
    if not getattr(source, "labelled", True):
        raise ConfigError(
            f"{name_of(source)}: the samples have no labels, so they can be predicted, but not trained on or evaluated"
        )


def check_source_fits(source: Source, config: DlrmConfig, encoding: str | None = None) -> None:
    """Raise ConfigError when a source is none, or was made for other tables or dense features than a model.

    encoding: of the data that the model was trained with, where that must be the same, see check_same_encoding.
    """
    check_source(source)
    name = name_of(source)
    wanted, found = (config.features, config.dense_features), (len(source.table_rows), source.dense_features)
    if found != wanted:
        raise ConfigError(
            f"{name}: {counted(found[0], 'table')} and {counted(found[1], 'dense feature')}, but the model was made "
            f"for {wanted[0]} and {wanted[1]}: name data with the same columns as those of the training"
        )
    check_same_encoding(source, config, encoding)
    for number, (rows, expected) in enumerate(zip(source.table_rows, config.table_rows, strict=True), start=1):
        if rows != expected and has_grown_from(source, encoding):
            raise ConfigError(
                f"{name}: the vocabularies have grown since the model was trained: table {number} of {found[0]} has "
                f"{counted(rows, 'row')}, and {expected:,} in the model: train that on these data with `cupyrec train "
                "PATH... --init-from MODEL`, or prepare them with --vocabulary and without --grow"
            )
        if rows != expected:
            raise ConfigError(
                f"{name}: table {number} of {found[0]} has {counted(rows, 'row')}, but that of the model has "
                f"{expected:,}: the data and the model must have the same table_rows, in the same order"
            )
