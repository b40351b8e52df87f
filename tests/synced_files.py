"""What is brought to the disk, and what it held by then."""

import os
from pathlib import Path

import pytest


def record_syncs(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """By path, as it was then called, the size of each file or folder at its last fsync."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("names descriptors by /proc")
    sizes, real_fsync = {}, os.fsync

    def fsync(descriptor):
        real_fsync(descriptor)
        sizes[Path(os.readlink(f"/proc/self/fd/{descriptor}"))] = os.fstat(descriptor).st_size

    monkeypatch.setattr(os, "fsync", fsync)
    return sizes
