"""Whatever happens to the shards, what comes out is the data as they were, or a DataError that names the file."""

import dataclasses
import errno
import json
import shutil
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepared_for_tests import (
    assert_same_batches,
    random_samples,
    read_all,
    rewrite,
    with_column,
    with_value,
    without_checksum,
    write_prepared,
)

from cupyrec.datasets.prepared import manifest, shard_reader
from cupyrec.datasets.prepared.check_block import checksum_of
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.datasets.prepared.shard_reader import ShardReader
from cupyrec.errors import DataError

BLOCK, SHARD, SAMPLES = 8, 16, 44
TABLES = (10, 300, 70_000)
UINT8, UINT16 = pa.uint8(), pa.uint16()


pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(scope="module")
def samples():
    return random_samples(SAMPLES, TABLES, multi_hot=(1,))


@pytest.fixture(scope="module")
def whole(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "data"
    write_prepared(folder, samples)
    return folder


def test_the_checksum_is_that_of_the_manifest(whole):
    content = manifest.read_manifest(whole)
    for shard in content.shards:
        reader = ShardReader(whole / shard.file, shard, content)
        assert [checksum_of(reader.block(number)) for number in range(len(shard.checksums))] == list(shard.checksums)


def test_a_missing_shard(folder):
    data = PreparedData(folder)
    (folder / "shard-00001.arrow").unlink()
    for read in (lambda: PreparedData(folder), lambda: list(data.batches(10))):
        with pytest.raises(DataError, match=r"shard-00001\.arrow: a file of the prepared data is missing"):
            read()


@pytest.mark.parametrize("change", [lambda whole: whole[:-1], lambda whole: b"", lambda whole: whole + b"x"])
def test_a_shard_of_another_size_is_seen_at_opening_and_at_each_epoch(folder, change):
    data = PreparedData(folder)
    list(data.batches(10))
    path = folder / "shard-00002.arrow"
    content = path.read_bytes()
    path.write_bytes(change(content))
    message = f"has {len(change(content)):,} bytes instead of {len(content):,}"
    for read in (lambda: PreparedData(folder), lambda: list(data.batches(10))):
        with pytest.raises(DataError, match=message) as error:
            read()
        assert error.value.path == path


def test_a_shard_that_is_a_folder_or_may_not_be_read(folder):
    path = folder / "shard-00000.arrow"
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"shard-00000\.arrow"):
        PreparedData(folder)


def test_more_shards_in_a_window_than_files_may_be_open(folder, monkeypatch):
    data = PreparedData(folder, shuffle=True)

    def no_more(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(shard_reader.mmap, "mmap", no_more)
    with pytest.raises(DataError, match=r"shard-0000.\.arrow: too many files are open.*a smaller window"):
        list(data.batches(10))


@pytest.mark.parametrize("place", ["label", "dense", "C1", "lengths", "C2", "C3"])
@pytest.mark.parametrize("block", [0, 1])
def test_a_flipped_byte_names_file_and_rows(whole, folder, place, block):
    content = manifest.read_manifest(whole)
    shard = ShardReader(whole / "shard-00001.arrow", content.shards[1], content)
    stored = shard.block(block)
    arrays = {"label": stored.labels, "dense": stored.dense, "lengths": stored.columns[1].offsets}
    arrays |= {f"C{number}": column.ids for number, column in enumerate(stored.columns, start=1)}
    first = arrays[place].ctypes.data - shard._bytes.ctypes.data
    path = folder / "shard-00001.arrow"
    changed = bytearray(path.read_bytes())
    # Of a label or dense value the sign, of lengths one that stays ascending with luck only.
    changed[first + (7 if place == "dense" else 4 if place == "lengths" else 3 if place == "label" else 0)] ^= 0x80
    path.write_bytes(changed)
    for shuffle in (False, True):
        data = PreparedData(folder, shuffle=shuffle)
        with pytest.raises(DataError, match=rf"rows {block * BLOCK} to {block * BLOCK + 7}|lengths") as error:
            list(data.batches(5))
        assert error.value.path == path


def test_a_file_that_changes_between_epochs_is_checked_again(folder):
    data = PreparedData(folder)
    list(data.batches(10))
    rewrite(folder, 1, lambda blocks: [with_value(blocks[0], "C3", 5, 12_345), blocks[1]])
    with pytest.raises(DataError, match=r"checksum|instead of"):
        list(data.batches(10))


@pytest.mark.parametrize(
    ("name", "row", "value", "message"),
    [
        ("C1", 3, 10, "row 11 .*column C1: the id 10 is not in its table of 10 rows"),
        ("C1", 7, 255, "row 15 .*column C1: the id 255"),
        ("C2", 2, [1, 299, 300, 2], "row 10 .*column C2: the id 300 is not in its table of 300 rows"),
        ("C2", 0, [65_535], "row 8 .*column C2: the id 65535"),
        ("C3", 0, 70_000, "row 8 .*column C3: the id 70000"),
        ("C3", 1, 2**32 - 1, "row 9 .*column C3: the id 4294967295"),
        ("label", 4, 0.5, "row 12 .*column label: a label is 0 or 1, not 0.5"),
        ("label", 4, float("nan"), "row 12 .*column label.*nan"),
        ("dense", 6, [1.0, float("inf"), 2.0], "row 14 .*column I2: inf is not finite"),
        ("dense", 0, [float("nan"), 1.0, 2.0], "row 8 .*column I1: nan is not finite"),
    ],
)
def test_numbers_that_no_model_can_take_name_file_row_and_column(folder, name, row, value, message):
    path = rewrite(folder, 1, lambda blocks: [blocks[0], with_value(blocks[1], name, row, value)])
    for shuffle in (False, True):
        with pytest.raises(DataError, match=message) as error:
            list(PreparedData(folder, shuffle=shuffle).batches(5))
        assert error.value.path == path


def lists_with_offsets(offsets, ids):
    """As a foreign program could write them."""
    return pa.ListArray.from_buffers(
        pa.list_(UINT16), len(offsets) - 1, [None, pa.py_buffer(np.array(offsets, np.int32))], children=[ids]
    )


def test_lists_that_begin_later_or_leave_ids_out_are_read_right(folder, samples):
    ids = pa.array(range(40), UINT16)
    offsets = [3, 5, 5, 9, 10, 10, 12, 20, 31]
    changed = dataclasses.replace(samples, features=[list(feature) for feature in samples.features])
    changed.features[1][SHARD : SHARD + BLOCK] = [list(range(start, stop)) for start, stop in pairwise(offsets)]
    rewrite(folder, 1, lambda blocks: [with_column(blocks[0], "C2", lists_with_offsets(offsets, ids)), blocks[1]])
    assert_same_batches(list(PreparedData(folder).batches(SAMPLES)), [changed.batch(range(SAMPLES))])


@pytest.mark.parametrize(
    "offsets", [[-1, 1, 2, 3, 4, 5, 6, 7, 8], [0, 5, 4, 6, 6, 6, 6, 6, 6], [0, 1, 2, 3, 4, 5, 6, 7, 10**6]]
)
def test_lists_that_lead_out_of_their_column(folder, offsets):
    """pyarrow refuses to write some of these: the right ones are overwritten in the file."""
    content = manifest.read_manifest(folder)
    shard = ShardReader(folder / "shard-00000.arrow", content.shards[0], content)
    first = shard.block(0).columns[1].offsets.ctypes.data - shard._bytes.ctypes.data
    path = folder / "shard-00000.arrow"
    changed = bytearray(path.read_bytes())
    changed[first : first + 36] = np.array(offsets, np.int32).tobytes()
    path.write_bytes(changed)
    with pytest.raises(DataError, match=r"shard-00000\.arrow: damaged"):
        list(PreparedData(folder).batches(10))


SCHEMAS = {
    "a column more": lambda b: b.append_column("x", pa.array([1] * b.num_rows)),
    "a column less": lambda b: b.remove_column(4),
    "another order": lambda b: b.select([0, 1, 3, 2, 4]),
    "another name": lambda b: b.rename_columns(["label", "dense", "C1", "C2", "C4"]),
    "labels of float64": lambda b: with_column(b, "label", b["label"].cast(pa.float64())),
    "signed ids": lambda b: with_column(b, "C1", b["C1"].cast(pa.int32())),
    "ids of 64 bits": lambda b: with_column(b, "C3", b["C3"].cast(pa.uint64())),
    "lists where there is one id": lambda b: with_column(b, "C1", pa.array([[1]] * b.num_rows, pa.list_(UINT8))),
    "one id where there are lists": lambda b: with_column(b, "C2", pa.array([1] * b.num_rows, UINT8)),
    "lists of 64 bits": lambda b: with_column(b, "C2", b["C2"].cast(pa.large_list(UINT16))),
    "dense of another width": lambda b: with_column(
        b, "dense", pa.array([[1.0]] * b.num_rows, pa.list_(pa.float32(), 1))
    ),
    "dense of float64": lambda b: with_column(b, "dense", b["dense"].cast(pa.list_(pa.float64(), 3))),
    "dense lists": lambda b: with_column(b, "dense", pa.array([[1.0] * 3] * b.num_rows, pa.list_(pa.float32()))),
}


@pytest.mark.parametrize("change", SCHEMAS)
def test_a_schema_that_is_not_that_of_the_manifest_is_seen_at_opening(folder, change):
    path = rewrite(folder, 1, lambda blocks: [SCHEMAS[change](block) for block in blocks])
    with pytest.raises(DataError, match="damaged") as error:
        PreparedData(folder)
    assert error.value.path == path


@pytest.mark.parametrize("name", ["label", "dense", "C1", "C2"])
def test_nulls(folder, name):
    rewrite(folder, 1, lambda blocks: [with_value(blocks[0], name, 2, None), blocks[1]])
    with pytest.raises(DataError, match=r"shard-00001\.arrow: damaged: block 0: a column has nulls"):
        list(PreparedData(folder).batches(10))


def test_compressed_buffers(folder):
    rewrite(folder, 0, lambda blocks: blocks, compression="zstd")
    with pytest.raises(DataError, match="compressed"):
        list(PreparedData(folder).batches(10))


@pytest.mark.parametrize("sizes", [(8, 4, 4), (16,), (4, 12), (12, 4)])
def test_blocks_of_other_sizes(folder, sizes):
    def recut(blocks):
        table = pa.Table.from_batches(blocks).combine_chunks()
        starts = np.cumsum([0, *sizes])
        return [table.slice(int(start), size).to_batches()[0] for start, size in zip(starts, sizes, strict=False)]

    def read():
        return list(PreparedData(folder).batches(10))

    rewrite(folder, 1, recut)
    with pytest.raises(DataError, match="damaged"):
        read()


@given(data=st.data())
def test_any_flipped_byte_of_a_shard(whole, scratch, data):
    """Of the file's own metadata too: some of its bytes mean nothing, and then the data are the same."""
    path = scratch / "shard-00001.arrow"
    content = bytearray((whole / path.name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        # The end of the file is its directory: as likely as all the rest.
        place = data.draw(
            st.one_of(st.integers(0, len(content) - 1), st.integers(len(content) - 1500, len(content) - 1))
        )
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = read_all(scratch)
    except DataError as error:
        assert error.path == path  # noqa: PT017
    else:
        for one, other in zip(found, read_all(whole), strict=True):
            assert_same_batches(one, other)


@given(head=st.sampled_from([b"", b"ARROW1\0\0"]), body=st.binary(max_size=600), tail=st.sampled_from([b"", b"ARROW1"]))
def test_any_bytes_as_a_shard(whole, scratch, head, body, tail):
    content = without_checksum(whole)
    text = head + body + tail or b"x"
    content["shards"][1]["size_bytes"] = len(text)
    (scratch / manifest.MANIFEST_FILE).write_text(json.dumps(content))
    (scratch / "shard-00001.arrow").write_bytes(text)
    try:
        with pytest.raises(DataError) as error:
            PreparedData(scratch)
    finally:
        for name in (manifest.MANIFEST_FILE, "shard-00001.arrow"):
            shutil.copy(whole / name, scratch / name)
    assert error.value.path == scratch / "shard-00001.arrow"
