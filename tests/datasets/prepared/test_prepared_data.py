"""Prepared data come as the batches that were written, once an epoch, in order or in a reproducible other one."""

from __future__ import annotations

import gc
import shutil
import threading
import tracemalloc
import weakref
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepared_for_tests import (
    Samples,
    assert_same_batches,
    flat,
    numbers_of,
    random_samples,
    some_ranges,
    write_prepared,
    write_split,
)

from cupyrec.datasets.prepared import block_reader, make_batches, manifest
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.datasets.source import read_batches
from cupyrec.errors import ConfigError, DataError

BLOCK, SHARD, SAMPLES = 16, 64, 150
TABLES = (10, 300, 70_000, 40)


pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return random_samples(SAMPLES, TABLES)


@pytest.fixture(scope="module")
def lists() -> Samples:
    return random_samples(SAMPLES, TABLES, multi_hot=(1, 2))


@pytest.fixture(scope="module")
def folder(samples, lists, tmp_path_factory) -> Path:
    """Two folders: single and lists."""
    root = tmp_path_factory.mktemp("prepared")
    write_prepared(root / "single", samples)
    write_prepared(root / "lists", lists)
    return root


@pytest.mark.parametrize("kind", ["single", "lists"])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 100, 1000])
def test_in_order_all_samples_come_as_they_were_written(folder, samples, lists, kind, batch_size):
    data = PreparedData(folder / kind)
    of_kind = {"single": samples, "lists": lists}[kind]
    expected = [
        of_kind.batch(range(start, min(start + batch_size, SAMPLES))) for start in range(0, SAMPLES, batch_size)
    ]
    assert (data.samples, data.table_rows, data.dense_features) == (SAMPLES, TABLES, 3)
    assert data.encoding == data.manifest.encoding
    assert_same_batches(list(data.batches(batch_size)), expected)
    # Again, now that all blocks have been checked.
    assert_same_batches(list(data.batches(batch_size, epoch=1)), expected)


def test_the_widths_of_ids_may_differ_between_shards(tmp_path):
    types, samples = set(), random_samples(SAMPLES, TABLES)
    samples.features[2][SHARD] = 69_999
    samples.features[2][:SHARD] = [n % 200 for n in range(SHARD)]
    content = write_prepared(tmp_path, samples)
    for shard in content.shards:
        with pa.OSFile(str(tmp_path / shard.file)) as file:
            types.add(pa.ipc.open_file(file).schema.field("C3").type)
    assert types >= {pa.uint8(), pa.uint32()}
    for shuffle in (False, True):
        batches = list(PreparedData(tmp_path, shuffle=shuffle).batches(50))
        assert_same_batches(batches, [samples.batch(numbers) for numbers in numbers_of(batches)])


@given(
    kind=st.sampled_from(["single", "lists"]),
    ranges=some_ranges(SAMPLES),
    batch_size=st.integers(1, 80),
    window=st.one_of(st.none(), st.integers(1, 200)),
    seed=st.integers(0, 2**70),
    epoch=st.integers(0, 3),
    first_batch=st.integers(0, 12),
)
def test_any_epoch_of_any_ranges(folder, samples, lists, kind, ranges, batch_size, window, seed, epoch, first_batch):
    of_kind = {"single": samples, "lists": lists}[kind]
    split = write_split(folder / kind / "part.json", ranges)
    data = PreparedData(split, shuffle=window is not None, shuffle_window=window or 1, seed=seed)
    batches = list(data.batches(batch_size, epoch=epoch))

    # Every sample of the ranges once, each whole and unchanged, in full batches but for the last.
    numbers = numbers_of(batches)
    assert sorted(flat(numbers)) == [n for start, stop in ranges for n in range(start, stop)]
    assert all(len(batch) == batch_size for batch in numbers[:-1])
    assert_same_batches(batches, [of_kind.batch(each) for each in numbers])
    if window is None:
        assert flat(numbers) == sorted(flat(numbers))

    # Beginning in the middle, in another object, gives the same.
    again = PreparedData(split, shuffle=window is not None, shuffle_window=window or 1, seed=seed)
    rest = list(again.batches(batch_size, epoch=epoch, first_batch=first_batch))
    assert_same_batches(rest, batches[first_batch:])


def test_orders_are_those_of_seed_and_epoch(folder):
    def order(seed, epoch):
        return flat(numbers_of(PreparedData(folder / "single", shuffle=True, seed=seed).batches(32, epoch=epoch)))

    orders = [order(1, 0), order(1, 1), order(1, 2), order(2, 0), order(2, 1), list(range(SAMPLES))]
    assert len({tuple(each) for each in orders}) == 6
    assert order(1, 0) == orders[0]
    assert order(2, 1) == orders[4]


def test_what_lies_before_the_first_batch_is_not_read(folder, samples, tmp_path):
    shutil.copytree(folder / "single", tmp_path / "data")
    data = PreparedData(tmp_path / "data")
    flip(tmp_path / "data" / manifest.shard_name(0), samples.dense[:BLOCK].tobytes(), 3)
    with pytest.raises(DataError, match="checksum"):
        next(data.batches(BLOCK))
    assert len(list(data.batches(BLOCK, first_batch=1))) == -(-SAMPLES // BLOCK) - 1
    assert list(data.batches(BLOCK, first_batch=10)) == []

    shuffled = PreparedData(tmp_path / "data", shuffle=True, shuffle_window=2 * BLOCK)
    for epoch in range(3):
        whole = PreparedData(folder / "single", shuffle=True, shuffle_window=2 * BLOCK)
        numbers = numbers_of(whole.batches(8, epoch=epoch))
        last_of_block = max(number for number, batch in enumerate(numbers) if min(batch) < BLOCK)
        rest = shuffled.batches(8, epoch=epoch, first_batch=last_of_block + 5)
        assert numbers_of(rest) == numbers[last_of_block + 5 :]


def test_batches_can_be_written_and_the_file_stays(folder, samples):
    data = PreparedData(folder / "single")
    first, *_ = data.batches(BLOCK)
    assert first.dense.flags.writeable
    assert first.dense.flags.c_contiguous
    first.dense[:] = 7
    first.labels[:] = 1
    assert_same_batches(list(data.batches(SAMPLES)), [samples.batch(range(SAMPLES))])


def test_a_shard_stays_mapped_no_longer_than_its_batches(folder, monkeypatch):
    class CountedReader(block_reader.ShardReader):
        mapped = 0

        def __init__(self, *arguments):
            super().__init__(*arguments)
            CountedReader.mapped += 1
            weakref.finalize(self._bytes, self.unmapped)

        @classmethod
        def unmapped(cls):
            cls.mapped -= 1

    monkeypatch.setattr(block_reader, "ShardReader", CountedReader)
    content = manifest.read_manifest(folder / "single")
    reader = block_reader.BlockReader(folder / "single", content, block_reader.CheckedBlocks())
    block = reader.samples(3, 8)
    expected = block.dense.copy()
    for start in (16, 70, 130, 60, 130):
        reader.samples(start, start + 4)
        assert CountedReader.mapped <= 2
    assert (block.dense == expected).all()
    del block
    assert CountedReader.mapped == 1


def test_more_lookups_than_a_plan_can_hold(folder, lists, monkeypatch):
    """Within one window, and in a batch of two."""
    monkeypatch.setattr(make_batches, "MOST_BAGS", 60)
    for batch_size in (10, 40):
        assert lists.batch(range(batch_size)).lookups > 60 or batch_size == 10
        with pytest.raises(DataError, match="at most 60 lookups"):
            list(PreparedData(folder / "lists").batches(batch_size))


def test_progress_is_told_up_to_the_end(folder):
    told: list[float] = []
    for _ in PreparedData(folder / "single").batches(60, on_progress=told.append, first_batch=1):
        pass
    assert told == [120 / SAMPLES, 1.0, 1.0]
    told.clear()
    for _ in PreparedData(folder / "single").batches(60, on_progress=told.append):
        pass
    assert told == [60 / SAMPLES, 120 / SAMPLES, 1.0, 1.0]


def test_as_a_source_that_can_begin_in_the_middle(folder):
    data = PreparedData(folder / "single", shuffle=True)
    expected = list(data.batches(20, epoch=3))[2:]
    assert_same_batches(list(read_batches(data, 20, epoch=3, first_batch=2)), expected)


def test_a_generator_can_be_closed_early_and_two_can_be_at_work(folder, samples):
    before = threading.active_count()
    data = PreparedData(folder / "single", shuffle=True)
    never_begun = data.batches(4)
    never_begun.close()
    closed = data.batches(4)
    next(closed)
    closed.close()
    assert threading.active_count() == before
    one, other = data.batches(8), data.batches(8, epoch=1)
    pairs = list(zip(one, other, strict=True))
    for place in (0, 1):
        numbers = numbers_of([pair[place] for pair in pairs])
        assert sorted(flat(numbers)) == list(range(SAMPLES))
        assert_same_batches([pair[place] for pair in pairs], [samples.batch(each) for each in numbers])
    assert threading.active_count() == before


def test_files_are_those_that_are_read(folder):
    single = folder / "single"
    assert PreparedData(single).files == (
        single / "prepared.json",
        *(single / manifest.shard_name(number) for number in range(3)),
    )
    split = write_split(single / "tail.json", [[70, 80], [130, 150]])
    assert PreparedData(split).files == (
        single / "prepared.json",
        split,
        single / manifest.shard_name(1),
        single / manifest.shard_name(2),
    )
    assert PreparedData(single / "prepared.json").samples == SAMPLES


@pytest.mark.parametrize(
    "settings", [{"shuffle_window": 0}, {"shuffle_window": 2**31}, {"seed": -1}, {"seed": 1.5}, {"shuffle_window": "x"}]
)
def test_settings_that_cannot_be_used(folder, settings):
    with pytest.raises(ConfigError, match="must be"):
        PreparedData(folder / "single", shuffle=True, **settings)


@pytest.mark.parametrize(
    "arguments", [{"batch_size": 0}, {"batch_size": 5, "first_batch": -1}, {"batch_size": 5, "epoch": -1}]
)
def test_numbers_that_cannot_be_used(folder, arguments):
    with pytest.raises(ConfigError, match="must be a whole number"):
        PreparedData(folder / "single").batches(**arguments)


def flip(path: Path, within: bytes, at: int) -> None:
    """Change a byte of a file: byte `at` of the only place that holds `within`."""
    content = bytearray(path.read_bytes())
    assert content.count(within) == 1
    content[content.index(within) + at] ^= 0x10
    path.write_bytes(content)


def test_memory_does_not_grow_with_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "BLOCK_SAMPLES", 256)
    monkeypatch.setattr(manifest, "SHARD_SAMPLES", 2048)
    write_prepared(tmp_path, random_samples(2048 * 12, TABLES))
    data = PreparedData(tmp_path, shuffle=True, shuffle_window=1024)
    list(islice(data.batches(64), 2))
    gc.collect()
    tracemalloc.start()
    try:
        assert sum(batch.samples for batch in data.batches(64)) == 2048 * 12
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # How far ahead the reader comes differs from run to run, but no more than about a window is in each of three
    # states; rows, dense and labels of a sample are 48 bytes, of all samples 1.2 MB.
    assert peak < 6 * 1024 * 48 + 200_000, peak
