"""Ways to prepare Criteo rows, for bench_prepare.py: each run in a process of its own, which says what it took.

    python scripts/prepare_ways.py WAY INPUT... --output PATH --cores 2

All give the same: float32 labels and log(max(x, 0) + 1) of 13 integers, and uint32 ids of 26 categories by first
appearance over all rows, a blank being a value like others, as Arrow IPC. `cupyrec` keeps its vocabularies too, counts
values, adds checksums and waits for the disk; the others do not.

    cupyrec, cupyrec_frequency  cupyrec.datasets.preparing.job.prepare, the second with ids by falling frequency
    pyarrow_in_memory           the whole text as a table with dictionaries, which pyarrow unifies
    pyarrow_streamed            block by block, with dictionaries of Python from value to id: bounded memory
    pandas                      the whole text as a frame, and pandas.factorize

Before the clock runs, all is done once on a thousand rows, so that what is compiled or loaded is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

LABEL = "label"
DENSE = [f"I{number}" for number in range(1, 14)]
CATEGORIES = [f"C{number}" for number in range(1, 27)]
NAMES = [LABEL, *DENSE, *CATEGORIES]
WARM_ROWS = 1000
# The fastest of 1, 4 and 16 MiB.
BLOCK_BYTES = 1 << 22


def cupyrec(paths: list[Path], output: Path, cores: int, memory: int, ids: str = "first") -> None:
    from cupyrec.datasets.preparing.job import prepare
    from cupyrec.datasets.preparing.prepare_options import PrepareOptions

    prepare(PrepareOptions(paths, output, ids=ids, threads=cores, memory_bytes=memory or None))


def cupyrec_frequency(paths: list[Path], output: Path, cores: int, memory: int) -> None:
    cupyrec(paths, output, cores, memory, "frequency")


def pyarrow_in_memory(paths: list[Path], output: Path, cores: int, memory: int) -> None:
    (path,) = paths
    table = pa.csv.read_csv(path, *_csv_options(pa.dictionary(pa.int32(), pa.string()))).unify_dictionaries()
    columns = {LABEL: pc.cast(table[LABEL], pa.float32()), **{name: _dense(table[name]) for name in DENSE}}
    for name in CATEGORIES:
        chunks = [
            pc.add(pc.cast(chunk.indices, pa.uint32()), pa.scalar(1, pa.uint32())) for chunk in table[name].chunks
        ]
        columns[name] = pa.chunked_array(chunks)
    _write(pa.table(columns), output)


def pyarrow_streamed(paths: list[Path], output: Path, cores: int, memory: int) -> None:
    (path,) = paths
    vocabularies: dict[str, dict[str, int]] = {name: {} for name in CATEGORIES}
    schema = pa.schema([(name, pa.uint32() if name in vocabularies else pa.float32()) for name in NAMES])
    with (
        pa.csv.open_csv(path, *_csv_options(pa.dictionary(pa.int32(), pa.string()))) as blocks,
        pa.OSFile(str(output), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for block in blocks:
            columns = [pc.cast(block[LABEL], pa.float32()), *(_dense(block[name]) for name in DENSE)]
            for name, vocabulary in vocabularies.items():
                values = block[name].dictionary.to_pylist()
                ids = [vocabulary.setdefault(value, len(vocabulary) + 1) for value in values]
                columns.append(pc.take(pa.array(ids, pa.uint32()), block[name].indices))
            writer.write_batch(pa.record_batch(columns, schema=schema))


def pandas(paths: list[Path], output: Path, cores: int, memory: int) -> None:
    import pandas as pd

    (path,) = paths
    types = {LABEL: np.float32, **dict.fromkeys(DENSE, np.float64), **dict.fromkeys(CATEGORIES, str)}
    blank = {name: [""] for name in DENSE}
    frame = pd.read_csv(path, sep="\t", names=NAMES, dtype=types, na_values=blank, keep_default_na=False, quoting=3)
    columns = {LABEL: frame[LABEL].to_numpy()}
    for name in DENSE:
        columns[name] = np.log(np.maximum(frame[name].fillna(0).to_numpy(), 0) + 1).astype(np.float32)
    for name in CATEGORIES:
        columns[name] = (pd.factorize(frame[name])[0] + 1).astype(np.uint32)
    _write(pa.table(columns), output)


def _csv_options(category: pa.DataType) -> tuple[pa.csv.ReadOptions, pa.csv.ParseOptions, pa.csv.ConvertOptions]:
    types = {LABEL: pa.int8(), **dict.fromkeys(DENSE, pa.int64()), **dict.fromkeys(CATEGORIES, category)}
    return (
        pa.csv.ReadOptions(column_names=NAMES, block_size=BLOCK_BYTES),
        pa.csv.ParseOptions(delimiter="\t", quote_char=False),
        pa.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=False),
    )


def _dense(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    floored = pc.max_element_wise(pc.fill_null(values, 0), pa.scalar(0, pa.int64()))
    return pc.cast(pc.ln(pc.add(pc.cast(floored, pa.float64()), 1.0)), pa.float32())


def _write(table: pa.Table, output: Path) -> None:
    with pa.OSFile(str(output), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


WAYS: dict[str, Callable[[list[Path], Path, int, int], None]] = {
    way.__name__: way for way in (cupyrec, cupyrec_frequency, pyarrow_in_memory, pyarrow_streamed, pandas)
}


def peak_bytes() -> int:
    """The most memory of this process; getrusage would count that of the process it was forked from."""
    match = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert match
    return int(match[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True, help="file, or folder of cupyrec, to write anew")
    parser.add_argument("--cores", type=int, required=True, help="threads, which the process is kept to as many cores")
    parser.add_argument("--memory", type=int, default=0, help="bytes for cupyrec")
    options = parser.parse_args()

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    pa.set_cpu_count(options.cores)
    way = WAYS[options.way]
    with tempfile.TemporaryDirectory() as name:
        with open(options.paths[0], "rb") as text:
            Path(name, "few.tsv").write_bytes(b"".join(itertools.islice(text, WARM_ROWS)))
        way([Path(name, "few.tsv")], Path(name, "out"), options.cores, options.memory)
    if options.output.is_dir():
        shutil.rmtree(options.output)
    clock, processor = time.perf_counter(), time.process_time()
    way(options.paths, options.output, options.cores, options.memory)
    taken = {
        "seconds": time.perf_counter() - clock,
        "processor_seconds": time.process_time() - processor,
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
