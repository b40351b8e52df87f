"""Prepare small data in small blocks and shards, so that a few rows are many shards."""

from __future__ import annotations

import random
from pathlib import Path

from cupyrec.datasets.prepared import manifest
from cupyrec.datasets.preparing.job import Prepared, Stopped, prepare
from cupyrec.datasets.preparing.prepare_options import PrepareOptions, ShardSizes

SIZES = ShardSizes(block_samples=8, shard_samples=32, chunk_bytes=1000)


def small_shards(monkeypatch) -> None:
    """Let the manifest take blocks and shards of SIZES for whole ones."""
    monkeypatch.setattr(manifest, "BLOCK_SAMPLES", SIZES.block_samples)
    monkeypatch.setattr(manifest, "SHARD_SAMPLES", SIZES.shard_samples)


def prepare_small(paths, output: Path, *, sizes: ShardSizes = SIZES, hooks: dict | None = None, **options) -> Prepared:
    """hooks: on_progress and stop."""
    return prepare(PrepareOptions(paths, output, _sizes=sizes, **options), **(hooks or {}))


def criteo_text(rows: int, *, seed: int = 0, values: int = 12) -> bytes:
    """Good lines whose categories repeat: the later a column, the more values it has."""
    draw = random.Random(seed)
    lines = []
    for _ in range(rows):
        cells = [str(draw.randrange(2))]
        cells += [draw.choice(["", "0", "1", "7", "-1", "1500", "123456"]) for _ in range(13)]
        for column in range(26):
            key = int(draw.paretovariate(0.5)) % (values * (column + 1)) * 0x9E3779B97F4A7C15 % 2**32
            cells.append("" if draw.random() < 0.05 else f"{key:08x}")
        lines.append("\t".join(cells) + "\n")
    return "".join(lines).encode()


def prepare_with_stops(paths, output, **options):
    """Stopped wherever it can be."""
    for patience in range(1, 1000):
        asked = []
        try:
            hooks = {"stop": lambda asked=asked, patience=patience: asked.append(None) or len(asked) >= patience}
            return prepare_small(paths, output, hooks=hooks, threads=1, **options)
        except Stopped:
            continue
    raise AssertionError("it never came to an end")
