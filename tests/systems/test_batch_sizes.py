"""Batches of other sizes in between: each has graphs of its own, and none is replayed for another size."""

import numpy as np
import pytest
from batch_strategies import random_batch
from emulated_cuda import EmulatedCuda
from gpu_devices import emulated_device
from made_systems import DENSE_FEATURES, small_config
from test_gpu_systems import ALL_SYSTEMS, TABLE_ROWS, system_config, trained

from cupyrec.devices.gpu import GpuDevice

SIZES = (4, 4, 4, 2, 2, 2, 4, 4, 4, 1, 4, 4, 4, 3)


def batches():
    numbers = np.random.default_rng(7)
    return [random_batch(numbers, TABLE_ROWS, size, dense_features=DENSE_FEATURES, most_lookups=3) for size in SIZES]


@pytest.mark.parametrize(("dimension", "pooling"), [(3, "mean"), (4, "sum")])
@pytest.mark.parametrize("name", ALL_SYSTEMS)
def test_graphs_give_the_bits_of_single_launches(name, dimension, pooling):
    config = small_config(TABLE_ROWS, pooling, dimension)
    expected = trained(system_config(name), emulated_device(graphs=False), batches(), config=config)
    for order in ("latest:gradients", "earliest:gradients", "lazy"):
        assert trained(system_config(name), emulated_device(order), batches(), config=config) == expected, order
    unlocked = GpuDevice(EmulatedCuda("lazy", lockable=False), threads=1, say=lambda line: None)
    assert trained(system_config(name), unlocked, batches(), config=config) == expected
