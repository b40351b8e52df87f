"""Prepare data the slow and obvious way, and read prepared data back as plain Python: the oracle for the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import criteo_reference
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cupyrec.datasets.prepared import manifest as manifest_module
from cupyrec.datasets.prepared.encoding import encoding_id
from cupyrec.datasets.prepared.manifest import block_checksum, read_manifest

MOST_KEYS = 2**64


@dataclass
class Rows:
    """Rows of raw data, or encoded ones: for each category a list of values for each row."""

    labels: list[float] = field(default_factory=list)
    dense: list[list[float]] = field(default_factory=list)
    values: list[list[list[int]]] = field(default_factory=list)


@dataclass
class Expected:
    """Encoded rows; rows of each table; keys and counts of the ids from 1 on, None where there is no vocabulary."""

    rows: Rows
    table_rows: list[int]
    keys: list[list[int]] | None = None
    counts: list[list[int]] | None = None


def criteo_rows(*texts: bytes) -> Rows:
    """The good rows of the texts of several files, with keys as values."""
    rows = Rows(values=[[] for _ in range(26)])
    for text in texts:
        found = criteo_reference.read(text, [MOST_KEYS] * 26)
        rows.labels += found.labels
        rows.dense += found.dense
        for ids in found.ids:
            for column, key in zip(rows.values, ids, strict=True):
                column.append([key])
    return rows


def encode(
    rows: Rows,
    ids: str = "frequency",
    *,
    min_count: int = 1,
    modulo: int = MOST_KEYS,
    hash_rows: list[int] | None = None,
    known: list[list[int]] | None = None,
    known_counts: list[list[int]] | None = None,
) -> Expected:
    """What the job is to make of raw rows. known: keys of ids 1, 2, ... of a vocabulary that is used.

    known_counts: how often these have been met, where the vocabulary is to grow.
    """
    values = [[[key % modulo for key in keys] for keys in column] for column in rows.values]
    if hash_rows is not None:
        hashed = [
            [[key % table_rows for key in keys] for keys in column]
            for column, table_rows in zip(values, hash_rows, strict=True)
        ]
        return Expected(Rows(rows.labels, rows.dense, hashed), hash_rows)
    kept, counts, encoded = [], [], []
    for number, column in enumerate(values):
        # In order of first appearance, as dicts keep it, and sorts that are stable.
        count = Counter(key for keys in column for key in keys)
        order = [] if known is None else list(known[number])
        if known is None or known_counts is not None:
            new = [key for key in count if count[key] >= min_count and key not in order]
            if ids == "frequency":
                new.sort(key=lambda key: -count[key])
            order += new
        id_of = {key: index for index, key in enumerate(order, start=1)}
        encoded.append([[id_of.get(key, 0) for key in keys] for keys in column])
        kept.append(order)
        before = {} if known_counts is None else dict(zip(known[number], known_counts[number], strict=True))
        counts.append([count[key] + before.get(key, 0) for key in order])
    return Expected(Rows(rows.labels, rows.dense, encoded), [len(order) + 1 for order in kept], kept, counts)


def read_prepared(folder: Path) -> Rows:
    """All rows of prepared data; sizes, types and checksums are compared with the manifest and the format."""
    manifest = read_manifest(folder)
    rows = Rows(values=[[] for _ in manifest.categories])
    for number, shard in enumerate(manifest.shards):
        path = folder / shard.file
        assert shard.file == f"shard-{number:05}.arrow"
        assert path.stat().st_size == shard.size_bytes
        with pa.ipc.open_file(path) as reader:
            assert reader.schema.names == ["label", "dense", *(category.name for category in manifest.categories)]
            assert reader.schema.types[:2] == [pa.float32(), pa.list_(pa.float32(), len(manifest.dense))]
            blocks = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        sizes = [block.num_rows for block in blocks]
        assert sum(sizes) == shard.samples
        assert all(size == manifest_module.BLOCK_SAMPLES for size in sizes[:-1])
        assert tuple(map(block_checksum, blocks)) == shard.checksums
        for block in blocks:
            block.validate(full=True)
            assert all(column.null_count == 0 for column in block.columns)
            rows.labels += block.column(0).to_pylist()
            rows.dense += block.column(1).to_pylist()
            for category, values, column in zip(manifest.categories, rows.values, block.columns[2:], strict=True):
                id_type = column.type.value_type if category.multi_hot else column.type
                assert id_type in (pa.uint8(), pa.uint16(), pa.uint32())
                ids = column.to_pylist()
                values += ids if category.multi_hot else [[each] for each in ids]
    return rows


def check_prepared(
    folder: Path, expected: Expected, *, modulo: int | None = None, hashed_texts: Sequence[int] = ()
) -> None:
    """Assert that a folder holds the expected rows, vocabularies and manifest, and no other file.

    modulo: that values were taken by; hashed_texts: numbers of the columns of texts, where ids are hashes.
    """
    manifest = read_manifest(folder)
    found = read_prepared(folder)
    assert found.labels == expected.rows.labels
    np.testing.assert_allclose(found.dense, expected.rows.dense, rtol=2e-7)
    assert found.values == expected.rows.values
    assert list(manifest.table_rows) == expected.table_rows
    marks: list[str | None] = []
    for number, category in enumerate(manifest.categories):
        if expected.keys is None:
            assert category.vocabulary is None
            kind = "text" if number in hashed_texts else "number"
            marks.append(None if (kind, modulo) == ("number", None) else f"hash:{kind}:{modulo}")
            continue
        table = pa.parquet.read_table(folder / category.vocabulary)
        assert table["key"].to_pylist() == expected.keys[number]
        assert table["count"].to_pylist() == expected.counts[number]
        assert table["id"].to_pylist() == list(range(1, len(expected.keys[number]) + 1))
        marks.append(sha256_of(expected.keys[number]) + ("" if modulo is None else f":{modulo}"))
    assert manifest.encoding == encoding_id(manifest.dense_transform, manifest.table_rows, marks)
    assert files_of(folder) == sorted(
        [
            ".lock",
            "prepared.json",
            "preparation.json",
            *(shard.file for shard in manifest.shards),
            *(category.vocabulary for category in manifest.categories if category.vocabulary),
            *(["bad_rows.tsv"] if any(file.bad_rows for file in manifest.inputs) else []),
        ]
    )


def sha256_of(keys: list[int]) -> str:
    import hashlib

    return hashlib.sha256(b"".join(key.to_bytes(8, "little") for key in keys)).hexdigest()


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def contents_of(folder: Path) -> dict[str, bytes]:
    """All files by name, but for the lock."""
    return {name: (folder / name).read_bytes() for name in files_of(folder) if name != ".lock"}
