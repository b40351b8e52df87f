"""The folder of a run's checkpoints: `step-00001000` and so on; any other name is half-made or half-gone."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from cupyrec.byte_sizes import format_bytes
from cupyrec.datasets.durable_files import free_bytes, output_errors, sync_folder
from cupyrec.errors import OutputError

WHOLE = re.compile(r"step-([0-9]{8,})")
# In the folder of a run.
CHECKPOINTS_FOLDER = "checkpoints"
PARTIAL, OLD = ".partial", ".old"


class CheckpointFolder:
    """Gives whole checkpoints their names, and removes old ones. A name is that of a whole one at any moment."""

    def __init__(self, path: str | Path) -> None:
        """path: is made with the first checkpoint."""
        self.path = Path(path)

    def steps(self) -> list[int]:
        """Of the checkpoints that are there, ascending."""
        if not self.path.is_dir():
            return []
        return sorted(int(match[1]) for path in self.path.iterdir() if (match := WHOLE.fullmatch(path.name)))

    def place(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.path / f"step-{step:08}"

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint, None where there is none."""
        steps = self.steps()
        return self.place(steps[-1]) if steps else None

    def clean(self) -> None:
        """Remove what a process that was killed left half-made or half-removed. Raises OutputError."""
        with output_errors(self.path):
            for suffix in (PARTIAL, OLD):
                for left in self.path.glob(f".step-*{suffix}"):
                    if left.is_dir() and not left.is_symlink():
                        shutil.rmtree(left)
                    else:
                        left.unlink()

    def keep_newest(self, count: int, also: Collection[int] = ()) -> None:
        """Remove all but the newest, and those of some steps. Raises OutputError."""
        for step in self.steps()[:-count]:
            if step not in also:
                self._remove(step)

    def remove_after(self, step: int) -> list[int]:
        """Remove those of later steps, the latest first; return their steps. Raises OutputError."""
        later = [each for each in reversed(self.steps()) if each > step]
        for each in later:
            self._remove(each)
        return later

    def remove_all(self) -> None:
        """Remove whole checkpoints and what is left of others; other files in the folder stay. Raises OutputError."""
        self.remove_after(0)
        self.clean()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _remove(self, step: int) -> None:
        """Under another name at once: what is half-removed is never taken for whole."""
        with output_errors(self.path):
            old = self.path / f".step-{step:08}{OLD}"
            os.replace(self.place(step), old)
            sync_folder(self.path)
            shutil.rmtree(old)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder or, where none is, in its folder of checkpoints, as a run has one; or None."""
    return CheckpointFolder(folder).newest or CheckpointFolder(folder / CHECKPOINTS_FOLDER).newest


def partial_of(target: Path) -> Path:
    """Where a checkpoint is written before it has its name."""
    return target.with_name(f".{target.name}{PARTIAL}")


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise OutputError when a checkpoint does not fit on the disk of a folder, which need not be there."""
    free = free_bytes(folder)
    if needed_bytes > free:
        raise OutputError(
            f"{folder}: a checkpoint takes {format_bytes(needed_bytes)}, but {format_bytes(free)} are free on this "
            "disk; make room, or keep fewer (--keep)"
        )
