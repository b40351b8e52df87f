"""The same samples as Arrow IPC and as Parquet, for bench_prepare.py: size, writing, and reading into batches' arrays.

Reading touches each number once: it adds them all up, from the page
cache, block by block, on one thread (`read`) and with pyarrow's threads (`read_threads`).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from cupyrec.datasets.prepared.manifest import BLOCK_SAMPLES

# The kind of file and its codec; without one, IPC as it is used.
FORMATS = ("ipc", "ipc_lz4", "ipc_zstd", "parquet_snappy", "parquet_zstd")
# Of a row group of Parquet, which is not made for small ones.
GROUP_BLOCKS = 8


def compare_formats(shards: list[Path], folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Bytes a sample, and samples/s of writing and reading, medians; in rounds, so that all meet the same machine."""
    blocks = [block for shard in shards for block in _ipc_blocks(shard)]
    samples = sum(block.num_rows for block in blocks)
    expected = sum(_sum(block) for block in blocks)
    seconds: dict[tuple[str, str], list[float]] = {}
    for each_round in range(rounds + 1):  # the first one loads what is needed
        for name in FORMATS:
            path = folder / name
            path.unlink(missing_ok=True)
            started = time.perf_counter()
            _write(path, name, blocks)
            written = time.perf_counter()
            one = sum(_sum(block) for block in _blocks(path, name, threads=False))
            read = time.perf_counter()
            many = sum(_sum(block) for block in _blocks(path, name, threads=True))
            times = {"write": written - started, "read": read - written, "read_threads": time.perf_counter() - read}
            if not np.allclose([one, many], expected):
                raise SystemExit(f"{name}: what is read adds up to {one} and {many}, not to {expected}")
            if each_round:
                for what, taken in times.items():
                    seconds.setdefault((name, what), []).append(taken)
    return {
        name: {
            "bytes_per_sample": round((folder / name).stat().st_size / samples, 1),
            **{
                f"{what}_samples_per_second": round(samples / statistics.median(seconds[name, what]))
                for what in ("write", "read", "read_threads")
            },
        }
        for name in FORMATS
    }


def _write(path: Path, name: str, blocks: list[pa.RecordBatch]) -> None:
    kind, _, codec = name.partition("_")
    schema = blocks[0].schema
    if kind == "ipc":
        options = pa.ipc.IpcWriteOptions(compression=codec or None)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
            for block in blocks:
                writer.write_batch(block)
    else:
        with pa.parquet.ParquetWriter(path, schema, compression=codec) as writer:
            for start in range(0, len(blocks), GROUP_BLOCKS):
                group = pa.Table.from_batches(blocks[start : start + GROUP_BLOCKS])
                writer.write_table(group, row_group_size=group.num_rows)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _blocks(path: Path, name: str, *, threads: bool) -> Iterator[pa.RecordBatch]:
    if name.startswith("ipc"):
        yield from _ipc_blocks(path, pa.ipc.IpcReadOptions(use_threads=threads))
    else:
        with pa.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(BLOCK_SAMPLES, use_threads=threads)


def _ipc_blocks(path: Path, options: pa.ipc.IpcReadOptions | None = None) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source, options=options)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _sum(block: pa.RecordBatch) -> float:
    total = 0.0
    for column in block.columns:
        values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        total += float(values.to_numpy().sum(dtype=np.float64))
    return total
