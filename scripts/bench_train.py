"""Training steps on the CPU, cupyrec against PyTorch and FBGEMM, in turn in one run on the same batches.

    pip install torch==2.13.0 fbgemm-gpu-cpu==1.8.0
    python scripts/bench_train.py --output docs/measured/train_cpu.json

Shapes: A: 26 tables x 100,000 rows, D 16, one lookup a bag, bottom 512-256-64-16, top 512-256-1.
        B: 8 tables x 1,000,000 rows, D 128, 20 lookups a bag, bottom 512-256-128, top 1024-1024-512-256-1.
Both: batch 2048, SGD, batches in memory, uniform rows.

torch_list is a tight loop over a list of sparse EmbeddingBags, as is usual; torch_tuned has one bag for all tables and
a malloc that keeps its memory. `*_embedding` is embedding forward, backward and SGD update alone; FBGEMM's CPU kernel
takes part in that where it is installed. All begin from the same weights; losses, and pooled vectors after four updates
of the embeddings alone, are compared before anything is timed.

Beside the times stand the floors: the matrix products alone, and the bytes of rows at the rate of a copy, both measured
in the same run. Each system has a process of its own, and they run in turn, so that no thread pool disturbs another's;
a turn is one step to warm up and three that are timed, for training runs step after step. Times are medians of the
turns, ratios medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from machine import processor_name, versions
from torch.nn import functional

from cupyrec.batch import Batch
from cupyrec.config import DlrmConfig
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.host_table import HostTable
from cupyrec.functions.embedding_bag import embedding_bag_forward
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.row_update import RowUpdate
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.optim.sgd import Sgd
from cupyrec.systems.resident import ResidentSystem
from cupyrec.systems.train_stage import TrainStage

BATCH_SIZE = 2048
LEARNING_RATE = 0.01
BATCHES = 8
SHAPES = {
    "A": (DlrmConfig((100_000,) * 26, 13, 16, (512, 256, 64, 16), (512, 256, 1)), 1),
    "B": (DlrmConfig((1_000_000,) * 8, 13, 128, (512, 256, 128), (1024, 1024, 512, 256, 1)), 20),
}
FLOAT_BYTES = 4
# Of glibc: memory once taken is kept, so that large tensors are not paged in anew on every step.
TUNED_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
WARM_STEPS, STEPS_A_TURN = 1, 4
# In the place of a step's number: run batch 0 forward, and return the sum of the pooled vectors.
CHECK = -1
# Between two turns: threads of the process before stop spinning.
PAUSE_S = 0.03


def make_batches(config: DlrmConfig, bag_lookups: int) -> list[Batch]:
    """Uniform rows, standard normal dense features, a quarter of the labels 1."""
    random = np.random.default_rng(1)
    batches = []
    for _ in range(BATCHES):
        ids = [random.integers(0, rows, BATCH_SIZE * bag_lookups) for rows in config.table_rows]
        starts = np.concatenate([[0], np.cumsum(config.table_rows)[:-1]])
        batches.append(
            Batch(
                dense=random.standard_normal((BATCH_SIZE, config.dense_features), dtype=np.float32),
                rows=np.concatenate([start + each for start, each in zip(starts, ids, strict=True)]),
                offsets=np.arange(0, config.features * BATCH_SIZE * bag_lookups + 1, bag_lookups),
                labels=(random.random(BATCH_SIZE) < 0.25).astype(np.float32),
            ).validate(config.table_rows, config.dense_features)
        )
    return batches


class TorchDlrm(torch.nn.Module):
    """The same model in PyTorch, with weights copied from ours."""

    def __init__(self, model: Dlrm, table: HostTable, *, one_bag: bool) -> None:
        super().__init__()
        config = model.config
        self.one_bag, self.features, self.dimension = one_bag, config.features, config.dimension
        tables = (
            [table.records[:, : config.dimension]]
            if one_bag
            else [table.weights_of(each) for each in range(config.features)]
        )
        self.bags = torch.nn.ModuleList(
            torch.nn.EmbeddingBag.from_pretrained(
                torch.tensor(weights), freeze=False, mode="sum", sparse=True, include_last_offset=True
            )
            for weights in tables
        )
        self.bottom = _layers(model.bottom, last_relu=True)
        self.top = _layers(model.top, last_relu=False)
        self.lower = torch.tril_indices(config.features + 1, config.features + 1, offset=-1)

    def forward(self, dense: torch.Tensor, inputs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        x = self.bottom(dense)
        if self.one_bag:
            pooled = self.bags[0](*inputs[0]).view(self.features, -1, self.dimension).transpose(0, 1)
            z = torch.cat([x.unsqueeze(1), pooled], dim=1)
        else:
            z = torch.stack([x, *(bag(*each) for bag, each in zip(self.bags, inputs, strict=True))], dim=1)
        pairs = torch.bmm(z, z.transpose(1, 2))[:, self.lower[0], self.lower[1]]
        return self.top(torch.cat([x, pairs], dim=1)).squeeze(1)


def _layers(mlp, *, last_relu: bool) -> torch.nn.Sequential:
    parts: list[torch.nn.Module] = []
    for number, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True), start=1):
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
        parts.append(layer)
        if last_relu or number < len(mlp.weights):
            parts.append(torch.nn.ReLU())
    return torch.nn.Sequential(*parts)


def torch_inputs(config: DlrmConfig, batch: Batch, *, one_bag: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and offsets of every bag of tables, made before anything is timed."""
    if one_bag:
        return [(torch.tensor(batch.rows), torch.tensor(batch.offsets))]
    inputs, start = [], 0
    for feature, rows in enumerate(config.table_rows):
        offsets = batch.offsets[feature * BATCH_SIZE : (feature + 1) * BATCH_SIZE + 1]
        ids = batch.rows[offsets[0] : offsets[-1]] - start
        inputs.append((torch.tensor(ids), torch.tensor(offsets - offsets[0])))
        start += rows
    return inputs


def torch_stepper(model: TorchDlrm, config: DlrmConfig, batches: list[Batch]) -> Callable[[int], float]:
    """One call, one training step; returns its loss."""
    prepared = [
        (torch.tensor(b.dense), torch_inputs(config, b, one_bag=model.one_bag), torch.tensor(b.labels)) for b in batches
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def step(number: int) -> float:
        dense, inputs, labels = prepared[number % len(prepared)]
        optimizer.zero_grad(set_to_none=True)
        loss = functional.binary_cross_entropy_with_logits(model(dense, inputs), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torch_embedding_stepper(model: TorchDlrm, config: DlrmConfig, batches: list[Batch]) -> Callable[[int], float]:
    """Embedding forward, backward and SGD update alone, with a gradient of ones; asked for CHECK, forward alone."""
    prepared = [torch_inputs(config, batch, one_bag=model.one_bag) for batch in batches]
    optimizer = torch.optim.SGD(model.bags.parameters(), lr=LEARNING_RATE)

    def step(number: int) -> float:
        if number == CHECK:
            return sum(float(bag(*each).double().sum()) for bag, each in zip(model.bags, prepared[0], strict=True))
        optimizer.zero_grad(set_to_none=True)
        pooled = [bag(*each) for bag, each in zip(model.bags, prepared[number % len(prepared)], strict=True)]
        torch.autograd.backward(pooled, [torch.ones_like(each) for each in pooled])
        optimizer.step()
        return 0.0

    return step


def fbgemm_embedding_stepper(table: HostTable, config: DlrmConfig, batches: list[Batch]) -> Callable[[int], float]:
    """The same as torch_embedding_stepper with FBGEMM's kernel, which fuses backward and update."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    bags = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, config.dimension, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows in config.table_rows],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=LEARNING_RATE,
    )
    for number, weights in enumerate(bags.split_embedding_weights()):
        weights.copy_(torch.tensor(table.weights_of(number)))
    starts = np.repeat(np.cumsum((0, *config.table_rows[:-1])), batches[0].lookups // config.features)
    prepared = [(torch.tensor(batch.rows - starts), torch.tensor(batch.offsets)) for batch in batches]
    gradient = torch.ones(BATCH_SIZE, config.features * config.dimension)

    def step(number: int) -> float:
        if number == CHECK:
            return float(bags(*prepared[0]).double().sum())
        bags(*prepared[number % len(prepared)]).backward(gradient)
        return 0.0

    return step


def cupyrec_stepper(device: CpuDevice, model: Dlrm, table: HostTable, batches: list[Batch]) -> Callable[[int], float]:
    """One call, one step of the resident system."""
    stage = TrainStage(device, model, Sgd(), WarmupPolynomialDecay(LEARNING_RATE), max_samples=BATCH_SIZE)
    system = ResidentSystem(stage, table)

    results = system.train(itertools.cycle(batches))
    return lambda _number: next(results).loss


def cupyrec_embedding_stepper(
    device: CpuDevice, config: DlrmConfig, table: HostTable, batches: list[Batch]
) -> Callable[[int], float]:
    """Embedding forward, coalescing, backward and SGD update alone, with a gradient of ones; CHECK as above."""
    Y = device.zeros((BATCH_SIZE, config.features, config.dimension))
    dY = device.zeros((BATCH_SIZE, config.features, config.dimension))
    dY[...] = 1
    coalescer, optimizer = Coalescer(device, config.table_rows), Sgd()

    def step(number: int) -> float:
        if number == CHECK:
            embedding_bag_forward(device, table.records, batches[0].rows, batches[0].offsets, Y, mean=False)
            return float(Y.sum(dtype=np.float64))
        batch = batches[number % len(batches)]
        embedding_bag_forward(device, table.records, batch.rows, batch.offsets, Y, mean=False)
        update = RowUpdate(table.records, dY, batch.offsets, coalescer.plan(batch), mean=False)
        optimizer.update_rows(device, update, learning_rate=LEARNING_RATE)
        return 0.0

    return step


def products_stepper(device: CpuDevice, model: Dlrm) -> Callable[[int], float]:
    """The matrix products of a step and nothing else, cut over the threads as training does."""
    random = np.random.default_rng(2)
    products = []
    for mlp in (model.bottom, model.top):
        for layer, W in enumerate(mlp.weights):
            above, below = W.shape
            X = random.standard_normal((BATCH_SIZE, below), dtype=np.float32)
            Y = random.standard_normal((BATCH_SIZE, above), dtype=np.float32)
            products += [(X, W.T, np.empty_like(Y)), (Y.T, X, np.empty_like(W))]
            if mlp is model.top or layer:
                products.append((Y, W, np.empty_like(X)))

    def step(_number: int) -> float:
        for A, B, out in products:
            device.matmul(A, B, out)
        return 0.0

    return step


def products_flops(model: Dlrm) -> int:
    """Floating-point operations of products_stepper."""
    weights = [W.size for mlp in (model.bottom, model.top) for W in mlp.weights]
    return 2 * BATCH_SIZE * (3 * sum(weights) - model.bottom.weights[0].size)


def copy_stepper(device: CpuDevice) -> tuple[Callable[[int], float], int]:
    """A copy of 256 MB on all threads; and the bytes it reads and writes."""
    source, target = device.zeros(1 << 26), device.zeros(1 << 26)
    source[...] = 1

    def copy(start: int, stop: int) -> None:
        np.copyto(target[start:stop], source[start:stop])

    def step(_number: int) -> float:
        device.launch(copy, source.size)
        return 0.0

    return step, 2 * source.nbytes


def row_bytes(config: DlrmConfig, table: HostTable, batches: list[Batch]) -> int:
    """Bytes of rows that a step must read and write: each lookup once forward, each unique row in and out."""
    width = table.records.shape[1] * FLOAT_BYTES
    lookups = statistics.mean(batch.lookups for batch in batches)
    unique = statistics.mean(np.unique(batch.rows).size for batch in batches)
    return int(width * (lookups + 2 * unique))


def build(
    stack: ExitStack, shape: str, system: str, threads: int
) -> tuple[dict[str, Callable[[int], float]], dict[str, float]]:
    """In a worker process: what it can run, by name, and the constants that go with it."""
    config, bag_lookups = SHAPES[shape]
    batches = make_batches(config, bag_lookups)
    torch.set_num_threads(threads)
    device = CpuDevice(threads)
    model = Dlrm(device, config, max_samples=BATCH_SIZE, seed=1)
    table = HostTable(device, config.table_rows, config.dimension, seed=1)
    if system == "fbgemm":
        return {"fbgemm_embedding": fbgemm_embedding_stepper(table, config, batches)}, {}
    if system != "cupyrec":
        peer = TorchDlrm(model, table, one_bag=system != "torch_list")
        return {
            system: torch_stepper(peer, config, batches),
            f"{system}_embedding": torch_embedding_stepper(peer, config, batches),
        }, {}
    stack.enter_context(device.running())
    copy, copied_bytes = copy_stepper(device)
    return {
        system: cupyrec_stepper(device, model, table, batches),
        "cupyrec_embedding": cupyrec_embedding_stepper(device, config, table, batches),
        "products_alone": products_stepper(device, model),
        "copy": copy,
    }, {
        "copied_bytes": copied_bytes,
        "row_bytes": row_bytes(config, table, batches),
        "flops": products_flops(model),
    }


def work(connection: Connection, shape: str, system: str, threads: int) -> None:
    """A worker process: builds its model, then runs single steps when it is asked to."""
    with ExitStack() as stack:
        steppers, constants = build(stack, shape, system, threads)
        connection.send((list(steppers), constants))
        while (asked := connection.recv()) is not None:
            name, number, steps = asked
            losses = []
            if number == CHECK:
                connection.send((0.0, [steppers[name](CHECK)]))
                continue
            for step in range(number, number + steps):
                if step == number + WARM_STEPS:
                    begun = time.perf_counter()
                losses.append(steppers[name](step))
            connection.send(((time.perf_counter() - begun) * 1e3 / (steps - WARM_STEPS), losses))


def start_worker(shape: str, system: str, threads: int) -> tuple[Connection, list[str], dict[str, float]]:
    """Start a worker with the environment its system is to have; wait until it is ready."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    with patch.dict(os.environ, TUNED_MALLOC if system == "torch_tuned" else {}):
        multiprocessing.get_context("spawn").Process(
            target=work, args=(theirs, shape, system, threads), daemon=True
        ).start()
    names, constants = ours.recv()
    return ours, names, constants


def measure(shape: str, threads: int, rounds: int) -> dict[str, object]:
    """All figures of one shape."""
    workers: dict[str, Connection] = {}
    constants: dict[str, float] = {}
    systems = ("cupyrec", "torch_list", "torch_tuned")
    with_fbgemm = importlib.util.find_spec("fbgemm_gpu") is not None
    for system in (*systems, "fbgemm") if with_fbgemm else systems:
        connection, names, found = start_worker(shape, system, threads)
        workers |= dict.fromkeys(names, connection)
        constants |= found

    def turn(name: str, number: int) -> tuple[float, list[float]]:
        workers[name].send((name, number * STEPS_A_TURN, STEPS_A_TURN))
        return workers[name].recv()

    losses = {system: turn(system, 0)[1] for system in systems}
    for system in systems:
        np.testing.assert_allclose(losses[system], losses["cupyrec"], rtol=1e-5, err_msg=system)
    pooled = {}
    for name in (each for each in workers if each.endswith("_embedding")):
        turn(name, 0)
        workers[name].send((name, CHECK, 0))
        pooled[name] = workers[name].recv()[1][0]
        np.testing.assert_allclose(pooled[name], pooled["cupyrec_embedding"], rtol=1e-4, err_msg=name)
    times: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(1, rounds + 1):
        for name in workers:
            time.sleep(PAUSE_S)
            times[name].append(turn(name, number)[0])
    for connection in set(workers.values()):
        connection.send(None)
    medians = {name: statistics.median(values) for name, values in times.items()}
    copy_rate = constants["copied_bytes"] / medians["copy"] / 1e6
    embedding_floor = constants["row_bytes"] / copy_rate / 1e6

    def ratio(above: str, below: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[above], times[below], strict=True)), 3)

    return {
        "shape": shape,
        "median_ms": {name: round(value, 2) for name, value in medians.items()},
        "min_ms": {name: round(min(values), 2) for name, values in times.items()},
        "copy_GB_per_s": round(copy_rate, 1),
        "products_GFLOP_per_s": round(constants["flops"] / medians["products_alone"] / 1e6, 1),
        "embedding_floor_ms": round(embedding_floor, 2),
        "step_floor_ms": round(embedding_floor + medians["products_alone"], 2),
        "cupyrec_over_torch_list": ratio("cupyrec", "torch_list"),
        "cupyrec_over_torch_tuned": ratio("cupyrec", "torch_tuned"),
        "torch_list_over_cupyrec_embedding": ratio("torch_list_embedding", "cupyrec_embedding"),
        **({"fbgemm_over_cupyrec_embedding": ratio("fbgemm_embedding", "cupyrec_embedding")} if with_fbgemm else {}),
        "first_losses": losses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=sorted(SHAPES), help="default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    report = {
        "machine": {"cpu": processor_name(), "threads": arguments.threads},
        "versions": versions("cupyrec", "numpy", "numba", "torch", "fbgemm-gpu-cpu"),
        "batch_size": BATCH_SIZE,
        "rounds": arguments.rounds,
        "shapes": [measure(shape, arguments.threads, arguments.rounds) for shape in arguments.shape or sorted(SHAPES)],
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
