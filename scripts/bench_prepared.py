"""Measure how fast prepared data are read into batches, in order and shuffled, beside the copying of as many bytes.

    python scripts/bench_prepared.py --output docs/measured/prepared.json

Random samples of Criteo's shape, 13 dense features and 26 categories with tables of 10 million rows down to 200, are
written in the format of `cupyrec prepare` to a temporary folder, and read from the page cache. `first_pass` checks each
block, `second_pass` does not. One thread reads; the consumer adds up all numbers of each batch, and the sums must be
those of the data. `floor` is a memory copy of as many bytes as a sample has in the file and as are written for it,
measured between the passes. All is done in rounds, so that a change of the machine's speed meets all; the fastest and
the median are told. Exit code 1 when any reading, fastest round, is slower than BAR_SAMPLES_PER_SECOND.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from machine import processor_name, versions

from cupyrec.batch import table_offsets
from cupyrec.datasets.prepared import manifest
from cupyrec.datasets.prepared.encoding import encoding_id
from cupyrec.datasets.prepared.manifest import Category, InputFile, Manifest, Shard
from cupyrec.datasets.prepared.prepared_data import PreparedData

BAR_SAMPLES_PER_SECOND = 5_000_000
DENSE_FEATURES = 13
TABLE_ROWS = [10_000_000] * 5 + [100_000] * 9 + [50_000] * 6 + [200] * 6
BATCH_SIZES = (2048, 8192)
COPIED_BYTES = 2**28

Sums = tuple[int, float, float]


def write_samples(folder: Path, samples: int) -> Sums:
    """Write random prepared data. Returns the sums of all global rows, of dense values and of labels."""
    rng = np.random.default_rng(1)
    shards: list[Shard] = []
    rows, dense_sum, label_sum = 0, 0.0, 0.0
    for first in range(0, samples, manifest.SHARD_SAMPLES):
        count = min(manifest.SHARD_SAMPLES, samples - first)
        labels = rng.integers(2, size=count).astype(np.float32)
        dense = rng.random((count, DENSE_FEATURES), dtype=np.float32)
        columns = [rng.integers(size, size=count, dtype=np.min_scalar_type(size - 1)) for size in TABLE_ROWS]
        rows += sum(int(column.sum()) for column in columns) + count * int(table_offsets(TABLE_ROWS)[:-1].sum())
        dense_sum, label_sum = dense_sum + float(dense.sum(dtype=np.float64)), label_sum + float(labels.sum())
        shards.append(write_shard(folder / manifest.shard_name(len(shards)), labels, dense, columns))
    categories = tuple(Category(f"C{number}", rows) for number, rows in enumerate(TABLE_ROWS, start=1))
    content = Manifest(
        dense=tuple(f"I{number}" for number in range(1, DENSE_FEATURES + 1)),
        dense_transform="log",
        ids="hash",
        categories=categories,
        encoding=encoding_id("log", TABLE_ROWS, [None] * len(TABLE_ROWS)),
        inputs=(InputFile("random", samples),),
        shards=tuple(shards),
    )
    (folder / manifest.MANIFEST_FILE).write_text(manifest.manifest_json(content), encoding="utf-8")
    return rows, dense_sum, label_sum


def write_shard(path: Path, labels: np.ndarray, dense: np.ndarray, columns: list[np.ndarray]) -> Shard:
    dense_column = pa.FixedSizeListArray.from_arrays(pa.array(dense.reshape(-1)), DENSE_FEATURES)
    names = [manifest.LABEL_COLUMN, manifest.DENSE_COLUMN, *(f"C{number}" for number in range(1, len(columns) + 1))]
    arrays = [pa.array(labels), dense_column, *(pa.array(column) for column in columns)]
    whole = pa.RecordBatch.from_arrays(arrays, names=names)
    blocks = [whole.slice(at, manifest.BLOCK_SAMPLES) for at in range(0, len(labels), manifest.BLOCK_SAMPLES)]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, whole.schema) as writer:
        for block in blocks:
            writer.write_batch(block)
    checksums = tuple(manifest.block_checksum(block) for block in blocks)
    return Shard(path.name, len(labels), path.stat().st_size, checksums)


def read(data: PreparedData, batch_size: int, epoch: int) -> tuple[float, float, Sums]:
    """Seconds by the clock and of processor time of both threads, and the sums of all batches."""
    clock, processor = time.perf_counter(), time.process_time()
    rows, dense, labels = 0, 0.0, 0.0
    for batch in data.batches(batch_size, epoch=epoch):
        rows += int(batch.rows.sum())
        dense += float(batch.dense.sum())
        labels += float(batch.labels.sum())
    return time.perf_counter() - clock, time.process_time() - processor, (rows, dense, labels)


def copied_bytes_per_second() -> float:
    source, target = np.ones(COPIED_BYTES, np.uint8), np.ones(COPIED_BYTES, np.uint8)
    started = time.perf_counter()
    np.copyto(target, source)
    return COPIED_BYTES / (time.perf_counter() - started)


def check(found: Sums, expected: Sums) -> None:
    if found[0] != expected[0] or not np.allclose(found[1:], expected[1:], rtol=1e-5, atol=0):
        raise SystemExit(f"the batches add up to {found}, but the data to {expected}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=4_000_000, help="samples to make (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made (default: the system's)")
    parser.add_argument("--output", type=Path, help="file for the results (default: standard output)")
    options = parser.parse_args()

    ways = [(shuffle, batch_size) for shuffle in (False, True) for batch_size in BATCH_SIZES]
    seconds: dict[tuple[bool, int, str], list[tuple[float, float]]] = {}
    copies: list[float] = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-prepared-") as name:
        expected = write_samples(Path(name), options.samples)
        file_bytes = sum(path.stat().st_size for path in Path(name).glob("*.arrow"))
        for each_round in range(options.rounds + 1):  # the first one compiles and fills the page cache
            for shuffle, batch_size in ways:
                data = PreparedData(name, shuffle=shuffle)
                for epoch, kind in enumerate(("first_pass", "second_pass")):
                    clock, processor, sums = read(data, batch_size, epoch)
                    check(sums, expected)
                    if each_round:
                        seconds.setdefault((shuffle, batch_size, kind), []).append((clock, processor))
                copies.append(copied_bytes_per_second())

    results: dict[str, object] = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "versions": versions("cupyrec", "numpy", "numba", "pyarrow"),
        "samples": options.samples,
        "file_bytes_per_sample": round(file_bytes / options.samples, 1),
        "rounds": options.rounds,
        "bar_samples_per_second": BAR_SAMPLES_PER_SECOND,
        "copied_bytes_per_second": round(max(copies)),
    }
    slowest = float("inf")
    for (shuffle, batch_size, kind), times in seconds.items():
        fastest = options.samples / min(clock for clock, _ in times)
        slowest = min(slowest, fastest)
        # In order, dense values and labels are not copied.
        written = len(TABLE_ROWS) * 8 + (DENSE_FEATURES * 4 + 4 if shuffle else 0)
        # A copy reads and writes each byte: half of what is moved.
        floor = (file_bytes / options.samples + written) / 2 / max(copies)
        results[f"{'shuffled' if shuffle else 'in_order'}_{batch_size}_{kind}"] = {
            "samples_per_second": round(fastest),
            "samples_per_second_median": round(options.samples / statistics.median(clock for clock, _ in times)),
            "samples_per_processor_second": round(options.samples / min(processor for _, processor in times)),
            "floor_samples_per_second": round(1 / floor),
            "share_of_floor": round(fastest * floor, 3),
        }
    results["bar_met"] = slowest >= BAR_SAMPLES_PER_SECOND
    text = json.dumps(results, indent=2)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text + "\n", encoding="utf-8")
    if not results["bar_met"]:
        print(f"slower than {BAR_SAMPLES_PER_SECOND:,} samples/s: {slowest:,.0f}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
