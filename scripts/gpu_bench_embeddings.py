"""Embeddings alone, at the size of a published peer: 10 tables, D 128, 1.05 million lookups, Zipf 1.05, SGD.

Forward is the pooling of all bags; backward the coalesced update. Measured are: both with all rows on the device, the
coalescing made before, or counted too; and scratchpipe over a host table with the smallest MLPs that the model allows
(one layer each), which is all that the pipeline does and a dense part beside.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import numpy as np
from gpu_bench_checks import LEARNING_RATE, check_rows, make_stage
from gpu_bench_report import Section
from gpu_bench_runs import TimedExchange, TimedTrainStage, batches_needed, free_memory, timed_steps
from gpu_bench_scale import FLOAT_BYTES, BatchSource, Scale, make_table
from gpu_bench_timing import gb_s, graph_ms, kernel_times
from gpu_bench_train import load_batches, random_records

from cupyrec.batch import most_chunks
from cupyrec.config import SystemConfig
from cupyrec.devices.gpu import GpuDevice
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.gpu_coalesce import GpuCoalesceMemory, GpuCoalescer
from cupyrec.functions.embedding_bag import embedding_bag_forward
from cupyrec.optim.row_update import RowUpdate
from cupyrec.optim.sgd import Sgd
from cupyrec.pipeline.exchange import make_exchange
from cupyrec.systems.registry import make_system

# The published peer (TorchRec with FBGEMM) on an H100: forward and backward with all rows on the GPU, and through its
# cache of rows in host memory.
PEER_MS, PEER_CACHE_MS = 0.96, 4.15


def measure_embeddings(section: Section, scale: Scale, device: GpuDevice) -> None:
    """All items of the section."""
    if section.measure("check", 10, lambda: check_rows(scale, device, scale.peer_config)) is None:
        return
    with device.running():
        section.measure("all rows on the device", 15, lambda: on_device(peer_scale(scale), device))
        free_memory(device)
        section.measure("scratchpipe", 25, lambda: through_scratchpad(peer_scale(scale), device))
        free_memory(device)


def peer_scale(scale: Scale) -> Scale:
    """The same scale with the peer's model and batch."""
    return replace(scale, config=scale.peer_config, batch_size=scale.peer_batch_size)


def described(scale: Scale) -> dict[str, Any]:
    """What is measured."""
    return {
        "tables": scale.config.features,
        "table_rows": scale.config.table_rows[0],
        "dimension": scale.config.dimension,
        "batch_size": scale.batch_size,
        "bag_lookups": scale.bag_lookups,
        "lookups": scale.lookups,
        "rows": scale.peer_locality.name,
    }


def on_device(scale: Scale, device: GpuDevice) -> dict[str, Any]:
    """Forward and backward over batches in turn, in one graph: no time of the host is in it."""
    config, locality = scale.config, scale.peer_locality
    B, F, D = scale.batch_size, config.features, config.dimension
    records = random_records(device, sum(config.table_rows), D)
    loaded = load_batches(scale, device, config, locality)
    unique = statistics.mean(int(device.download(plan.unique_count)[0]) for _, plan in loaded)
    Y = device.zeros((B, F, D))
    dY = device.upload(np.random.default_rng(1).standard_normal((B, F, D), np.float32))
    sums = device.zeros((most_chunks(scale.lookups), D))
    coalescer, memory = GpuCoalescer(device, config.table_rows), GpuCoalesceMemory()
    memory.reserve(device, scale.lookups)

    def pool(batch: Any) -> None:
        embedding_bag_forward(device, records, batch.rows, batch.offsets, Y, mean=False)

    def update(batch: Any, plan: Any) -> None:
        of_batch = RowUpdate(records, dY, batch.offsets, plan, False, partial_sums=sums)
        Sgd().update_rows(device, of_batch, learning_rate=LEARNING_RATE)

    def forward() -> None:
        for batch, _ in loaded:
            pool(batch)

    def backward() -> None:
        for batch, plan in loaded:
            update(batch, plan)

    def coalesce() -> None:
        for batch, _ in loaded:
            coalescer.plan(batch, memory)

    def both() -> None:
        for batch, plan in loaded:
            pool(batch)
            update(batch, plan)

    def all_three() -> None:
        for batch, _ in loaded:
            plan = coalescer.plan(batch, memory)
            pool(batch)
            update(batch, plan)

    ms = {
        work.__name__: graph_ms(device, work, 3) / len(loaded)
        for work in (both, all_three, forward, backward, coalesce)
    }
    batch, plan = loaded[0]
    row_bytes = FLOAT_BYTES * D
    return {
        **described(scale),
        "unique_rows": round(unique),
        "forward_backward_ms": round(ms["both"], 4),
        "with_coalescing_ms": round(ms["all_three"], 4),
        "forward_ms": round(ms["forward"], 4),
        "backward_ms": round(ms["backward"], 4),
        "coalescing_ms": round(ms["coalesce"], 4),
        "forward_lookups_gb_s": gb_s(row_bytes * (scale.lookups + B * F), ms["forward"]),
        "backward_unique_gb_s": gb_s(row_bytes * (2 * unique + B * F), ms["backward"]),
        "kernels": [
            *kernel_times(device, lambda: pool(batch), scale.repeats),
            *kernel_times(device, lambda: update(batch, plan), scale.repeats),
        ],
        "published_peer_ms": PEER_MS,
        "times_published_peer": round(PEER_MS / ms["both"], 3) if ms["both"] else 0.0,
    }


def through_scratchpad(scale: Scale, device: GpuDevice) -> dict[str, Any]:
    """Steps of scratchpipe; `train` among the stages is pooling, update and the smallest dense part together."""
    config, locality = scale.config, scale.peer_locality
    table, memory = make_table(scale, device, config)
    said: list[str] = []
    exchange = TimedExchange(make_exchange("auto", device, table, said.append))
    source = BatchSource(device.host, config, scale.batch_size, scale.bag_lookups, locality)
    first = source.batch(0)
    unique = Coalescer(device.host, config.table_rows).plan(first).unique
    rows = sum(config.table_rows)
    slots = max(int(rows * float(scale.peer_share.rstrip("%")) / 100), 1)
    lookahead = min(max(4 * slots // unique, 2), scale.most_lookahead)
    stage = make_stage(device, config, scale.batch_size, TimedTrainStage)
    system: Any = make_system(SystemConfig("scratchpipe", str(slots), lookahead), stage, table)
    system._exchange = exchange
    batches = source.batches(batches_needed(scale, locality.fill_steps, lookahead))
    values = timed_steps(scale, system, stage, batches, exchange, locality.fill_steps)
    return {
        **described(scale),
        "unique_rows": unique,
        "memory": memory.name,
        "exchange": exchange.name,
        "exchange_said": said,
        **values,
        "published_peer_ms": PEER_CACHE_MS,
        "times_published_peer": round(PEER_CACHE_MS / values["step_ms"], 3) if values["step_ms"] else 0.0,
    }
