"""Small systems with the same model and the same initial weights, and what a run of one gives."""

from __future__ import annotations

import random
import time
from contextlib import closing

import numpy as np
from batch_strategies import random_batch

from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.host_table import HostTable
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.registry import make_optimizer
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.systems.registry import make_system
from cupyrec.systems.scratchpipe import ScratchpipeSystem
from cupyrec.systems.table_memory import TableMemory
from cupyrec.systems.train_stage import TrainStage

MAX_SAMPLES = 8
DENSE_FEATURES = 2


def small_config(table_rows, pooling="sum", dimension=3):
    """Three tables: the compiled kernels are the same for all."""
    assert len(table_rows) == 3
    return DlrmConfig(tuple(table_rows), DENSE_FEATURES, dimension, (4, dimension), (5, 1), pooling=pooling)


def stage_and_table(config, *, optimizer="sgd", threads=1, max_samples=MAX_SAMPLES, seed=1, device=None, system=None):
    """device: a CpuDevice with so many threads when None; system: where its configuration wants the table."""
    device, made = device or CpuDevice(threads), make_optimizer(optimizer, eps=1e-8)
    model = Dlrm(device, config, max_samples=max_samples, seed=seed)
    state_width = made.row_state_width(config.dimension)
    zeros = TableMemory(system or SystemConfig(), device).zeros
    table = HostTable(device.host, config.table_rows, config.dimension, state_width=state_width, seed=seed, zeros=zeros)
    schedule = WarmupPolynomialDecay(0.05, warmup_steps=3)
    return TrainStage(device, model, made, schedule, max_samples=max_samples), table


def made_batches(table_rows, sizes, seed=1, most_lookups=3):
    """sizes: samples of each; a bag has up to most_lookups."""
    numbers = np.random.default_rng(seed)
    return [
        random_batch(numbers, table_rows, size, dense_features=DENSE_FEATURES, most_lookups=most_lookups)
        for size in sizes
    ]


def made_system(system, config, **settings):
    """system: its name, or a SystemConfig."""
    system = SystemConfig(system) if isinstance(system, str) else system
    stage, table = stage_and_table(config, system=system, **settings)
    return make_system(system, stage, table)


class DelayedSystem(ScratchpipeSystem):
    """Every stage takes its time, before and after it works, and another one each time."""

    def slow_down(self, seed, most_ms):
        self._random, self._most_s = random.Random(seed), most_ms / 1e3
        return self

    def delay(self):
        time.sleep(self._random.choice((0, 0, self._random.random())) * self._most_s)

    def _stages(self, work, source):
        def delayed(stage):
            def do(number):
                self.delay()
                ended = stage(number)
                self.delay()
                return ended

            return do

        return {name: delayed(stage) for name, stage in super()._stages(work, source).items()}


def weights(system):
    """All of them, optimizer state of the rows included, as bytes."""
    model = system.model
    return system.table.records.tobytes() + model.device.download(model.parameters).tobytes()


def run(system, batches, *, probe=None, probe_steps=(), finish_steps=(), stop_after=None):
    """Train; returns all that can be seen of it, to be compared with ==.

    probe: a batch to predict after each of probe_steps; the weights are looked at after each of finish_steps.
    """
    seen: list = []
    with closing(system.train(iter(batches))) as results:
        for result in results:
            seen.append((result.step, result.samples, result.learning_rate, result.loss))
            if result.step in probe_steps:
                seen.append(np.array(system.predict(probe)).tobytes())
            if result.step in finish_steps:
                system.finish()
                seen.append(weights(system))
            if result.step == stop_after:
                break
    seen.append(weights(system))
    if probe is not None:
        seen.append(np.array(system.predict(probe)).tobytes())
    # Not before: whoever asks for a loss lets a GPU catch up.
    return [(*each[:3], float(each[3])) if isinstance(each, tuple) else each for each in seen]
