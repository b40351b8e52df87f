"""Uploads hold the batch that was filled in last, whatever its size, with the host's threads or without."""

import numpy as np
import pytest
from gpu_devices import emulated_device

from cupyrec.batch import Batch
from cupyrec.pipeline.gpu_ring import BatchUpload

DENSE = 3
# Samples and lookups; the last ones are copied in parts.
SIZES = [(0, 0), (1, 0), (1, 1), (7, 5), (100, 130_000), (100, 132_000), (50_000, 1), (999, 300_001), (20_000, 400_007)]


def made_batch(samples, lookups, seed=0):
    numbers = np.random.default_rng(seed)
    return Batch(
        numbers.standard_normal((samples, DENSE)).astype(np.float32),
        numbers.integers(0, 2**62, lookups),
        numbers.integers(0, 2**62, 2 * samples + 1),
        numbers.integers(0, 2, samples).astype(np.float32),
    )


def assert_holds(upload, batch):
    """Each array of the batch is in page-locked memory, bit for bit."""
    arrays = batch.dense, batch.rows, batch.offsets, batch.labels
    for memory, array in zip(upload._memory, arrays, strict=True):
        held = memory.host(array.shape[0])
        assert held.shape == array.shape
        assert held.tobytes() == array.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("is_running", [False, True], ids=["not running", "running"])
def test_holds_the_batch_filled_in_last(threads, is_running):
    device = emulated_device(threads=threads)
    upload = BatchUpload(device, DENSE)

    def fill():
        for number, (samples, lookups) in enumerate([*SIZES, *reversed(SIZES)]):
            batch = made_batch(samples, lookups, number)
            upload.fill(batch)
            assert_holds(upload, batch)

    if is_running:
        with device.running():
            fill()
    else:
        fill()


def test_arrays_need_not_be_contiguous():
    upload, batch = BatchUpload(emulated_device(), DENSE), made_batch(200, 501)
    every_other = Batch(batch.dense[::2, ::-1], batch.rows[::2], batch.offsets[::2], batch.labels[::2])
    upload.fill(every_other)
    assert_holds(upload, every_other)
