"""The ids of a category with a list for each sample, as a shard comes together: in a file, for they may be many."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cupyrec.datasets.durable_files import output_errors
from cupyrec.datasets.prepared.shard_writer import UnwrittenIds
from cupyrec.datasets.preparing.encode import Encoder
from cupyrec.datasets.preparing.raw_rows import RawColumn
from cupyrec.errors import OutputError

ID_TYPE = np.dtype(np.uint32)


class ListIds:
    """Only where the lists end is in memory, 8 bytes a sample; see ShardBuffer."""

    def __init__(self, shard_samples: int, path: Path) -> None:
        """path: of the file, which is replaced."""
        self._path = path
        self._offsets = np.zeros(shard_samples + 1, dtype=np.int64)
        self._used = 0

    def add(self, encoder: Encoder, column: RawColumn) -> None:
        """Encode and append the lists of some samples. Raises OutputError."""
        assert column.offsets is not None
        ids = np.empty(column.keys.shape, dtype=ID_TYPE)
        encoder.encode(column, ids)
        with output_errors(self._path), open(self._path, "ab" if self._used else "wb") as file:
            file.write(ids.data)
        stop = self._used + len(column)
        before = self._offsets[self._used] - column.offsets[0]
        np.add(column.offsets[1:], before, out=self._offsets[self._used + 1 : stop + 1])
        self._used = stop

    def joined(self) -> UnwrittenIds:
        """The ids are read when they are asked for, which raises OutputError."""
        return UnwrittenIds(_IdsOfFile(self._path), self._offsets[: self._used + 1])

    def most_ids(self, samples: int) -> int:
        """The most ids that so many samples have, of those that begin at a multiple of this number."""
        cuts = self._offsets[np.append(np.arange(0, self._used, samples), self._used)]
        return int(np.diff(cuts).max(initial=0))

    def clear(self) -> None:
        self._used = 0
        with output_errors(self._path):
            self._path.unlink(missing_ok=True)


class _IdsOfFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, part: slice) -> np.ndarray:
        count = part.stop - part.start
        with output_errors(self._path):
            ids = np.fromfile(self._path, dtype=ID_TYPE, count=count, offset=part.start * ID_TYPE.itemsize)
        if ids.shape[0] != count:
            raise OutputError(f"{self._path}: does not hold what was written to it")
        return ids
