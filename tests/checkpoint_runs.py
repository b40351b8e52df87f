"""Trainers whose states are compared bit for bit, on batches that touch few of many rows."""

from __future__ import annotations

import threading

import numpy as np
from batch_strategies import random_batch
from gpu_devices import emulated_device

from cupyrec import DlrmConfig, Trainer
from cupyrec.config import SystemConfig
from cupyrec.datasets.source import BatchList
from cupyrec.saving.checkpoint_writer import TableSource
from cupyrec.saving.safetensors_file import fill

TABLE_ROWS = (150, 9, 90)
DENSE_FEATURES, BATCH_SIZE, STEPS = 3, 4, 10
CONFIG = DlrmConfig(TABLE_ROWS, dense_features=DENSE_FEATURES, dimension=4, bottom=(6, 4), top=(5, 1), pooling="mean")
# A scratchpad that holds a batch or two, so that rows come and go at once.
SYSTEMS = {
    "resident": SystemConfig("resident"),
    "hybrid": SystemConfig("hybrid"),
    "static": SystemConfig("static", "30"),
    "serial": SystemConfig("serial", "45", 3, exchange="staged"),
    "scratchpipe": SystemConfig("scratchpipe", "45", 3, exchange="staged"),
}


def made_batches(count, *, first=0, samples=BATCH_SIZE):
    batches = []
    for seed in range(first, first + count):
        batch = random_batch(np.random.default_rng(seed), TABLE_ROWS, samples, dense_features=DENSE_FEATURES)
        batch.labels[:] = batch.dense[:, 0] > 0
        batches.append(batch)
    return batches


def made_source(count=STEPS, *, first=0):
    return BatchList(made_batches(count, first=first), TABLE_ROWS, DENSE_FEATURES)


class ShuffledBatches(BatchList):
    """Another order in each epoch, and begins anywhere."""

    seekable = True

    def batches(self, batch_size, *, on_progress=None, epoch=0, first_batch=0):
        order = np.random.default_rng(epoch).permutation(len(self._batches))
        for number in range(first_batch, len(order)):
            if on_progress is not None:
                on_progress((number + 1) / len(order))
            yield self._batches[order[number]]


def shuffled_source(count=STEPS):
    return ShuffledBatches(made_batches(count), TABLE_ROWS, DENSE_FEATURES)


def make_trainer(system, *, device="cpu", optimizer="adagrad", seed=5, config=CONFIG):
    if device == "gpu":
        device = emulated_device()
    how = {"threads": 1} if device == "cpu" else {}
    return Trainer(
        config, batch_size=BATCH_SIZE, seed=seed, system=SYSTEMS[system], device=device, optimizer=optimizer,
        schedule=0.05, **how,
    )  # fmt: skip


def bits(trainer):
    """All that training changes."""
    trainer.system.finish()
    model = trainer._model_state
    dense = b"".join(array.tobytes() for array in model.dense().values())
    return trainer.system.steps_done, trainer.system.table.records.tobytes(), dense


def loaded(folder, *args, **settings):
    """A trainer that took over a checkpoint."""
    trainer = make_trainer(*args, seed=99, **settings)
    trainer.load_checkpoint(folder)
    return trainer


def as_array(source):
    """The whole of a TensorSource."""
    array = np.empty(source.shape, source.dtype)
    fill(array, source)
    return array


class Gate:
    """Holds the thread that writes tables, once, after the last block of one of them, until it is opened."""

    def __init__(self, monkeypatch, *, table):
        """table: which of the tensors, 0-based."""
        self.reached, self._open = threading.Event(), threading.Event()
        self._at, self._seen = table, 0
        blocks = TableSource.blocks

        def held(source):
            yield from blocks(source)
            self._seen += 1
            if self._seen == self._at + 1:
                self.reached.set()
                self._open.wait(60)

        monkeypatch.setattr(TableSource, "blocks", held)

    def open(self, checkpoints):
        """And wait until the thread has ended: the checkpoint is completed at the end of this step."""
        self._open.set()
        checkpoints._writer._thread.join(60)
