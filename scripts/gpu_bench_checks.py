"""What is compared before anything is timed: the same model at a size at which the CPU, or NumPy, is quick."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from gpu_bench_scale import BatchSource, Locality, Scale, make_table

from cupyrec.batch import Batch, most_chunks
from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.gpu import GpuDevice
from cupyrec.embedding.gpu_coalesce import GpuCoalescer
from cupyrec.embedding.host_table import HostTable
from cupyrec.errors import DeviceError
from cupyrec.functions.embedding_bag import embedding_bag_forward
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.row_update import RowUpdate
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.optim.sgd import Sgd
from cupyrec.pipeline.exchange import Exchange, all_exchanges, staged_exchange
from cupyrec.systems.registry import make_system
from cupyrec.systems.train_stage import TrainStage

LEARNING_RATE = 0.01
CHECKED_STEPS = 12
SKEWED = Locality("Zipf 1.05", 1.05, 0)
# Largest relative error of a result, against the same in higher precision or on the CPU.
TOLERANCES = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 3e-2}


def small(config: DlrmConfig, rows: int) -> DlrmConfig:
    """The same model over small tables: the same kernels."""
    return replace(config, table_rows=(rows,) * config.features)


def make_stage(device: Any, config: DlrmConfig, max_samples: int, kind: type[TrainStage] = TrainStage) -> TrainStage:
    """A stage with a new model."""
    model = Dlrm(device, config, max_samples=max_samples, seed=1)
    return kind(device, model, Sgd(), WarmupPolynomialDecay(LEARNING_RATE, warmup_steps=0), max_samples=max_samples)


def small_batches(scale: Scale, host: CpuDevice, config: DlrmConfig, count: int) -> list[Batch]:
    """Skewed ones, so that rows have long segments and are used again."""
    return BatchSource(host, config, scale.check_batch_size, scale.bag_lookups, SKEWED).batches(count)


def exchanges_there(device: GpuDevice, table: HostTable) -> tuple[dict[str, Exchange], str]:
    """All exchanges by name, and ""; where the table's pages cannot be locked the staged one alone, and why."""
    try:
        return all_exchanges(device, table), ""
    except DeviceError as error:
        staged = staged_exchange(device, table)
        return {staged.name: staged}, str(error)


def trained_bytes(
    scale: Scale, device: Any, system: SystemConfig, exchange: str | None = None
) -> tuple[bytes, list[float]]:
    """All weights after a few steps, and the losses. exchange: by name; None: the one of `system`."""
    config = small(scale.config, scale.check_rows)
    stage = make_stage(device, config, scale.check_batch_size)
    table, _ = make_table(scale, device, config)
    made: Any = make_system(system, stage, table)
    if exchange is not None:
        made._exchange = exchanges_there(device, table)[0][exchange]
    batches = small_batches(scale, device.host, config, CHECKED_STEPS)
    losses = [float(result.loss) for result in made.train(iter(batches))]
    return table.records.tobytes() + device.download(stage.model.parameters).tobytes(), losses


def compile_for_host(scale: Scale) -> None:
    """Let the kernels of the host's CPU be compiled and kept, which takes half a minute where they are not."""
    for system in (SystemConfig("resident"), SystemConfig("hybrid"), SystemConfig("scratchpipe", "50%", 3)):
        trained_bytes(scale, CpuDevice(1), system)


def check_systems(scale: Scale, device: GpuDevice) -> dict[str, Any]:
    """Whether the scratchpad gives the bits of `resident`, and `resident` what the CPU gives but for rounding."""
    expected, losses = trained_bytes(scale, device, SystemConfig("resident"))
    config = small(scale.config, scale.check_rows)
    slots = str(2 * np.unique(small_batches(scale, device.host, config, 1)[0].rows).size)
    table, _ = make_table(scale, device, config)
    exchanges, _ = exchanges_there(device, table)
    values: dict[str, Any] = {}
    for exchange in exchanges:
        for name in ("scratchpipe", "serial"):
            trained, _ = trained_bytes(scale, device, SystemConfig(name, slots, 3), exchange)
            values[f"{name}, {exchange}: same bits"] = trained == expected
    _, on_cpu = trained_bytes(scale, CpuDevice(1), SystemConfig("resident"))
    values["largest relative error of a loss"] = float(np.max(np.abs(np.divide(losses, on_cpu) - 1)))
    right = all(value for key, value in values.items() if key.endswith("bits"))
    return judged(values, right and values["largest relative error of a loss"] < TOLERANCES[device.precision])


def check_rows(scale: Scale, device: GpuDevice, config: DlrmConfig) -> dict[str, Any]:
    """Pooling, and the coalesced update, of a small batch, against NumPy in double precision."""
    config = small(config, scale.check_rows)
    F, D, B = config.features, config.dimension, scale.check_batch_size
    batch = small_batches(scale, device.host, config, 1)[0]
    random = np.random.default_rng(1)
    records = random.standard_normal((sum(config.table_rows), D), np.float32)
    dY = random.standard_normal((B, F, D), np.float32)
    there = Batch(*(device.upload(each) for each in (batch.dense, batch.rows, batch.offsets, batch.labels)))
    on_device, Y = device.upload(records), device.upload(np.full((B, F, D), np.nan, np.float32))
    embedding_bag_forward(device, on_device, there.rows, there.offsets, Y, mean=False)
    coalescer = GpuCoalescer(device, config.table_rows)
    plan = coalescer.plan(there)
    sums = device.zeros((most_chunks(batch.lookups), D))
    gradient = device.upload(dY)
    update = RowUpdate(on_device, gradient, there.offsets, plan, False, partial_sums=sums)
    Sgd().update_rows(device, update, learning_rate=LEARNING_RATE)
    bags = np.repeat(np.arange(F * B), np.diff(batch.offsets))
    pooled = np.zeros((F * B, D))
    np.add.at(pooled, bags, records[batch.rows].astype(np.float64))
    updated = records.astype(np.float64)
    np.add.at(updated, batch.rows, -LEARNING_RATE * dY.transpose(1, 0, 2).reshape(F * B, D)[bags].astype(np.float64))
    values = {
        "pooling error": error_of(device.download(Y).transpose(1, 0, 2).reshape(F * B, D), pooled),
        "update error": error_of(device.download(on_device), updated),
    }
    return judged(values, max(values.values()) < TOLERANCES["fp32"])


def check_step(scale: Scale, device: GpuDevice) -> dict[str, Any]:
    """Parameters after one step from all rows, against the CPU's: the error of what has changed."""
    config = small(scale.config, scale.check_rows)
    results = []
    for each in (device, CpuDevice(1)):
        stage = make_stage(each, config, scale.check_batch_size)
        table, _ = make_table(scale, each, config)
        system = make_system(SystemConfig("resident"), stage, table)
        before = np.array(each.download(stage.model.parameters))
        for _ in system.train(iter(small_batches(scale, each.host, config, 1))):
            pass
        results.append(each.download(stage.model.parameters) - before)
    values = {"error of the parameters' change": error_of(*results)}
    return judged(values, values["error of the parameters' change"] < 10 * TOLERANCES[device.precision])


def error_of(actual: np.ndarray, expected: np.ndarray) -> float:
    """|actual - expected| / |expected|, of all elements together; NaN becomes infinity."""
    error = float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), 1e-30))
    return error if np.isfinite(error) else float("inf")


def judged(values: dict[str, Any], right: bool) -> dict[str, Any]:
    """The values, and `mismatch` where they are wrong: what depends on them is not timed then."""
    return {**values, "right": right} if right else {**values, "mismatch": True}
