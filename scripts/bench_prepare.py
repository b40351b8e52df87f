"""Measure `cupyrec prepare` beside scripts of pyarrow and pandas that do the same, its memory, and formats of shards.

    python scripts/bench_prepare.py --output docs/measured/prepare.json

Rows are generated with `cupyrec generate`: their skew is such that 2 million have about as many different values as
rows have in the beginning of Criteo's data. The ways of prepare_ways.py run in turn, each in a process of its own;
first the ids of all are compared. Rates are medians and the fastest of the rounds, the ratio is the median of the
rounds' ratios to the fastest rival. `one_core` runs on one core.

Memory: the same rows once, and four times (by hard links), so that the vocabularies are the same; and what a value of a
vocabulary takes. Formats: see shard_formats.py.

The full set is reckoned at the measured rate, median, of all cores here: it does not say what larger vocabularies, that
lie farther in memory, or a slower disk make of it.

Exit code 1 when a bar is missed: RATIO_BAR times the rows/s of the fastest rival, ROWS_PER_CORE_BAR rows/s a core
(fastest round, on one core and on all), and no more than GROWTH_BAR times the memory for four times the rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from machine import processor_name, versions
from shard_formats import compare_formats

from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.preparing.vocabulary import Vocabulary

RATIO_BAR, ROWS_PER_CORE_BAR, GROWTH_BAR = 2.0, 250_000, 1.1
SKEW = -0.4
MORE_ROWS = 4
MEMORY_BYTES = 2 * 10**9
# Rows of the 24 days, as in the table of the MLPerf training benchmark and in NVIDIA's DLRM example.
TERABYTE_ROWS = 4_373_472_329
VOCABULARY_SIZES = (1_000_000, 3_000_000, 10_000_000)

OURS, RIVALS = ("cupyrec", "cupyrec_frequency"), ["pyarrow_in_memory", "pyarrow_streamed"]
Taken = dict[str, float]


def run_way(way: str, paths: list[Path], output: Path, cores: int, memory: int = 0) -> Taken:
    script = Path(__file__).with_name("prepare_ways.py")
    arguments = [way, *paths, "--output", output, "--cores", cores, "--memory", memory]
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], stdout=subprocess.PIPE, check=True, encoding="utf-8"
    )
    taken: Taken = json.loads(done.stdout.splitlines()[-1])
    return taken


def check_same(folder: Path, rivals: list[str]) -> None:
    """That all have written the same numbers; the dense ones but for the last bit of a logarithm."""
    prepared = folder / "cupyrec"
    shards = [pa.ipc.open_file(prepared / shard.file).read_all() for shard in read_manifest(prepared).shards]
    labels, dense, *ids = (
        np.concatenate([column.combine_chunks().to_numpy(zero_copy_only=False) for column in columns])
        for columns in zip(*(_flat_columns(shard) for shard in shards), strict=True)
    )
    for rival in rivals:
        table = pa.ipc.open_file(folder / rival).read_all()
        columns = [column.to_numpy() for column in table.columns]
        same = np.array_equal(labels, columns[0])
        same = same and np.allclose(dense.reshape(-1, 13), np.stack(columns[1:14], axis=1), rtol=1e-6, atol=0)
        if not same or not all(map(np.array_equal, ids, columns[14:])):
            raise SystemExit(f"{rival} makes other numbers than cupyrec")


def _flat_columns(table: pa.Table) -> list[pa.ChunkedArray]:
    return [
        pa.chunked_array([chunk.flatten() for chunk in column.chunks])
        if pa.types.is_fixed_size_list(column.type)
        else column
        for column in table.columns
    ]


def measure_rates(path: Path, folder: Path, rows: int, rounds: int, rivals: list[str]) -> dict[str, object]:
    cores = len(os.sched_getaffinity(0))
    runs = [*((way, cores) for way in (*OURS, *rivals)), (OURS[0], 1)]
    taken: dict[tuple[str, int], list[Taken]] = {run: [] for run in runs}
    for number in range(rounds):
        for way, threads in runs:
            taken[way, threads].append(run_way(way, [path], folder / way, threads))
        if number == 0:
            check_same(folder, rivals)
    results: dict[str, object] = {}
    for (way, threads), each in taken.items():
        results[way if threads == cores else "one_core"] = {
            "rows_per_second": round(rows / statistics.median(one["seconds"] for one in each)),
            "rows_per_second_fastest": round(rows / min(one["seconds"] for one in each)),
            "rows_per_processor_second": round(rows / statistics.median(one["processor_seconds"] for one in each)),
            "peak_bytes": max(round(one["peak_bytes"]) for one in each),
        }
    for way in OURS:
        ratios = [
            min(taken[rival, cores][number]["seconds"] for rival in rivals) / taken[way, cores][number]["seconds"]
            for number in range(rounds)
        ]
        results[f"{way}_to_fastest_rival"] = round(statistics.median(ratios), 2)
    fastest = [(threads, min(one["seconds"] for one in taken[OURS[0], threads])) for threads in (1, cores)]
    results["rows_per_second_a_core"] = round(min(rows / seconds / threads for threads, seconds in fastest))
    return results


def measure_memory(path: Path, folder: Path, rows: int) -> dict[str, object]:
    links = [folder / f"day_{number}" for number in range(MORE_ROWS)]
    for link in links:
        link.hardlink_to(path)
    cores = len(os.sched_getaffinity(0))
    once, more = (
        run_way(OURS[1], paths, folder / "memory", cores, MEMORY_BYTES)["peak_bytes"] for paths in ([path], links)
    )
    random = np.random.default_rng(1)
    by_size = {}
    for size in VOCABULARY_SIZES:
        vocabulary = Vocabulary()
        for keys in np.array_split(np.unique(random.integers(2**63, size=size, dtype=np.uint64)), 100):
            vocabulary.encode(keys, np.empty(keys.shape, dtype=np.uint32))
        by_size[size] = round(vocabulary.memory_bytes / vocabulary.size, 1)
    return {
        "rows": [rows, MORE_ROWS * rows],
        "peak_bytes": [round(once), round(more)],
        "growth": round(more / once, 3),
        "vocabulary_bytes_per_value": by_size,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows to make (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made (default: the system's)")
    parser.add_argument("--output", type=Path, help="file for the results (default: standard output)")
    options = parser.parse_args()

    rivals = list(RIVALS)
    if importlib.util.find_spec("pandas"):
        rivals.append("pandas")
    else:
        print("pandas is not installed and takes no part", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-prepare-") as name:
        folder = Path(name)
        path = folder / "rows.tsv"
        made = ["generate", f"--rows={options.rows}", f"--skew={SKEW}", f"--output={path}"]
        subprocess.run([sys.executable, "-m", "cupyrec", *made], check=True, capture_output=True)
        text_bytes = path.stat().st_size
        rates = measure_rates(path, folder, options.rows, options.rounds, rivals)
        prepared = read_manifest(folder / OURS[1])
        values = sum(rows - 1 for rows in prepared.table_rows)
        shards = [folder / OURS[1] / shard.file for shard in prepared.shards]
        formats = compare_formats(shards, folder, options.rounds)
        memory = measure_memory(path, folder, options.rows)

    by_way = {way: rates[way] for way in OURS}
    bars = {
        f"{RATIO_BAR} times the fastest rival": rates[f"{OURS[0]}_to_fastest_rival"] >= RATIO_BAR,
        f"{ROWS_PER_CORE_BAR} rows/s a core": rates["rows_per_second_a_core"] >= ROWS_PER_CORE_BAR,
        f"memory grows less than {GROWTH_BAR} times": memory["growth"] < GROWTH_BAR,
    }
    results = {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions("cupyrec", "numpy", "numba", "pyarrow", "pandas"),
        "rows": options.rows,
        "text_bytes_per_row": round(text_bytes / options.rows, 1),
        "values": values,
        "rounds": options.rounds,
        **rates,
        "terabyte_hours": {
            way: round(TERABYTE_ROWS / rate["rows_per_second"] / 3600, 2) for way, rate in by_way.items()
        },
        "memory": memory,
        "formats": formats,
        "bars_met": bars,
    }
    text = json.dumps(results, indent=2)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text + "\n", encoding="utf-8")
    for bar in (bar for bar, is_met in bars.items() if not is_met):
        print(f"missed: {bar}", file=sys.stderr)
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
