"""Head and tail of prepared data are the whole, in order, whatever part of a folder they are of."""

import shutil
from pathlib import Path

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

from cupyrec.datasets.prepared import block_reader, manifest
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.errors import ConfigError, DataError

BLOCK, SHARD, SAMPLES = 16, 64, 150
TABLES = (10, 300, 70_000, 40)


pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return random_samples(SAMPLES, TABLES, multi_hot=(1, 2))


@pytest.fixture(scope="module")
def folder(samples, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tails")
    write_prepared(folder, samples)
    return folder


@given(
    ranges=some_ranges(SAMPLES),
    shares=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=3),
    window=st.none() | st.just(40),
)
def test_head_and_tail_are_the_whole(folder, samples, ranges, shares, window):
    """Of any ranges, and of a tail again."""
    split = write_split(folder / "part.json", ranges)
    data = PreparedData(split, shuffle=window is not None, shuffle_window=window or 1, seed=3)
    for share in shares:
        whole = [number for start, stop in data.ranges for number in range(start, stop)]
        if round(len(whole) * share) in (0, len(whole)):
            with pytest.raises(ConfigError, match="leaves one part empty"):
                data.split_tail(share)
            return
        before = vars(data).copy()
        head, tail = data.split_tail(share)
        assert vars(data) == before
        cut = len(whole) - round(len(whole) * share)
        for part, expected in ((head, whole[:cut]), (tail, whole[cut:])):
            assert part.samples == len(expected)
            assert [number for start, stop in part.ranges for number in range(start, stop)] == expected
            batches = list(part.batches(7))
            numbers = numbers_of(batches)
            assert (sorted(flat(numbers)) if window else flat(numbers)) == expected
            assert_same_batches(batches, [samples.batch(each) for each in numbers])
            shards = sorted({number // SHARD for number in expected})
            own = (folder / "prepared.json", split)
            assert part.files == (*own, *(folder / manifest.shard_name(shard) for shard in shards))
        data = tail


def test_a_tail_reads_the_files_of_its_samples_alone(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    head, tail = PreparedData(tmp_path / "data").split_tail(0.2)
    (tmp_path / "data" / manifest.shard_name(0)).unlink()
    assert numbers_of(tail.batches(SAMPLES)) == [list(range(120, 150))]
    with pytest.raises(DataError, match="missing"):
        list(head.batches(10))


def test_what_was_checked_is_not_checked_again_in_its_parts(folder, monkeypatch):
    data = PreparedData(folder)
    list(data.batches(BLOCK))
    monkeypatch.setattr(block_reader, "check_block", None)
    for part in data.split_tail(0.5):
        assert sum(batch.samples for batch in part.batches(BLOCK)) == SAMPLES // 2


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), 0.003, 0.997, "0.1", None])
def test_shares_that_cannot_be_split_off(folder, share):
    with pytest.raises(ConfigError, match=r"between 0 and 1|leaves one part empty"):
        PreparedData(folder).split_tail(share)
