"""Small untrained models and prepared data for the commands that use them."""

from __future__ import annotations

from pathlib import Path

from criteo_lines import write_learnable

from cupyrec import DlrmConfig, Trainer
from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.prepared.splits import by_share, write_splits
from cupyrec.datasets.preparing.job import prepare
from cupyrec.datasets.preparing.prepare_options import PrepareOptions
from cupyrec.evaluation.data_encoding import raw_encoding

CONFIG = DlrmConfig((50,) * 26, dimension=4, bottom=(8, 4), top=(8, 1))


def save_small(folder: Path, config: DlrmConfig = CONFIG, *, seed: int = 0, **facts: object) -> Path:
    """A model with random weights, as of raw files. facts: kept with it."""
    Trainer(config, threads=1, batch_size=8, seed=seed).save(folder, {"encoding": raw_encoding(config), **facts})
    return folder


def prepare_small(folder: Path, rows: int = 40, **options: object) -> Path:
    """folder/raw.tsv and folder/prepared, split in halves of which one is again halved."""
    write_learnable(folder / "raw.tsv", rows)
    prepare(PrepareOptions(folder / "raw.tsv", folder / "prepared", threads=1, **options))
    content = read_manifest(folder / "prepared")
    write_splits(folder / "prepared", content, "shares", by_share(rows, (0.5, 0.25, 0.25)), overwrite=False)
    return folder / "prepared"
