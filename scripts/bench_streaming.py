"""Whether reading TSV limits training: the same model on the same rows, from the file and from memory.

    python scripts/bench_streaming.py --output docs/measured/streaming.json

Writes generated rows, then trains the model of shape A of bench_train.py (batch 2048, SGD) in turn on the file, which
is read, parsed and cut into batches by a background thread, and on the same batches held in memory. Also reports how
fast the reader is alone, as it is in bench_reader.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from machine import processor_name, versions

from cupyrec import BatchList, CriteoFiles, DlrmConfig, Sgd, Trainer
from cupyrec.datasets.planted_model import PlantedModel
from cupyrec.datasets.synthetic import write_blocks

BATCH_SIZE = 2048
HASH_ROWS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.tsv"
        for _ in write_blocks(PlantedModel(1), arguments.rows, path):
            pass
        file = CriteoFiles(path, hash_rows=HASH_ROWS)
        shape = DlrmConfig(file.table_rows, dimension=16, bottom=(512, 256, 64, 16), top=(512, 256, 1))
        memory = BatchList(list(file.batches(BATCH_SIZE)), file.table_rows, file.dense_features)
        trainer = Trainer(shape, optimizer=Sgd(), schedule=0.01, batch_size=BATCH_SIZE, threads=arguments.threads)
        trainer.fit(memory, max_steps=3)
        rates: dict[str, list[float]] = {"reader_alone": [], "from_file": [], "from_memory": []}
        waits = []
        for _ in range(arguments.rounds):
            begun = time.perf_counter()
            rows = sum(batch.samples for batch in file.batches(BATCH_SIZE))
            rates["reader_alone"].append(rows / (time.perf_counter() - begun))
            for name, source in (("from_file", file), ("from_memory", memory)):
                result = trainer.fit(source)
                rates[name].append(result.samples / result.seconds)
                if source is file:
                    waits.append(result.data_wait_seconds / result.seconds)
    ratios = [a / b for a, b in zip(rates["from_file"], rates["from_memory"], strict=True)]
    report = {
        "machine": {"cpu": processor_name(), "threads": arguments.threads},
        "versions": versions("cupyrec", "numpy", "numba", "pyarrow"),
        "rows": arguments.rows,
        "batch_size": BATCH_SIZE,
        "median_rows_per_s": {name: round(statistics.median(values)) for name, values in rates.items()},
        "from_file_over_from_memory": round(statistics.median(ratios), 3),
        "share_of_time_waiting_for_data": round(statistics.median(waits), 4),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
