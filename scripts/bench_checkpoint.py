"""Measure what a checkpoint costs while training goes on: seconds, slower steps, pauses, memory; beside a plain write.

    python scripts/bench_checkpoint.py --output docs/measured/checkpoint.json

A model with 26 tables, 2 GB of weights and row-wise Adagrad's state in all, is trained by `resident` on the CPU, on
random batches whose rows are skewed: the share u**3 of a table for a uniform u. Each round trains some steps without a
checkpoint, then until one is whole that begins at once: a thread writes the tables, and what training changed meanwhile
is written at the end, while training waits. `floor` is a plain write of as many bytes, 8 MB at a time, with fsync, to
the same disk. Memory is the peak of the resident set while the checkpoint is made, over what it was just before.
One round is for warming up; of the others the fastest, or for memory and pauses the largest, is told.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor_name, versions

from cupyrec import DlrmConfig, Trainer
from cupyrec.batch import Batch, table_offsets
from cupyrec.saving.safetensors_file import BLOCK_BYTES

TABLES, DIMENSION, DENSE_FEATURES, BATCH_SIZE = 26, 16, 13, 2048
# Weights and row-wise Adagrad's state.
ROW_BYTES = (DIMENSION + 1) * 4
MADE_BATCHES = 200


class RandomBatches:
    """The same batches over and over."""

    validated = True
    dense_features = DENSE_FEATURES

    def __init__(self, table_rows: tuple[int, ...]) -> None:
        self.table_rows = table_rows
        random, starts = np.random.default_rng(1), table_offsets(table_rows)[:-1, None]
        shape = (TABLES, BATCH_SIZE)
        self._batches = [
            Batch(
                random.random((BATCH_SIZE, DENSE_FEATURES), np.float32),
                (starts + (random.random(shape) ** 3 * table_rows[0]).astype(np.int64)).reshape(-1),
                np.arange(TABLES * BATCH_SIZE + 1, dtype=np.int64),
                random.integers(2, size=BATCH_SIZE).astype(np.float32),
            )
            for _ in range(MADE_BATCHES)
        ]

    def batches(
        self, batch_size: int, *, on_progress: Callable[[float], None] | None = None
    ) -> Generator[Batch, None, None]:
        while True:
            yield from self._batches


def resident_bytes(name: str) -> int:
    """VmRSS: now; VmHWM: the peak since it was forgotten."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"{name} is not known on this system")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def seconds_per_step(trainer: Trainer, source: RandomBatches, steps: int) -> float:
    started = time.perf_counter()
    trainer.fit(source, max_steps=steps)
    return (time.perf_counter() - started) / steps


def train_with_a_checkpoint(trainer: Trainer, source: RandomBatches, folder: Path) -> dict[str, Any]:
    """One checkpoint, begun after the first step. What it cost."""
    checkpoints, calls, steps = trainer.checkpoints(folder, every=1), [], []
    take = checkpoints.take

    def timed(state: Any) -> None:
        started = time.perf_counter()
        take(state)
        calls.append((started, time.perf_counter()))

    checkpoints.take = timed  # type: ignore[method-assign]
    forget_peak()
    before = resident_bytes("VmRSS")
    trainer.fit(
        source,
        on_step=lambda step, share: steps.append(step.step),
        stop_requested=lambda: len(calls) >= 2,
        checkpoints=checkpoints,
    )
    grown = resident_bytes("VmHWM") - before
    (begun, went_on), (waited, whole) = calls
    made = checkpoints.folder.newest
    assert made is not None
    sizes = {path.name: path.stat().st_size for path in made.iterdir()}
    return {
        "bytes": sum(sizes.values()),
        "patch_bytes": sizes.get("patch.safetensors", 0),
        "seconds": whole - begun,
        "seconds_per_step": (waited - went_on) / (len(steps) - 1),
        "pause_seconds": went_on - begun + whole - waited,
        "memory_bytes": grown,
    }


def plain_write(folder: Path, size_bytes: int) -> float:
    """Seconds for as many bytes, with fsync."""
    block = np.random.default_rng(2).bytes(BLOCK_BYTES)
    started = time.perf_counter()
    with open(folder / "plain", "wb", buffering=0) as file:
        for start in range(0, size_bytes, BLOCK_BYTES):
            file.write(block[: size_bytes - start])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    (folder / "plain").unlink()
    return seconds


def measure(folder: Path, table_rows: tuple[int, ...], *, threads: int, steps: int, rounds: int) -> dict[str, Any]:
    config = DlrmConfig(table_rows, dense_features=DENSE_FEATURES, dimension=DIMENSION, bottom=(128, 16), top=(128, 1))
    source = RandomBatches(table_rows)
    trainer = Trainer(config, batch_size=BATCH_SIZE, system="resident", device="cpu", threads=threads)
    seconds_per_step(trainer, source, steps)  # compiles, and touches memory
    found, plain, alone = [], [], []
    for each_round in range(rounds + 1):
        alone.append(seconds_per_step(trainer, source, steps))
        place = folder / f"checkpoints-{each_round}"
        found.append(train_with_a_checkpoint(trainer, source, place))
        shutil.rmtree(place)
        plain.append(plain_write(folder, found[-1]["bytes"]))
    found, plain, alone = found[1:], plain[1:], alone[1:]
    seconds, slower = min(each["seconds"] for each in found), min(each["seconds_per_step"] for each in found)
    return {
        "checkpoint_bytes": max(each["bytes"] for each in found),
        "patch_bytes": max(each["patch_bytes"] for each in found),
        "seconds": round(seconds, 3),
        "floor_seconds": round(min(plain), 3),
        "times_the_floor": round(seconds / min(plain), 2),
        "seconds_per_step_alone": round(min(alone), 5),
        "seconds_per_step_meanwhile": round(slower, 5),
        "times_slower_steps": round(slower / min(alone), 2),
        "longest_pause_seconds": round(max(each["pause_seconds"] for each in found), 3),
        "most_memory_bytes": max(each["memory_bytes"] for each in found),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of weights and state (default %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="steps without a checkpoint (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made (default: the system's)")
    parser.add_argument("--output", type=Path, help="file for the results (default: standard output)")
    options = parser.parse_args(arguments)

    rows = round(options.gigabytes * 1e9 / ROW_BYTES / TABLES)
    cores = len(os.sched_getaffinity(0))
    results: dict[str, Any] = {
        "processor": processor_name(),
        "cores": cores,
        "versions": versions("cupyrec", "numpy", "numba"),
        "tables": TABLES,
        "rows_per_table": rows,
        "dimension": DIMENSION,
        "optimizer": "rowwise-adagrad",
        "table_bytes": TABLES * rows * ROW_BYTES,
        "batch_size": BATCH_SIZE,
        "rounds": options.rounds,
    }
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-checkpoint-") as name:
        for threads in sorted({1, cores}):
            results[f"threads_{threads}"] = measure(
                Path(name), (rows,) * TABLES, threads=threads, steps=options.steps, rounds=options.rounds
            )
    results["peak_memory_of_all_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    text = json.dumps(results, indent=2)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
