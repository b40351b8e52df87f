"""The promise: `serial` and `scratchpipe` give the weights of `resident`, bit for bit."""

import itertools
import random
import time

import numpy as np
import pytest
from batch_strategies import random_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.host_table import HostTable
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.registry import make_optimizer
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.systems.registry import make_system
from cupyrec.systems.train_stage import TrainStage


def make(system, config, *, optimizer="sgd", threads=1, max_samples=16, seed=1):
    device, made = CpuDevice(threads), make_optimizer(optimizer, eps=1e-8)
    model = Dlrm(device, config, max_samples=max_samples, seed=seed)
    state_width = made.row_state_width(config.dimension)
    table = HostTable(device, config.table_rows, config.dimension, state_width=state_width, seed=seed)
    stage = TrainStage(device, model, made, WarmupPolynomialDecay(0.05, warmup_steps=3), max_samples=max_samples)
    return make_system(system, stage, table, seed=seed)


def bits(system):
    return system.table.records.tobytes() + system.model.parameters.tobytes()


def run(system, batches, probe=None, every=3):
    """(bits of all weights, losses, what was predicted on the probe every so many steps)."""
    losses, logits = [], []
    for result in system.train(iter(batches)):
        losses.append(result.loss)
        if probe is not None and result.step % every == 0:
            logits.append(np.array(system.predict(probe)).tobytes())
    system.finish()
    return bits(system), losses, logits


CONFIG = DlrmConfig((30, 1, 9), 2, 3, (4, 3), (5, 1))


@pytest.mark.parametrize("name", ["serial", "scratchpipe"])
def test_smoke(name):
    random = np.random.default_rng(1)
    batches = [random_batch(random, CONFIG.table_rows, 4, dense_features=2) for _ in range(20)]
    probe = random_batch(random, CONFIG.table_rows, 6, dense_features=2)
    expected = run(make(SystemConfig("resident"), CONFIG), batches, probe)
    got = run(make(SystemConfig(name, scratchpad="20", lookahead=4), CONFIG), batches, probe)
    assert got == expected
