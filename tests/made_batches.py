"""A small model of three tables with bags of any length, and batches for it on which it can learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from batch_strategies import random_batch

from cupyrec import Trainer
from cupyrec.batch import Batch
from cupyrec.config import DlrmConfig
from cupyrec.datasets.source import BatchList

TABLE_ROWS = (7, 40, 11)
DENSE_FEATURES = 3
CONFIG = DlrmConfig(TABLE_ROWS, dense_features=DENSE_FEATURES, dimension=4, bottom=(6, 4), top=(5, 1), pooling="mean")
BATCH_SIZE = 16


def made_batch(seed: int, samples: int = BATCH_SIZE) -> Batch:
    """The label is whether the first dense feature is positive."""
    batch = random_batch(np.random.default_rng(seed), TABLE_ROWS, samples, dense_features=DENSE_FEATURES)
    batch.labels[:] = batch.dense[:, 0] > 0
    return batch


def no_samples() -> Batch:
    return Batch.from_bags(np.zeros((0, DENSE_FEATURES)), [[], [], []], np.zeros(0), TABLE_ROWS)


def made_source(batches: int, *, first: int = 0) -> BatchList:
    return BatchList([made_batch(seed) for seed in range(first, first + batches)], TABLE_ROWS, DENSE_FEATURES)


def made_trainer(**settings: Any) -> Trainer:
    """Three steps of training behind it. settings: of Trainer, beside those of the model."""
    trainer = Trainer(CONFIG, batch_size=BATCH_SIZE, threads=1, **settings)
    trainer.fit(made_source(3))
    return trainer


class WatchedSource:
    """A source that knows how many batches were handed out and whether its generators were closed.

    fails_after: raises `error` in place of the batch after so many.
    """

    table_rows, dense_features = TABLE_ROWS, DENSE_FEATURES

    def __init__(self, batches, *, fails_after=None, error=None):
        self._batches, self._fails_after, self._error = batches, fails_after, error
        self.handed_out = self.opened = self.closed = 0
        # Held, so that nothing but a call of close() closes them.
        self._generators = []

    def batches(self, batch_size, *, on_progress=None):
        self._generators.append(self._generate(on_progress))
        return self._generators[-1]

    def _generate(self, on_progress):
        self.opened += 1
        try:
            for number, batch in enumerate(self._batches):
                if number == self._fails_after:
                    raise self._error
                self.handed_out += 1
                if on_progress is not None:
                    on_progress((number + 1) / len(self._batches))
                yield batch
        finally:
            self.closed += 1
