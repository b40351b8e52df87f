"""How close training comes to the best that any learner could reach: the planted model behind the generated data.

    python scripts/learn_planted.py --seed 1 --output docs/measured/learn_planted/defaults_seed1.json

Generates a million rows, trains one epoch on the first nine tenths with the command's defaults, and compares the AUC on
the last tenth with that of the planted model on the same rows. Exits with 1 when it is more than --within below.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from machine import processor_name, versions

from cupyrec.datasets.planted_model import PlantedModel
from cupyrec.datasets.synthetic import generate_blocks, write_blocks
from cupyrec.devices.cpu import usable_cores
from cupyrec.evaluation.metrics import BinaryMetrics, MetricsResult
from cupyrec.run_config import RunConfig
from cupyrec.runs.progress import open_progress
from cupyrec.runs.run import run_training

VALID_SHARE = 0.1


def planted_metrics(model: PlantedModel, start: int, stop: int) -> MetricsResult:
    """Of the planted model's own logits on the rows start .. stop - 1."""
    with BinaryMetrics() as metrics:
        for block in generate_blocks(model, start, stop):
            metrics.update(block.logits, block.labels)
        return metrics.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within", type=float, default=0.01, help="the AUC that may be missing")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="option of cupyrec train")
    parser.add_argument("--output", type=Path, help="write the figures here, as JSON")
    arguments = parser.parse_args()

    model = PlantedModel(arguments.seed)
    train_rows = arguments.rows - round(arguments.rows * VALID_SHARE)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "planted.tsv"
        for _ in write_blocks(model, arguments.rows, data):
            pass
        options = dict(each.split("=", 1) for each in arguments.set)
        config = RunConfig.from_values({"paths": str(data), "valid": str(VALID_SHARE), **options})
        progress = open_progress()
        report = run_training(config, say=print, progress=progress)
        progress.close()
    best = planted_metrics(model, train_rows, arguments.rows)
    assert report.result.final is not None
    learned = report.result.final.metrics
    assert learned.auc is not None
    assert best.auc is not None
    missing = best.auc - learned.auc
    figures = {
        "machine": {"cpu": processor_name(), "threads": usable_cores()},
        "versions": versions("cupyrec", "numpy", "numba", "pyarrow"),
        "data_seed": arguments.seed,
        "rows": arguments.rows,
        "options": options,
        "validation_rows": learned.samples,
        "auc": round(learned.auc, 4),
        "planted_auc": round(best.auc, 4),
        "auc_missing": round(missing, 4),
        "log_loss": learned.log_loss and round(learned.log_loss, 4),
        "planted_log_loss": best.log_loss and round(best.log_loss, 4),
        "constant_log_loss": learned.constant_log_loss and round(learned.constant_log_loss, 4),
        "training_seconds": round(report.result.seconds - report.result.evaluation_seconds, 1),
        "samples_per_s": round(report.result.samples / (report.result.seconds - report.result.evaluation_seconds)),
        "data_wait_seconds": round(report.result.data_wait_seconds, 2),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")
    return 0 if missing <= arguments.within else 1


if __name__ == "__main__":
    sys.exit(main())
