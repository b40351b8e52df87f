"""Runs that are stopped and gone on with, and what must be the same as in one that never stopped."""

from __future__ import annotations

import gzip
import json
import signal
from pathlib import Path

from criteo_lines import learnable_text, with_cell

from cupyrec.datasets.preparing.job import prepare
from cupyrec.datasets.preparing.prepare_options import PrepareOptions
from cupyrec.run_config import RunConfig
from cupyrec.runs.run import run_training

# Of 1,300 rows; a batch looks up some 350.
SMALL = {
    "bottom-mlp": "8-4",
    "dimension": 4,
    "top-mlp": "8-1",
    "hash-rows": 50,
    "batch-size": 20,
    "threads": 1,
    "learning-rate": 0.05,
    "warmup-steps": 4,
    "decay-steps": 5,
    "scratchpad": 900,
    "lookahead": 2,
    "exchange": "staged",
    "log-every": 3,
    "checkpoint-every": 2,
}
SYSTEMS = ("resident", "hybrid", "static", "serial", "scratchpipe")
# What another run of the same has otherwise: times, and what moves after a scratchpad has begun empty.
VARIES = {"seconds", "samples_per_s", "stage_ms", "data_wait_seconds", "evaluation_seconds"}
VARIES_IN_A_SCRATCHPAD = {"traffic"}


class Stopper:
    """Progress that sends a signal to the process after a step."""

    def __init__(self, at: int | None = None, number: signal.Signals = signal.SIGINT) -> None:
        self.messages: list[str] = []
        self._at, self._number = at, number

    def update(self, step, samples, loss, fraction_done=None):
        if step == self._at:
            signal.raise_signal(self._number)

    def message(self, line):
        self.messages.append(line)


def train(progress=None, said=None, **options):
    """run_training with SMALL and these options; None takes one away."""
    values = SMALL | {name.replace("_", "-"): value for name, value in options.items()}
    values = {name: value for name, value in values.items() if value is not None}
    say = (lambda line: None) if said is None else said.append
    return run_training(RunConfig.from_values(values), say=say, progress=progress or Stopper())


def stop_and_go_on(output, stops, number=signal.SIGINT, **options):
    """Train up to each of the stops, and from there on to the end; the report of the last run."""
    for at in stops:
        report = train(Stopper(at, number), output=output, resume=output.exists(), **options)
        assert report.result.interrupted
    return train(output=output, resume=True, **options)


def what_counts(folder: Path, *, traffic: bool = True) -> dict[str, object]:
    """The weights, and metrics.jsonl without what varies. traffic: whether that must be the same."""
    varies = VARIES if traffic else VARIES | VARIES_IN_A_SCRATCHPAD
    found: dict[str, object] = {path.name: path.read_bytes() for path in folder.glob("model*.safetensors")}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found["metrics"] = [_without(json.loads(line), varies) for line in lines]
    description = json.loads((folder / "model.json").read_text())
    description["training"] = _without(description["training"], varies)
    return found | {"model.json": description}


def _without(entry, names):
    return {name: value for name, value in entry.items() if name not in names}


def steps_kept(folder: Path) -> list[int]:
    """Of the checkpoints of a run; nothing else lies beside them."""
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return [int(name.removeprefix("step-")) for name in names]


def raw_files(folder: Path) -> dict[str, object]:
    """Options for two files with bad rows, one of them compressed, and a third to validate on."""
    text = with_cell(with_cell(learnable_text(120), 15, 1, "9"), 90, 20, "xyz")
    lines = text.splitlines(keepends=True)
    (folder / "day_0").write_text("".join(lines[:70]))
    (folder / "day_1.gz").write_bytes(gzip.compress("".join(lines[70:]).encode(), mtime=0))
    (folder / "valid.tsv").write_text(learnable_text(40, first=200))
    return {
        "paths": [str(folder / "day_0"), str(folder / "day_1.gz")],
        "valid": str(folder / "valid.tsv"),
        "on_bad_row": "skip",
    }


def raw_with_share(folder: Path) -> dict[str, object]:
    (folder / "all.tsv").write_text(learnable_text(140))
    return {"paths": str(folder / "all.tsv"), "valid": "0.2"}


def prepared(folder: Path) -> dict[str, object]:
    (folder / "raw.tsv").write_text(learnable_text(140))
    prepare(PrepareOptions(folder / "raw.tsv", folder / "prepared", threads=1))
    return {"paths": str(folder / "prepared"), "valid": "0.2"}


def shuffled(folder: Path) -> dict[str, object]:
    return prepared(folder) | {"shuffle": True, "shuffle_window": 64}


DATA = {"raw_files": raw_files, "raw_with_share": raw_with_share, "prepared": prepared, "shuffled": shuffled}
