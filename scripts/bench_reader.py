"""Measure how fast Criteo files are read into batches, beside pyarrow's CSV reader and the bytes alone.

    python scripts/bench_reader.py day_0 --batch-size 2048 --output reader.json

Three things are timed on the same bytes, taken in turns so that a change of the machine's speed meets all:
`reader` is CriteoFiles.batches, with the one background thread it always has; `csv` only splits the lines into
cells, with pyarrow's CSV reader on one thread; `bytes` only reads (and decompresses) the file. The first round
warms up and is not counted; the fastest and the median of the others are told. Before that, the batches are
checked to hold as many samples as the files have lines. The results are JSON, on standard output or in a file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
from machine import processor_name, versions

from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.criteo_rows import COLUMNS
from cupyrec.datasets.line_chunks import CHUNK_BYTES, line_chunks


def read_batches(source: CriteoFiles, batch_size: int) -> None:
    for _ in source.batches(batch_size):
        pass


def split_cells(source: CriteoFiles) -> None:
    names = [str(column) for column in range(COLUMNS)]
    parse_options = pa.csv.ParseOptions(delimiter="\t", quote_char=False)
    convert_options = pa.csv.ConvertOptions(check_utf8=False, column_types=dict.fromkeys(names, pa.binary()))
    for file in source.files:
        for chunk in line_chunks(file):
            read_options = pa.csv.ReadOptions(use_threads=False, block_size=len(chunk.data), column_names=names)
            pa.csv.read_csv(pa.BufferReader(chunk.data), read_options, parse_options, convert_options)


def read_bytes(source: CriteoFiles) -> int:
    total = 0
    for file in source.files:
        with pa.input_stream(str(file)) as stream:
            while block := stream.read(CHUNK_BYTES):
                total += len(block)
    return total


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of processor time, all threads of this process together."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="+", help="files, folders or patterns, as `cupyrec train` takes them")
    parser.add_argument("--batch-size", type=int, default=2048, help="samples in a batch (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default %(default)s)")
    parser.add_argument("--output", type=Path, help="file for the results (default: standard output)")
    options = parser.parse_args()

    source = CriteoFiles(options.paths)
    rows, size_bytes = source.count_lines(), read_bytes(source)
    samples = sum(batch.samples for batch in source.batches(options.batch_size))
    if samples != rows:
        raise SystemExit(f"the batches hold {samples} samples, but the files have {rows} lines")

    works: dict[str, Callable[[], object]] = {
        "reader": lambda: read_batches(source, options.batch_size),
        "csv": lambda: split_cells(source),
        "bytes": lambda: read_bytes(source),
    }
    rounds = [{name: measure(work) for name, work in works.items()} for _ in range(options.rounds + 1)][1:]

    results: dict[str, object] = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "versions": versions("cupyrec", "numpy", "numba", "pyarrow"),
        "pyarrow": pa.__version__,
        "files": len(source.files),
        "rows": rows,
        "text_bytes": size_bytes,
        "batch_size": options.batch_size,
        "rounds": options.rounds,
    }
    for name in works:
        seconds = [times[name][0] for times in rounds]
        results[name] = {
            "seconds_fastest": min(seconds),
            "seconds_median": statistics.median(seconds),
            "rows_per_second": round(rows / min(seconds)),
            "rows_per_second_median": round(rows / statistics.median(seconds)),
            "rows_per_processor_second": round(rows / min(times[name][1] for times in rounds)),
            "bytes_per_second": round(size_bytes / min(seconds)),
        }
    text = json.dumps(results, indent=2)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
