"""Files that are there whole or not at all."""

import errno
import os

import pyarrow as pa
import pytest

from cupyrec.datasets.durable_files import (
    durable_file,
    make_folders,
    output_errors,
    partial_path,
    remove_partials,
    remove_unused,
    write_durably,
)
from cupyrec.errors import OutputError
from cupyrec.folder_lock import LOCK_FILE


def test_the_order_is_content_place_folder(tmp_path, monkeypatch):
    """The name may never be on the disk before the content."""
    done = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        done.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        real_fsync(descriptor)

    def replace(old, new):
        done.append((str(old), str(new)))
        real_replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    path = tmp_path / "a.json"
    write_durably(path, b"new")
    partial = str(tmp_path / ".a.json.partial")
    assert done == [partial, (partial, str(path)), str(tmp_path)]
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_within_leaves_all_as_it_was(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(partial):
        partial.write_bytes(b"half")
        raise error

    with pytest.raises(error), durable_file(path) as partial:
        fail(partial)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_system_that_fails_is_one_error_of_ours(tmp_path, monkeypatch, function):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=rf"^{path}: cannot be written: No space left on device; make room"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EACCES, "Permission denied"), "p: cannot be written: Permission denied"),
        (OSError("odd"), "p: cannot be written: odd"),
        (pa.ArrowInvalid("first\nsecond"), "p: cannot be written: first"),
        (
            OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
            "p: cannot be written: File too large; allow larger files (ul",
        ),
        (OSError("Write failed. Detail: [errno 28] No space left on device"), "p: cannot be written: No space left"),
    ],
)
def test_messages(error, message):
    with pytest.raises(OutputError) as raised, output_errors("p"):
        raise error
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_what_was_left_of_partial_files_is_removed_and_nothing_else(tmp_path):
    for name in ("a", "b.partial", ".c"):
        (tmp_path / name).touch()
    partial_path(tmp_path / "a").touch()
    remove_partials(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".c", "a", "b.partial"]


def test_folders_are_made_all_or_none(tmp_path):
    made = make_folders(tmp_path / "a" / "b")
    assert made == [tmp_path / "a", tmp_path / "a" / "b"]
    assert make_folders(tmp_path / "a" / "b") == []
    with pytest.raises(OSError, match="File name too long"):
        make_folders(tmp_path / "a" / "c" / ("x" * 300) / "d")
    assert os.listdir(tmp_path / "a") == ["b"]


def test_folders_that_are_used_stay(tmp_path):
    made = make_folders(tmp_path / "a" / "b" / "c")
    (made[1] / "mine").touch()
    (made[2] / LOCK_FILE).touch()
    remove_unused(made)
    assert os.listdir(made[1]) == ["mine"]
