"""Predictions as a Parquet file, written as a stream, all or nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cupyrec.datasets.durable_files import check_utf8, output_errors, partial_path, sync_file, sync_folder
from cupyrec.errors import ConfigError, OutputError
from cupyrec.folder_lock import open_locked

COLUMNS = ("probability", "logit", "label")
SCHEMA = pa.schema([pa.field(name, pa.float32(), nullable=False) for name in COLUMNS])
# Names that end so are those of other formats.
OTHER_SUFFIXES = {
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".arrow", ".feather", ".ipc", ".orc", ".avro", ".xlsx"),
    *(".npy", ".npz", ".h5", ".hdf5", ".pkl", ".db", ".sqlite", ".gz", ".zst", ".bz2", ".xz", ".zip"),
}
# What is held in memory before it is written: 12 bytes a sample.
ROW_GROUP_SAMPLES = 2**20


class PredictionsFile:
    """One row a sample, in the order of the data: probability, logit and, of data that have one, label, all float32
    without nulls.

    For a `with` statement: the file stands under another name until `finish`, and is removed where that is not called.
    Another process cannot write the same one meanwhile.

    samples, probability_sum: of what was added so far.
    """

    def __init__(self, path: str | Path, metadata: Mapping[str, str] | None = None, *, labels: bool = True) -> None:
        """path: replaced when it exists; metadata: texts kept in the file. Raises OutputError, and ConfigError for a
        name that promises another format than Parquet.
        """
        check_name(Path(path))
        self.path = Path(path)
        self.samples, self.probability_sum = 0, 0.0
        self._partial = partial_path(self.path)
        self._waiting: list[np.ndarray] = []
        self._waiting_samples = 0
        self._writer: pq.ParquetWriter | None = None
        self._finished = False
        self._lock = _locked(self._partial, self.path)
        try:
            with output_errors(self.path):
                # Labels are two values, which a dictionary packs into a bit each; the others hardly repeat.
                schema = SCHEMA if labels else SCHEMA.remove(SCHEMA.get_field_index("label"))
                self._writer = pq.ParquetWriter(self._partial, schema.with_metadata(metadata), use_dictionary=["label"])
        except BaseException:
            self._remove()
            raise

    def add(self, logits: np.ndarray, labels: np.ndarray | None) -> None:
        """Add B samples. logits, labels: (B,) float32, copied; labels are None where there are none. Raises
        OutputError.
        """
        x = logits.astype(np.float64)
        # With exp(-|x|) nothing overflows.
        e = np.exp(-np.abs(x))
        probabilities = np.where(x >= 0.0, 1.0, e) / (1.0 + e)
        self.samples += logits.shape[0]
        self.probability_sum += float(probabilities.sum())
        columns = [probabilities.astype(np.float32), logits]
        self._waiting.append(np.stack(columns if labels is None else [*columns, labels]))
        self._waiting_samples += logits.shape[0]
        if self._waiting_samples >= ROW_GROUP_SAMPLES:
            self._write()

    def finish(self) -> None:
        """Write what is left, wait until it is on the disk and give the file its name. Raises OutputError."""
        if self._waiting_samples:
            self._write()
        assert self._writer is not None  # not called twice
        with output_errors(self.path):
            self._writer.close()
            self._writer = None
            sync_file(self._partial)
            os.replace(self._partial, self.path)
            self._finished = True
            sync_folder(self.path.parent)

    def __enter__(self) -> PredictionsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            # Closing writes the end of the file, for which a full disk has no room; it is removed anyway.
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close()
        self._remove()

    def _remove(self) -> None:
        # After `finish` there is nothing of this name, or what another process writes.
        if not self._finished:
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write(self) -> None:
        """Write the samples that wait as a row group."""
        assert self._writer is not None  # not called after finish
        columns = np.concatenate(self._waiting, axis=1)
        self._waiting, self._waiting_samples = [], 0
        with output_errors(self.path):
            self._writer.write_table(
                pa.Table.from_arrays([pa.array(column) for column in columns], schema=self._writer.schema)
            )


def check_name(path: Path) -> None:
    """Raise ConfigError for a name that promises another format than Parquet, or that pyarrow cannot open."""
    check_utf8(path)
    if path.suffix.lower() in OTHER_SUFFIXES:
        raise ConfigError(f"{path}: predictions are Parquet; let the name of --output end in .parquet")


def _locked(partial: Path, path: Path) -> int | None:
    """See open_locked. Raises OutputError when another process has the file."""
    with output_errors(path):
        try:
            return open_locked(partial)
        except BlockingIOError:
            raise OutputError(
                f"{path}: another process is writing it; wait for its end, or name another file"
            ) from None
