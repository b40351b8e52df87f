"""One process at a time writes to a folder."""

import os
import signal
import subprocess
import sys

import pytest

from cupyrec.errors import OutputError
from cupyrec.folder_lock import LOCK_FILE, FolderLock

HOLD = """
import sys, time
from cupyrec.folder_lock import FolderLock
with FolderLock(sys.argv[1]):
    print('held', flush=True)
    time.sleep(600)
"""


def test_keeps_others_out_until_it_is_left(tmp_path):
    with FolderLock(tmp_path):
        with pytest.raises(OutputError, match=r"another cupyrec is writing to it; wait for its end") as raised:
            FolderLock(str(tmp_path)).__enter__()
        assert str(raised.value).startswith(f"{tmp_path}: ")
    with FolderLock(tmp_path):
        pass
    assert os.listdir(tmp_path) == [LOCK_FILE]


def test_is_left_when_the_block_raises(tmp_path):
    with pytest.raises(KeyError), FolderLock(tmp_path):
        raise KeyError
    with FolderLock(tmp_path):
        pass


def test_a_process_that_is_killed_holds_it_no_longer(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=r"another cupyrec"):
            FolderLock(tmp_path).__enter__()
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    with FolderLock(tmp_path):
        pass


def test_no_descriptor_is_left_open(tmp_path):
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    with FolderLock(tmp_path), pytest.raises(OutputError):
        FolderLock(tmp_path).__enter__()
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before


def test_a_folder_that_is_not_there_or_no_folder(tmp_path):
    for path in (tmp_path / "none", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match=rf"{path}: cannot be written: No(t a directory| such file)"):
            FolderLock(path).__enter__()
