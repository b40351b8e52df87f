"""Folders of prepared data made from arrays, the obvious way, and what their batches must be."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from cupyrec.batch import Batch
from cupyrec.datasets.prepared import manifest
from cupyrec.datasets.prepared.encoding import EarlierEncoding, encoding_id
from cupyrec.datasets.prepared.manifest import Category, InputFile, Manifest, Shard
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.datasets.prepared.splits import FORMAT, FORMAT_VERSION


@dataclass(frozen=True)
class Samples:
    """n samples: labels (n,), dense (n, d), and of each of F features n ids, or n lists of ids."""

    labels: np.ndarray
    dense: np.ndarray
    features: list[list]
    table_rows: tuple[int, ...]

    @property
    def multi_hot(self) -> list[bool]:
        return [isinstance(feature[0], list) for feature in self.features]

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The samples of these numbers, in this order, as a batch."""
        bags = [
            [feature[n] if isinstance(feature[n], list) else [feature[n]] for n in numbers] for feature in self.features
        ]
        return Batch.from_bags(self.dense[numbers], bags, self.labels[numbers], self.table_rows)


def random_samples(
    samples: int, table_rows: Sequence[int], *, dense: int = 3, multi_hot: Sequence[int] = (), seed: int = 1
) -> Samples:
    """multi_hot: the features whose samples have 0 to 4 ids. The first dense value of a sample is its number."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(samples, dense)).astype(np.float32)
    values[:, 0] = np.arange(samples)
    features = [
        [rng.integers(rows, size=rng.integers(5)).tolist() for _ in range(samples)]
        if feature in multi_hot
        else rng.integers(rows, size=samples).tolist()
        for feature, rows in enumerate(table_rows)
    ]
    return Samples(rng.integers(2, size=samples).astype(np.float32), values, features, tuple(table_rows))


def record_batch(samples: Samples, numbers: range, id_types: Sequence[pa.DataType]) -> pa.RecordBatch:
    """One block."""
    dense = pa.FixedSizeListArray.from_arrays(
        pa.array(samples.dense[numbers].reshape(-1), pa.float32()), samples.dense.shape[1]
    )
    columns = [pa.array(samples.labels[numbers], pa.float32()), dense]
    for feature, id_type, is_list in zip(samples.features, id_types, samples.multi_hot, strict=True):
        columns.append(pa.array([feature[n] for n in numbers], pa.list_(id_type) if is_list else id_type))
    names = ["label", "dense", *(f"C{feature}" for feature in range(1, len(samples.features) + 1))]
    return pa.RecordBatch.from_arrays(columns, names=names)


def narrowest(largest: int) -> pa.DataType:
    return pa.uint8() if largest < 2**8 else pa.uint16() if largest < 2**16 else pa.uint32()


def write_prepared(
    folder: Path,
    samples: Samples,
    *,
    input_samples: Sequence[int] = (),
    id_types: Sequence[pa.DataType] = (),
    earlier: Sequence[EarlierEncoding] = (),
) -> Manifest:
    """Write a folder with the block and shard sizes that the manifest has now.

    input_samples: of each raw file, else all of one. id_types: else the narrowest for the ids of each shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total, shards = len(samples.labels), []
    for first in range(0, total, manifest.SHARD_SAMPLES):
        last = min(first + manifest.SHARD_SAMPLES, total)
        types = list(id_types) or [
            narrowest(max((i for n in range(first, last) for i in np.atleast_1d(feature[n])), default=0))
            for feature in samples.features
        ]
        blocks = [
            record_batch(samples, range(start, min(start + manifest.BLOCK_SAMPLES, last)), types)
            for start in range(first, last, manifest.BLOCK_SAMPLES)
        ]
        name = manifest.shard_name(len(shards))
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_file(sink, blocks[0].schema) as writer:
            for block in blocks:
                writer.write_batch(block)
        size, checksums = (folder / name).stat().st_size, tuple(manifest.block_checksum(block) for block in blocks)
        shards.append(Shard(name, last - first, size, checksums))
    content = Manifest(
        dense=tuple(f"I{feature}" for feature in range(1, samples.dense.shape[1] + 1)),
        dense_transform="log",
        ids="hash",
        categories=tuple(
            Category(f"C{number}", rows, is_list)
            for number, (rows, is_list) in enumerate(zip(samples.table_rows, samples.multi_hot, strict=True), start=1)
        ),
        encoding=encoding_id("log", samples.table_rows, [None] * len(samples.table_rows)),
        inputs=tuple(InputFile(f"day_{day}", count) for day, count in enumerate(input_samples or [total])),
        shards=tuple(shards),
        earlier=tuple(earlier),
    )
    (folder / manifest.MANIFEST_FILE).write_text(manifest.manifest_json(content))
    return content


def without_checksum(folder: Path) -> dict:
    """The manifest as somebody would edit it."""
    content = json.loads((folder / manifest.MANIFEST_FILE).read_text())
    del content["checksum"]
    return content


def rewrite(
    folder: Path, shard: int, change: Callable[[list[pa.RecordBatch]], list[pa.RecordBatch]], **options: object
) -> Path:
    """Change the blocks of a shard, `change(list of blocks)`, and the manifest so that size and checksums fit.

    Where blocks have no checksum, since the format has no such columns, the old ones stay. options: of the writer.
    """
    content = manifest.read_manifest(folder)
    path = folder / content.shards[shard].file
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_file(file)
        blocks = change([reader.get_batch(number) for number in range(reader.num_record_batches)])
    sink_options = pa.ipc.IpcWriteOptions(**options)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, blocks[0].schema, options=sink_options) as writer:
        for block in blocks:
            writer.write_batch(block)
    shards = list(content.shards)
    checksums = content.shards[shard].checksums
    with contextlib.suppress(ValueError):
        checksums = tuple(manifest.block_checksum(block) for block in blocks)
    shards[shard] = replace(shards[shard], size_bytes=path.stat().st_size, checksums=checksums)
    changed = replace(content, shards=tuple(shards))
    (folder / manifest.MANIFEST_FILE).write_text(manifest.manifest_json(changed))
    return path


def with_column(block: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    return block.set_column(block.schema.get_field_index(name), name, column)


def with_value(block: pa.RecordBatch, name: str, row: int, value: object) -> pa.RecordBatch:
    """A block one of whose values is another; of a list column, the values of the row."""
    column = block.column(name)
    values = column.to_pylist()
    values[row] = value
    return with_column(block, name, pa.array(values, column.type))


def assert_same_batches(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    """Equal in every array and dtype."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("dense", "rows", "offsets", "labels"):
            left, right = getattr(one, name), getattr(other, name)
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


def write_split(path: Path, ranges: list[list[int]]) -> Path:
    """A split file in a folder of prepared data."""
    content = manifest.read_manifest(path.parent)
    samples = sum(stop - start for start, stop in ranges)
    fields = {"format": FORMAT, "version": FORMAT_VERSION, "how": "by hand", "encoding": content.encoding}
    path.write_text(json.dumps({**fields, "data_samples": content.samples, "samples": samples, "ranges": ranges}))
    return path


def read_all(folder: Path) -> list[list[Batch]]:
    """In order, and shuffled."""
    return [list(PreparedData(folder, shuffle=shuffle).batches(10)) for shuffle in (False, True)]


@st.composite
def some_ranges(draw, samples: int) -> list[list[int]]:
    """Of the samples of a folder, ascending, apart from each other or not."""
    bounds = sorted(draw(st.sets(st.integers(0, samples), min_size=2, max_size=8)))
    return [[start, stop] for start, stop in zip(bounds[::2], bounds[1::2], strict=False)]


def numbers_of(batches: Iterable[Batch]) -> list[list[int]]:
    """Which samples are in each batch: the first dense value of each is its number."""
    return [batch.dense[:, 0].astype(int).tolist() for batch in batches]


def flat(lists: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))
