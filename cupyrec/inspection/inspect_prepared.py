"""What a folder of prepared data holds, or a split of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cupyrec.datasets.prepared.manifest import BLOCK_SAMPLES, Manifest
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.datasets.prepared.splits import FORMAT, PARTS, Split, read_split
from cupyrec.datasets.preparing.known_vocabularies import KnownVocabularies
from cupyrec.datasets.preparing.lost_negatives import lost_negatives
from cupyrec.datasets.preparing.output_folder import read_preparation
from cupyrec.datasets.preparing.vocabulary_coverage import coverages
from cupyrec.errors import DataError


def prepared_facts(folder: Path, verify: bool, watch: Callable[[float], None]) -> dict[str, Any]:
    """Of the manifest and of the split files beside it; all shards are there and have their size and schema.

    verify: read every block and compare its checksum and numbers, and the vocabularies. Raises DataError.
    """
    data = PreparedData(folder)
    if verify:
        _read_all(data, watch)
        if read_preparation(folder) is not None:
            # Their digests are part of the encoding.
            KnownVocabularies(folder).marks()
    content = data.manifest
    size_bytes = sum(shard.size_bytes for shard in content.shards)
    return {
        "samples": content.samples,
        "labels": content.labels,
        "positives": content.positives,
        "inputs": [asdict(file) for file in content.inputs],
        "ids": content.ids,
        "dense": list(content.dense),
        "dense_transform": content.dense_transform,
        "lost_negatives": lost_negatives(content),
        "encoding": content.encoding,
        "earlier": [asdict(each) for each in content.earlier],
        "tables": [
            {**asdict(category), "coverage": coverage}
            for category, coverage in zip(content.categories, coverages(folder, content), strict=True)
        ],
        "shards": len(content.shards),
        "data_bytes": size_bytes,
        "bytes_per_sample": size_bytes / content.samples,
        "splits": _splits(folder, content, verify),
    }


def split_facts(path: Path, verify: bool, watch: Callable[[float], None]) -> dict[str, Any]:
    """Of a split file, and of the data that it is of. verify: read its part of the data. Raises DataError."""
    data = PreparedData(path)
    if verify:
        _read_all(data, watch)
    return _split(path, read_split(path, data.manifest), data.manifest) | {
        "data": str(data.folder),
        "encoding": data.encoding,
        "table_rows": list(data.table_rows),
        "dense_features": data.dense_features,
    }


def _read_all(data: PreparedData, watch: Callable[[float], None]) -> None:
    """Reading checks whatever it reads."""
    with contextlib.closing(data.batches(BLOCK_SAMPLES, on_progress=watch)) as batches:
        for _ in batches:
            pass


def _splits(folder: Path, content: Manifest, verify: bool) -> list[dict[str, Any]]:
    """Of each split file that is whole; of one that is not, what is wrong with it, or, to verify, DataError."""
    splits = []
    for path in sorted(folder.glob("*.json")):
        if not _is_split(path):
            continue
        try:
            splits.append(_split(path, read_split(path, content), content))
        except DataError as error:
            if verify:
                raise
            splits.append({"file": path.name, "damage": error.reason})
    return splits


def _is_split(path: Path) -> bool:
    """Whether a file is meant to be a split: there are other JSON files in the folder."""
    if path.stem in PARTS:
        return True
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _split(path: Path, split: Split, content: Manifest) -> dict[str, Any]:
    return {
        "file": path.name,
        "how": split.how,
        "samples": split.samples,
        "share": split.samples / content.samples,
        "ranges": [list(each) for each in split.ranges],
    }
