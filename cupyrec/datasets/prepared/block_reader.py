"""Read blocks by their number in all of the data, each checked the first time."""

from __future__ import annotations

import threading
from pathlib import Path

from cupyrec.datasets.prepared import manifest
from cupyrec.datasets.prepared.check_block import check_block
from cupyrec.datasets.prepared.manifest import Manifest
from cupyrec.datasets.prepared.shard_reader import Block, ShardReader


class CheckedBlocks:
    """Which blocks of which shards were found good in this process; of a file that changes, none. Threads may share
    it.
    """

    def __init__(self) -> None:
        self._good: dict[int, tuple[object, set[int]]] = {}
        self._lock = threading.Lock()

    def of_shard(self, shard: int, state: object) -> set[int]:
        """The good blocks of a shard, 0-based in it, to be added to. state: see ShardReader."""
        with self._lock:
            if shard not in self._good or self._good[shard][0] != state:
                self._good[shard] = (state, set())
            return self._good[shard][1]


class BlockReader:
    """The blocks of a folder, for one thread: keeps the last shard mapped.

    Not more of them: pages that were read count as this process's memory while the shard is mapped, though the system
    may reclaim them. And mapping one again takes no longer than a few hundred samples do.
    """

    def __init__(self, folder: Path, content: Manifest, checked: CheckedBlocks) -> None:
        self._folder, self._content, self._checked = folder, content, checked
        self._number = -1
        self._shard: ShardReader | None = None

    def samples(self, start: int, stop: int) -> Block:
        """The samples start .. stop - 1, which are in one block, as views to be read at once. Raises DataError."""
        shard_number, first = divmod(start, manifest.SHARD_SAMPLES)
        number, first = divmod(first, manifest.BLOCK_SAMPLES)
        reader = self._reader(shard_number)
        block = reader.block(number)
        good = self._checked.of_shard(shard_number, reader.state)
        if number not in good:
            checksum = self._content.shards[shard_number].checksums[number]
            check_block(block, self._content, checksum, reader.path, number * manifest.BLOCK_SAMPLES)
            good.add(number)
        return block.part(first, first + stop - start)

    def _reader(self, number: int) -> ShardReader:
        # What a file has lost since it was mapped would end the process when it is read (SIGBUS).
        if self._shard is None or number != self._number or self._shard.has_changed():
            shard = self._content.shards[number]
            self._shard, self._number = ShardReader(self._folder / shard.file, shard, self._content), number
        return self._shard
