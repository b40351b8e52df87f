"""Temporary files without a name; and disks that are full, slow or not there."""

import errno
import gc
import mmap
import os
import tempfile

import numpy as np
import pytest

from cupyrec.datasets.nameless_file import NamelessFile
from cupyrec.errors import OutputError


class SmallDisk:
    """Stands for tempfile.TemporaryFile: three bytes a call, and `room` in all."""

    def __init__(self, room):
        self.room, self.open = room, tempfile.TemporaryFile

    def __call__(self, **options):
        self.file = self.open(**options)
        return self

    def write(self, content):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.file.write(content[: min(3, self.room)])
        self.room -= written
        return written

    def readinto(self, target):
        return self.file.readinto(target[:2])

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def read(file, start, count, dtype):
    items = np.empty(count, dtype)
    file.read(start, items)
    return items.tolist()


def test_gives_back_what_was_appended_and_has_no_name(folder):
    file = NamelessFile("numbers")
    file.append(np.array([[1, 2], [3, 4]], np.int32))
    file.append(np.array([], np.float32))
    file.append(np.array([0.5], np.float32))
    assert read(file, 4, 3, np.int32) == [2, 3, 4]
    assert read(file, 16, 1, np.float32) == [0.5]
    assert read(file, 20, 0, np.int32) == []
    assert mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)[:4] == b"\1\0\0\0"
    assert list(folder.iterdir()) == []
    with pytest.raises(OSError, match="the temporary file of numbers ends 4 bytes too early"):
        file.read(16, np.empty(2, np.int32))


@pytest.mark.parametrize("how", ["close", "collect"])
def test_goes_with_the_object(folder, monkeypatch, how):
    disk = SmallDisk(room=99)
    monkeypatch.setattr(tempfile, "TemporaryFile", disk)
    file = NamelessFile("numbers")
    assert not disk.file.closed
    if how == "close":
        file.close()
        file.close()
    del file
    gc.collect()
    assert disk.file.closed


def test_a_disk_that_takes_and_gives_a_little_at_a_time(folder, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", SmallDisk(room=1000))
    file = NamelessFile("numbers")
    file.append(np.arange(40))
    assert read(file, 0, 40, np.int64) == list(range(40))


def test_a_full_disk_is_an_output_error_and_leaves_no_file(folder, monkeypatch):
    disk = SmallDisk(room=10)
    monkeypatch.setattr(tempfile, "TemporaryFile", disk)
    file = NamelessFile("numbers", ", or take fewer")
    with pytest.raises(OutputError) as raised:
        file.append(np.arange(9))
    assert str(raised.value) == (
        f"{folder}: cannot write the temporary file of numbers (No space left on device): free some space there, or "
        "choose another folder by TMPDIR, or take fewer"
    )
    assert disk.file.closed


def test_a_folder_that_is_not_there(folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "none"))
    with pytest.raises(OutputError, match=r"none: cannot write the temporary file of numbers \(No such file"):
        NamelessFile("numbers")


def test_no_folder_at_all(folder, monkeypatch):
    def nowhere(**_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "TemporaryFile", nowhere)
    with pytest.raises(OutputError, match=r"^the folder for temporary files: .* \(No usable temporary directory found"):
        NamelessFile("numbers")
