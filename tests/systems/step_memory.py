"""What a step of a system takes of memory when all its buffers have grown to their size."""

from __future__ import annotations

import tracemalloc

import numpy as np
from batch_strategies import random_batch
from made_systems import DENSE_FEATURES, made_system, small_config

from cupyrec.systems.step import ignore

SAMPLES, TABLE_ROWS = 8192, (20_000, 20_000, 20_000)
# Python's own objects and a few numbers a table; one batch's pooled vectors take four times as much.
MOST_BYTES = 64 * 1024
assert SAMPLES * 3 * 3 * 4 > 4 * MOST_BYTES


def bytes_of_a_steady_step(system, monkeypatch):
    """(bytes at the peak, arrays asked of the device) of the fourth step. system: a SystemConfig."""
    random = np.random.default_rng(1)
    batches = [random_batch(random, TABLE_ROWS, SAMPLES, dense_features=DENSE_FEATURES) for _ in range(4)]
    # The largest batch first: the memory of the plans has then grown to its size.
    batches.sort(key=lambda batch: -batch.lookups)
    made = made_system(system, small_config(TABLE_ROWS), threads=2, max_samples=SAMPLES)
    made.prepare(lambda: batches, ignore)
    device, asked = made._stage.device, []
    with device.running():
        steps = made.train(batches)
        for _ in range(3):
            next(steps)
        zeros = device.zeros
        monkeypatch.setattr(device, "zeros", lambda *shape: asked.append(shape) or zeros(*shape))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        next(steps)
        peak_bytes = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        steps.close()
    return peak_bytes, asked
