"""What we write the safetensors package reads, and the other way round; damage is found and named."""

import io
import json
import os
import re
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from cupyrec.errors import ModelError, OutputError
from cupyrec.saving import safetensors_file
from cupyrec.saving.safetensors_checksum import check_checksums
from cupyrec.saving.safetensors_file import ArraySource
from cupyrec.saving.safetensors_header import DTYPES
from cupyrec.saving.safetensors_io import open_tensors, read_metadata, weights_files, write_sharded

INDEX = "model.safetensors.index.json"


def example_tensors():
    """Every dtype, odd sizes, no axes, no elements."""
    rng = np.random.default_rng(1)
    tensors = {f"of {name}": rng.integers(0, 2, (3, 5)).astype(dtype) for name, dtype in DTYPES.items()}
    return tensors | {
        "scalar": np.array(2.5, np.float32),
        "no rows": np.empty((0, 7), np.float32),
        "no columns": np.empty((4, 0), np.int64),
        'naïve "name"\n\\': np.arange(3, dtype=np.uint8),
        "large": rng.standard_normal((1000, 17)).astype(np.float32),
    }


def sources(tensors):
    return {name: ArraySource(tensor) for name, tensor in tensors.items()}


def assert_same_tensors(actual, expected):
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(actual[name], tensor, err_msg=name)
        assert actual[name].dtype == tensor.dtype, name
        assert actual[name].shape == tensor.shape, name


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def file_of(header, data=b""):
    """A file with any header, sound or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def file_checksum(path):
    """As the format has it: of the file with zeros in place of the checksum itself."""
    key = b'"crc32":"'
    content = re.sub(key + b".{8}", key + b"0" * 8, path.read_bytes(), count=1)
    return f"{zlib.crc32(content):08x}"


def test_the_package_reads_what_we_write(tmp_path):
    tensors = example_tensors()
    files = write_sharded(tmp_path / "new" / "folder", sources(tensors), {"model": "dlrm", "λ": "µ"})
    assert files == [tmp_path / "new" / "folder" / "model.safetensors"]
    assert_same_tensors(safetensors.numpy.load_file(files[0]), tensors)
    with safetensors.safe_open(files[0], "numpy") as opened:
        assert opened.metadata() == {"crc32": file_checksum(files[0]), "model": "dlrm", "λ": "µ"}
    assert read_metadata(files[0].parent) == {"model": "dlrm", "λ": "µ"}


def test_we_read_what_the_package_writes(tmp_path):
    tensors = example_tensors()
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors", {"epoch": "3"})
    assert_same_tensors(open_tensors(tmp_path), tensors)
    assert read_metadata(tmp_path) == {"epoch": "3"}


def test_no_tensors_and_no_metadata(tmp_path):
    files = write_sharded(tmp_path, {})
    assert safetensors.numpy.load_file(files[0]) == {}
    assert (open_tensors(tmp_path), read_metadata(tmp_path)) == ({}, {})


def test_tensors_lie_aligned_and_are_mapped_not_copied(tmp_path):
    tensors = example_tensors()
    write_sharded(tmp_path, sources(tensors))
    opened = open_tensors(tmp_path)
    assert all(tensor.flags.aligned for tensor in opened.values())
    assert not any(tensor.flags.writeable for tensor in opened.values())
    with open(tmp_path / "model.safetensors", "r+b") as file:
        content = file.read()
        file.seek(content.index(tensors["large"].tobytes()))
        file.write(np.float32(42).tobytes())
    assert opened["large"][0, 0] == 42


def test_shards_and_their_index_as_hugging_face_names_them(tmp_path):
    tensors = {name: np.full(10, i, np.float32) for i, name in enumerate("abcdef")}
    tensors["wide"] = np.arange(100, dtype=np.float32)  # larger than a shard: has one to itself
    tensors["last"] = np.ones(1, np.uint8)
    files = write_sharded(tmp_path, sources(tensors), {"k": "v"}, max_shard_bytes=100)
    shards = [f"model-{i:05}-of-00005.safetensors" for i in range(1, 6)]
    assert [path.name for path in files] == [*shards, INDEX]
    assert names_in(tmp_path) == sorted([*shards, INDEX])
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_size": 641}
    expected = dict(zip([*tensors], [shards[i] for i in (0, 0, 1, 1, 2, 2, 3, 4)], strict=True))
    assert index["weight_map"] == expected
    for name, shard in expected.items():
        np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / shard)[name], tensors[name])
    assert_same_tensors(open_tensors(tmp_path), tensors)
    assert read_metadata(tmp_path) == {"k": "v"}


def test_a_shard_may_be_full_to_the_last_byte(tmp_path):
    tensors = {name: np.zeros(10, np.float32) for name in "abc"}
    write_sharded(tmp_path, sources(tensors), max_shard_bytes=80)
    assert sorted(json.loads((tmp_path / INDEX).read_text())["weight_map"].values()) == [
        "model-00001-of-00002.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


@pytest.mark.parametrize("block_bytes", [1, 100, 2**23])
def test_strided_arrays_are_written_as_they_look(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(safetensors_file, "BLOCK_BYTES", block_bytes)
    records = np.random.default_rng(0).standard_normal((57, 20)).astype(np.float32)
    before = records.copy()
    tensors = {
        "weights": records[:, :16],
        "state": records[:, 16],
        "backwards": records[::-2, ::-3],
        "turned": records.T,
        "big-endian": records.astype(">f4"),
        "repeated": np.broadcast_to(np.float32(3), (5, 4)),
    }
    write_sharded(tmp_path, sources(tensors))
    expected = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    assert_same_tensors(safetensors.numpy.load_file(tmp_path / "model.safetensors"), expected)
    assert_same_tensors(open_tensors(tmp_path), expected)
    np.testing.assert_array_equal(records, before)


def test_a_strided_table_is_never_copied_whole(tmp_path):
    records = np.zeros((400_000, 20), np.float32)
    table = records[:, :16]  # 25.6 MB
    tracemalloc.start()
    try:
        write_sharded(tmp_path, {"table": ArraySource(table)})
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # One block that is written, and the next that is being made.
    assert peak_bytes < 2.1 * safetensors_file.BLOCK_BYTES < table.nbytes


@pytest.mark.parametrize("old_bytes", [10**9, 50, 100])
@pytest.mark.parametrize("new_bytes", [10**9, 50, 100])
def test_a_new_model_replaces_the_old_one_and_all_its_files(tmp_path, old_bytes, new_bytes):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model-00001-of-00009.safetensors.partial").write_text("left by a process that was killed")
    old = {name: np.zeros(10, np.float32) for name in "abcdef"}
    new = {name: np.ones(10, np.float32) for name in "uvwxyz"}
    write_sharded(tmp_path, sources(old), max_shard_bytes=old_bytes)
    files = write_sharded(tmp_path, sources(new), max_shard_bytes=new_bytes)
    assert names_in(tmp_path) == sorted([*(path.name for path in files), "notes.txt"])
    assert_same_tensors(open_tensors(tmp_path), new)


class FailingSource:
    """Yields half of its tensor and then raises."""

    shape, dtype = (4, 2), np.dtype(np.float32)

    def blocks(self):
        yield np.zeros((2, 2), np.float32)
        raise RuntimeError("the source failed")


@pytest.mark.parametrize("max_shard_bytes", [10**9, 40])
def test_when_a_source_fails_the_old_model_stays_and_nothing_is_left(tmp_path, max_shard_bytes):
    old = {name: np.zeros(10, np.float32) for name in "abc"}
    write_sharded(tmp_path, sources(old), max_shard_bytes=max_shard_bytes)
    names_before = names_in(tmp_path)
    new = sources({name: np.ones(10, np.float32) for name in "abc"}) | {"d": FailingSource()}
    with pytest.raises(RuntimeError, match="the source failed"):
        write_sharded(tmp_path, new, max_shard_bytes=max_shard_bytes)
    assert names_in(tmp_path) == names_before
    assert_same_tensors(open_tensors(tmp_path), old)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 40])
def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path, monkeypatch, max_shard_bytes):
    def refuse(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    tensors = sources({name: np.zeros(10, np.float32) for name in "abc"})
    with pytest.raises(OutputError, match=r"model.*: cannot be written: No space left on device; make room"):
        write_sharded(tmp_path, tensors, max_shard_bytes=max_shard_bytes)
    assert names_in(tmp_path) == []


def test_a_disk_that_takes_a_little_at_a_time_gets_all():
    class Slow(io.BytesIO):
        def write(self, data):
            return super().write(data[:3])

    file = Slow()
    safetensors_file._write_all(file, b"0123456789")
    assert file.getvalue() == b"0123456789"


def test_every_file_is_on_the_disk_before_the_first_is_renamed(tmp_path, monkeypatch):
    """And while new shards take their names, no index points at any of them."""
    events, sizes = [], []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append(("sync", target.name))
        sizes.append((target.name.removesuffix(".partial"), target.stat().st_size))
        real_fsync(descriptor)

    def replace(source, target):
        assert not (tmp_path / INDEX).exists()
        assert not (tmp_path / "model.safetensors").exists()
        events.append(("rename", target.name))
        real_replace(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("names descriptors by /proc")
    tensors = {name: np.zeros(10, np.float32) for name in "ab"}
    write_sharded(tmp_path, sources(tensors), max_shard_bytes=40)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_sharded(tmp_path, sources(tensors), max_shard_bytes=40)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX]
    assert events == [
        *[("sync", f"{name}.partial") for name in files],
        ("sync", tmp_path.name),
        *[("rename", name) for name in files],
        ("sync", tmp_path.name),
    ]
    assert sizes[:3] == [(name, (tmp_path / name).stat().st_size) for name in files]


def test_a_folder_that_cannot_be_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/folder: cannot be written: Not a directory"):
        write_sharded(tmp_path / "file" / "folder", {})


class Source:
    """A source of given blocks."""

    def __init__(self, shape, dtype, blocks):
        self.shape, self.dtype, self._blocks = shape, np.dtype(dtype), blocks

    def blocks(self):
        yield from self._blocks


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "message"),
    [
        ({"x": Source((3,), "f4", [np.zeros(2, "f4")])}, {}, ValueError, "has 12 bytes, but its blocks have 8"),
        ({"x": Source((1,), "f4", [np.zeros(2, "f4")])}, {}, ValueError, "has 4 bytes, but its blocks have 8"),
        ({"x": Source((2,), "f4", [np.zeros(2, "i4")])}, {}, TypeError, "is float32, but a block is int32"),
        ({"x": ArraySource(np.zeros(2, "c8"))}, {}, TypeError, "'x' of dtype complex64 cannot be kept"),
        ({"__metadata__": ArraySource(np.zeros(2))}, {}, TypeError, "'__metadata__'"),
        ({}, {"epoch": 3}, TypeError, "metadata of a safetensors file are strings"),
    ],
)
def test_unusable_tensors_are_refused_and_leave_nothing(tmp_path, tensors, metadata, error, message):
    with pytest.raises(error, match=message):
        write_sharded(tmp_path, tensors, metadata)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes"),
        (b"1234567", "it has 7 bytes"),
        (b"\xff" * 8, "cannot be in a file of 8"),
        ((100).to_bytes(8, "little") + b"{}", "its header of 100 bytes cannot be in a file of 10"),
        (file_of(b""), "its header is not JSON"),
        (file_of(b"{"), "its header is not JSON"),
        (file_of(b"\xff\xfe{}"), "its header is not JSON"),
        (file_of(b"[" * 100_000), "its header is not JSON"),
        (file_of(b"[]"), "its header is not a JSON object"),
        (file_of({"__metadata__": {"a": 1}}), "its __metadata__ is not a map of strings"),
        (file_of({"__metadata__": "a"}), "its __metadata__ is not a map of strings"),
        (file_of(b'{"x": 1, "x": 2}'), "its header names something twice"),
        (file_of({"x": 3}), "'x' has not just dtype, shape and data_offsets"),
        (file_of({"x": {"dtype": "F32", "shape": []}}), "'x' has not just dtype, shape and data_offsets"),
        (file_of({"x": entry("BF16")}), "'x' has dtype 'BF16'; known are F64, F32"),
        (file_of({"x": entry(["F32"])}), "'x' has dtype .*; known are F64, F32"),
        (file_of({"x": entry(shape=[-2])}), "'x' has an unusable shape"),
        (file_of({"x": entry(shape=[2.0])}), "'x' has an unusable shape"),
        (file_of({"x": entry(shape=[True])}), "'x' has an unusable shape"),
        (file_of({"x": entry(begin=-8, end=0)}), "'x' has an unusable shape"),
        (file_of({"x": entry() | {"data_offsets": [0, 8, 9]}}), "'x' has an unusable shape"),
        (file_of({"x": entry() | {"data_offsets": "08"}}), "'x' has an unusable shape"),
        (file_of({"x": entry(shape=[2**40, 2**40])}), "needs 4835703278458516698824704 bytes, but has 8"),
        (file_of({"x": entry(begin=8, end=0)}), "needs 8 bytes, but has -8"),
        (file_of({"x": entry()}, bytes(7)), "its tensors take 8 bytes, but 7 follow the header"),
        (file_of({"x": entry()}, bytes(9)), "its tensors take 8 bytes, but 9 follow the header"),
        (file_of({"x": entry(begin=4, end=12)}, bytes(12)), "'x' leaves a gap before it"),
        (file_of({"x": entry(), "y": entry(begin=4, end=12)}, bytes(12)), "'y' overlaps the tensor before"),
        (file_of({"x": entry(shape=[1] * 1000, end=4)}, bytes(4)), "maximum supported dimension"),
        (file_of({"x": entry(shape=[0, 2**62, 2**62], end=0)}), "too big|Maximum allowed"),
    ],
)
def test_a_damaged_file_is_named_and_explained(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        open_tensors(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/model.safetensors: damaged, or not a safetensors file: ")
    assert "\n" not in str(caught.value)


def test_any_flipped_or_missing_byte_of_a_header_is_found_or_harmless(tmp_path):
    tensors = {"first": np.arange(6, dtype=np.float32).reshape(2, 3), "second": np.ones(5, np.uint8)}
    path = write_sharded(tmp_path, sources(tensors), {"key": "value"})[0]
    content = path.read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")
    found = 0
    damaged = [
        content[:i] + bytes([content[i] ^ flip]) + content[i + 1 :] for i in range(header_end) for flip in (0x01, 0x80)
    ]
    damaged += [content[:i] for i in range(len(content))]
    for number, bad in enumerate(damaged):
        path = tmp_path / str(number) / "model.safetensors"
        path.parent.mkdir()
        path.write_bytes(bad)
        try:
            opened = open_tensors(path.parent)
        except ModelError:
            found += 1
        else:  # another name, or another shape or dtype of as many bytes
            assert sum(tensor.nbytes for tensor in opened.values()) == 29
    assert found > 0.75 * len(damaged)
    assert found >= len(content)  # every truncation


@pytest.mark.parametrize("max_shard_bytes", [10**9, 20])
def test_any_flipped_byte_of_a_model_is_found(tmp_path, max_shard_bytes):
    tensors = {"first": np.arange(6, dtype=np.float32).reshape(2, 3), "second": np.ones(5, np.uint8)}
    write_sharded(tmp_path, sources(tensors), {"key": "value", "steps": "3"}, max_shard_bytes)
    shares = []
    assert check_checksums(weights_files(tmp_path), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    path = weights_files(tmp_path)[-1]
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            open_tensors(tmp_path)
            found = not check_checksums(weights_files(tmp_path))  # its name is spoilt
        except ModelError as error:
            found = "model" in str(error)
        assert found, place


def test_files_without_a_checksum_are_not_checked(tmp_path):
    safetensors.numpy.save_file(example_tensors(), tmp_path / "model.safetensors", {"epoch": "3"})
    assert not check_checksums(weights_files(tmp_path))


def test_a_checksum_that_another_program_kept_is_told(tmp_path):
    write_sharded(tmp_path, sources({"x": np.ones(3, np.float32)}))
    path = tmp_path / "model.safetensors"
    with safetensors.safe_open(path, "numpy") as opened:
        metadata = opened.metadata()
    safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, path, metadata)
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged, or changed by a program that kept `crc32`"):
        check_checksums([path])


def test_a_folder_without_a_model_says_so(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=r"holds no model \(neither model.safetensors nor model\.safet"):
            open_tensors(folder)


def test_a_file_that_cannot_be_opened_is_a_model_error(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ModelError, match=r"model.safetensors: cannot be read \(Is a directory\)"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"{", "cannot be read as an index"),
        (b"[]", "cannot be read as an index"),
        (b"{}", "cannot be read as an index"),
        (b'{"weight_map": 3}', "cannot be read as an index"),
        (b'{"weight_map": {"a": []}}', "cannot be read as an index"),
        (b'{"weight_map": {"a": 3}}', "3 is not the name of a safetensors file"),
        (b'{"weight_map": {"a": "../model.safetensors"}}', "'../model.safetensors' is not the name"),
        (b'{"weight_map": {"a": "/etc/passwd"}}', "'/etc/passwd' is not the name"),
        (b'{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors: cannot be read"),
        (b'{"weight_map": {}}', "names no tensor"),
    ],
)
def test_a_bad_index_is_a_model_error(tmp_path, index, message):
    (tmp_path / INDEX).write_bytes(index)
    with pytest.raises(ModelError, match=message):
        open_tensors(tmp_path)


def test_index_and_shards_must_agree(tmp_path):
    tensors = {name: np.zeros(10, np.float32) for name in "ab"}
    write_sharded(tmp_path, sources(tensors), max_shard_bytes=40)
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    for weight_map, message in (
        ({"a": first, "b": first}, rf"{first}: tensor 'b' is not in the file, but in {INDEX}"),
        ({"a": first, "b": second, "c": second}, rf"{second}: tensor 'c' is not in the file, but in"),
        ({"a": first, "c": second, "b": second, "a2": first}, "tensor 'a2' is not in the file"),
    ):
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ModelError, match=message):
            open_tensors(tmp_path)
    write_sharded(tmp_path, sources(tensors | {"c": np.zeros(1, np.float32)}), max_shard_bytes=80)
    index = json.loads((tmp_path / INDEX).read_text())
    del index["weight_map"]["a"]
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=rf"{first}: tensor 'a' is in the file, but not in {INDEX}"):
        open_tensors(tmp_path)
