"""A file system that holds little, for real."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A folder that is a file system of its own, in memory. size: as `mount` takes it."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = shutil.which("mount") and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
        )
        if not mounted or mounted.returncode:
            pytest.skip("needs the right to mount a file system")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def remount(folder: Path, options: str) -> None:
    """options: such as `ro`, or `size=20m`."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
