"""Prepared data, or a split of them, as a source of batches."""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from cupyrec.argument_kinds import check_kind, check_paths
from cupyrec.batch import MOST_BAGS, Batch, table_offsets
from cupyrec.config import check_share
from cupyrec.datasets.prepared import manifest
from cupyrec.datasets.prepared.block_reader import BlockReader, CheckedBlocks
from cupyrec.datasets.prepared.make_batches import make_batches
from cupyrec.datasets.prepared.shard_reader import ShardReader, check_size
from cupyrec.datasets.prepared.shuffle import MOST_WINDOW_SAMPLES, order_of_epoch
from cupyrec.datasets.prepared.splits import SPLIT_SUFFIX, read_split
from cupyrec.datasets.read_ahead import READ_AHEAD_SAMPLES, batches_ahead, read_ahead
from cupyrec.errors import ConfigError, DataError


class PreparedData:
    """A folder that `cupyrec prepare` made, or the part of it that a split file names, as a source of batches.

    The files are mapped, not loaded. In order, memory is that of a few blocks; shuffled, that of about three windows,
    of the one in the making and of batches that wait, where a lookup is 8 bytes and a dense value 4.

    table_rows:     (F,) rows of each table.
    dense_features: columns of the dense input.
    samples:        of this part.
    encoding:       see prepared.encoding; earlier_encodings: those out of which it has grown, with the rows of their
                    tables: a model that was trained on such data can go on with these, its tables grown.
    labelled:       whether the samples have labels; where not, those of the batches are all 0 and mean nothing.
    path:           as it was named.
    folder:         of the manifest.
    ranges:         ((first sample, the one after the last), ...) of the folder, ascending and apart.
    files:          all that are read: the manifest, the split file if there is one, and the shards.
    telling_files:  the first of these, which have the checksums of the others.
    """

    validated = True
    seekable = True

    def __init__(self, path: str | Path, *, shuffle: bool = False, shuffle_window: int = 2**18, seed: int = 1) -> None:
        """Read the manifest, and check of each shard that it is there, its size and its schema.

        path: the folder, or a split file in it. shuffle: each epoch has another order, see the module shuffle;
        shuffle_window: samples that are shuffled among each other; seed: of the order.
        Raises ConfigError for the settings, DataError for the files.
        """
        check_paths(path=path)
        check_kind(bool, "True or False", shuffle=shuffle)
        self.path = path = Path(path)
        self._window = _whole_number(shuffle_window, 1, "the shuffle window") if shuffle else None
        if self._window is not None and self._window > MOST_WINDOW_SAMPLES:
            raise ConfigError(f"the shuffle window must be at most {MOST_WINDOW_SAMPLES}, but is {self._window}")
        self._seed = _whole_number(seed, 0, "the seed")
        is_folder = path.is_dir() or path.suffix != SPLIT_SUFFIX
        self.folder = path if is_folder else path.parent
        names = (manifest.MANIFEST_FILE, manifest.PREPARATION_FILE)
        if not is_folder and path.exists() and not any((self.folder / name).exists() for name in names):
            raise DataError("a split is of use only in the folder of its data, where there is none", path=path)
        self.manifest = manifest.read_manifest(self.folder)
        self.table_rows: tuple[int, ...] = self.manifest.table_rows
        self.dense_features: int = len(self.manifest.dense)
        self.encoding: str = self.manifest.encoding
        self.earlier_encodings = {each.encoding: each.table_rows for each in self.manifest.earlier}
        self.labelled: bool = self.manifest.labels
        own = [self.folder / manifest.MANIFEST_FILE]
        if is_folder or path == own[0]:
            ranges: tuple[tuple[int, int], ...] = ((0, self.manifest.samples),)
        else:
            ranges = read_split(path, self.manifest).ranges
            own.append(path)
        self.telling_files: tuple[Path, ...] = tuple(own)
        self._take(ranges)
        for number in self._shards:
            ShardReader(self._shard_path(number), self.manifest.shards[number], self.manifest)
        self._checked = CheckedBlocks()

    def split_tail(self, share: float) -> tuple[PreparedData, PreparedData]:
        """Two sources: all samples but the last `share` of them, and these.

        share: between 0 and 1, rounded to whole samples. Both are shuffled as this one is, each on its own.
        Raises ConfigError when share is not between 0 and 1 or a part would be empty.
        """
        check_share(share, "samples")
        cut = self.samples - round(self.samples * share)
        if not 0 < cut < self.samples:
            raise ConfigError(
                f"a share of {share} of {self.samples} samples leaves one part empty; choose another share"
            )
        head, tail = copy.copy(self), copy.copy(self)
        before, after = [], []
        for start, stop in self.ranges:
            middle = min(start + cut, stop)
            cut -= middle - start
            before += [(start, middle)] if start < middle else []
            after += [(middle, stop)] if middle < stop else []
        head._take(before)
        tail._take(after)
        return head, tail

    def batches(
        self,
        batch_size: int,
        *,
        on_progress: Callable[[float], None] | None = None,
        epoch: int = 0,
        first_batch: int = 0,
    ) -> Generator[Batch, None, None]:
        """Yield every sample once, as batches of batch_size samples, the last one with what is left.

        on_progress: called before each batch is handed out, by the consumer's thread, with the share (0 to 1) of the
            samples that are used up with it; after the last batch there is one call more, with 1.
        epoch: 0-based; another order where shuffled. first_batch: the batches before it are left out, and not read but
            for those of its window.

        A background thread reads ahead; it ends with the generator, which may be closed at any time. Several generators
        may be at work at once. Raises ConfigError for the numbers and, on the way, DataError with the file, and the row
        and column where one is at fault.
        """
        batch_size = _whole_number(batch_size, 1, "the batch size")
        first_batch = _whole_number(first_batch, 0, "the first batch")
        epoch = _whole_number(epoch, 0, "the epoch")
        bags = min(batch_size, self.samples) * len(self.table_rows)
        if bags > MOST_BAGS:
            raise ConfigError(f"a batch holds at most {MOST_BAGS} bags, but has {bags}; take smaller batches")
        return self._deliver(batch_size, on_progress, epoch, first_batch)

    def _deliver(
        self, batch_size: int, on_progress: Callable[[float], None] | None, epoch: int, first_batch: int
    ) -> Generator[Batch, None, None]:
        # A whole window may wait, so that the consumer has work while the next one is in the making.
        waiting = READ_AHEAD_SAMPLES if self._window is None else min(self._window, self.samples)
        depth = batches_ahead(batch_size, waiting)
        done = first_batch * batch_size
        with contextlib.closing(read_ahead(self._make(batch_size, epoch, first_batch), depth)) as ahead:
            for batch in ahead:
                done += batch.samples
                if on_progress is not None:
                    on_progress(done / self.samples)
                yield batch
        if on_progress is not None:
            on_progress(1.0)

    def _make(self, batch_size: int, epoch: int, first_batch: int) -> Iterator[Batch]:
        # A file that has become shorter would end the process when its map is read.
        for number in self._shards:
            check_size(self._shard_path(number), self.manifest.shards[number])
        order = order_of_epoch(
            self.ranges, manifest.BLOCK_SAMPLES, shuffle_window=self._window, seed=self._seed, epoch=epoch
        )
        reader = BlockReader(self.folder, self.manifest, self._checked)
        yield from make_batches(order, reader, batch_size, first_batch, table_offsets(self.table_rows))

    def _take(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Be the part of the folder that these ranges are."""
        self.ranges: tuple[tuple[int, int], ...] = tuple(ranges)
        self.samples: int = sum(stop - start for start, stop in ranges)
        self._shards = sorted(
            {
                number
                for start, stop in ranges
                for number in range(start // manifest.SHARD_SAMPLES, -(-stop // manifest.SHARD_SAMPLES))
            }
        )
        self.files: tuple[Path, ...] = (*self.telling_files, *(self._shard_path(number) for number in self._shards))

    def _shard_path(self, number: int) -> Path:
        return self.folder / self.manifest.shards[number].file


def _whole_number(value: int, least: int, what: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ConfigError(f"{what} must be a whole number from {least} on, but is {value!r}")
    return number
