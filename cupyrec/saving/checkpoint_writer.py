"""Writes one checkpoint, at once or while training goes on.

While it goes on, a thread writes the host table block by block as it is at that moment. Whatever training changes
meanwhile is marked, and written once more when the thread is through, between two steps: the checkpoint is that step's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cupyrec.datasets.durable_files import make_folders, output_errors, remove_unused, sync_file, sync_folder
from cupyrec.errors import OutputError
from cupyrec.saving.changed_rows import ChangedRows
from cupyrec.saving.checkpoint import CHECKPOINT_FILE, DENSE_FILE, PATCH_FILE, TABLES_FILE, description_text
from cupyrec.saving.checkpoint_folder import check_space, partial_of
from cupyrec.saving.model_state import ModelState
from cupyrec.saving.safetensors_file import (
    BLOCK_BYTES,
    ArraySource,
    WrittenFile,
    write_file,
)
from cupyrec.saving.safetensors_io import plan_shards
from cupyrec.systems.step_reports import diverged

MAX_FILE_BYTES = 4_000_000_000


class GivenUp(Exception):
    """The checkpoint is not wanted any more; never leaves this module."""


class CheckpointWriter:
    """One checkpoint that is being written; nothing of it is left unless `publish` ends without an error."""

    def __init__(self, target: Path, model: ModelState) -> None:
        """target: the folder that it will be. Raises OutputError where the disk has no room or cannot be written."""
        self.target, self._model = target, model
        self._partial = partial_of(target)
        self._files: dict[str, WrittenFile] = {}
        self._given_up = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        check_space(target.parent, model.table_bytes)
        with output_errors(self._partial):
            if self._partial.exists():
                shutil.rmtree(self._partial)
            self._made = make_folders(target.parent)
            self._partial.mkdir()

    def start_tables(self) -> None:
        """Let a thread write the tables."""
        # A daemon, so that a process whose main thread dies can still end.
        self._thread = threading.Thread(target=self._write_in_thread, name="cupyrec-checkpoint", daemon=True)
        self._thread.start()

    @property
    def tables_ended(self) -> bool:
        """Whether the thread has ended, well or not."""
        return self._thread is None or not self._thread.is_alive()

    def wait_until_tables_ended(self) -> None:
        """Wait for the thread, whatever comes of it."""
        if self._thread is not None:
            self._thread.join()

    def wait_for_tables(self) -> None:
        """Wait for the thread. Raises what went wrong there."""
        self.wait_until_tables_ended()
        if self._error is not None:
            raise self._error

    def write_tables(self) -> None:
        """Write the tables. Raises OutputError, DivergenceError."""
        sources = {name: TableSource(array, self) for name, array in self._model.tables().items()}
        for number, names in enumerate(plan_shards(sources, MAX_FILE_BYTES), start=1):
            self._write(TABLES_FILE.format(number), {name: sources[name] for name in names})

    def write_changed(self, changed: ChangedRows) -> None:
        """Write the rows that are marked, as they are now. Raises OutputError, DivergenceError."""
        count, model = changed.count(), self._model
        if not count:
            return
        D, S = model.dimension, model.state_width
        sources: dict[str, Any] = {
            "patch.rows": MarkedRows(changed, count),
            "patch.weight": MarkedRecords(changed, count, model.table.records, 0, D, self),
        }
        if S:
            sources["patch.state"] = MarkedRecords(changed, count, model.table.records, D, S, self)
        check_space(self.target.parent, count * (8 + (D + S) * model.table.records.dtype.itemsize))
        self._write(PATCH_FILE, sources)

    def publish(self, dense: dict[str, np.ndarray], content: dict[str, Any]) -> None:
        """Write what is left, and let the checkpoint have its name. Raises OutputError, DivergenceError.

        dense: as ModelState.dense; content: of checkpoint.json, but for the files.
        """
        for name, array in dense.items():
            self.check_finite(array, name)
        self._write(DENSE_FILE, {name: ArraySource(array) for name, array in dense.items()})
        files = {name: {"bytes": file.size_bytes, "crc32": file.crc32} for name, file in self._files.items()}
        path = self._partial / CHECKPOINT_FILE
        with output_errors(path):
            path.write_bytes(description_text({**content, "files": files}))
            sync_file(path)
            sync_folder(self._partial)
            os.replace(self._partial, self.target)
            sync_folder(self.target.parent)

    def give_up(self) -> None:
        """Wait until the thread has ended, and remove what was written. Never raises OutputError."""
        self._given_up.set()
        self.wait_until_tables_ended()
        with contextlib.suppress(OSError):
            shutil.rmtree(self._partial)
        remove_unused(self._made)

    def check_finite(self, array: np.ndarray, name: str) -> None:
        """Raise GivenUp, or DivergenceError where a number is not finite: no step could go on from it."""
        if self._given_up.is_set():
            raise GivenUp
        if not np.isfinite(array).all():
            raise diverged(f"numbers of {name} are not finite near step {self._model.steps_done:,}")

    def _write_in_thread(self) -> None:
        try:
            self.write_tables()
        except BaseException as error:
            self._error = error

    def _write(self, name: str, sources: dict[str, Any]) -> None:
        self._files[name] = write_file(self._partial / name, sources, {})


class TableSource(ArraySource):
    """A table as it is at the moment when each block of it is written."""

    def __init__(self, array: np.ndarray, writer: CheckpointWriter) -> None:
        super().__init__(array)
        self._table, self._writer = array, writer

    def blocks(self) -> Iterator[np.ndarray]:
        for block in super().blocks():
            # Where rows lie without gaps it is a view, and would change between its writing and its checksum.
            if np.may_share_memory(block, self._table):
                block = block.copy()
            self._writer.check_finite(block, "a table")
            yield block


class MarkedRows:
    """The marked rows as a TensorSource: (n,) int64."""

    def __init__(self, changed: ChangedRows, count: int) -> None:
        self.shape, self.dtype = (count,), np.dtype(np.int64)
        self._changed = changed

    def blocks(self) -> Iterator[np.ndarray]:
        yield from self._changed.blocks()


class MarkedRecords:
    """Some columns of the records of marked rows as a TensorSource: (n, width)."""

    def __init__(
        self, changed: ChangedRows, count: int, records: np.ndarray, column: int, width: int, writer: CheckpointWriter
    ) -> None:
        self.shape, self.dtype = (count, width), records.dtype
        self._changed, self._records, self._writer = changed, records, writer
        self._columns = slice(column, column + width)

    def blocks(self) -> Iterator[np.ndarray]:
        most_rows = max(1, BLOCK_BYTES // (self._records.shape[1] * self.dtype.itemsize))
        for rows in self._changed.blocks():
            for start in range(0, rows.shape[0], most_rows):
                # Whole records first: a gather of columns alone is many times slower.
                block = self._records[rows[start : start + most_rows]][:, self._columns]
                self._writer.check_finite(block, "a table")
                yield np.ascontiguousarray(block)


def write_checkpoint(target: str | Path, model: ModelState, content: dict[str, Any]) -> None:
    """Write a checkpoint at once, between two steps. Raises OutputError, also where `target` exists."""
    target = Path(target)
    if target.exists():
        raise OutputError(f"{target}: exists; name another folder for the checkpoint")
    model.system.finish()
    writer = CheckpointWriter(target, model)
    try:
        writer.write_tables()
        writer.publish(model.dense(), content)
    except BaseException:
        writer.give_up()
        raise
