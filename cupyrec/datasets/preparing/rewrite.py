"""The third phase of a preparation: shards are written again with the ids that values keep.

A shard with the old ids and one with the new have different names, and the old one is removed when the journal has the
new one: so no id is ever mapped twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from cupyrec.datasets.durable_files import output_errors
from cupyrec.datasets.prepared.manifest import Shard
from cupyrec.datasets.prepared.shard_writer import list_array, make_block, read_blocks, write_blocks
from cupyrec.datasets.preparing.journal import Journal, Stopped
from cupyrec.devices.kernel_cache import cached_njit

# Of each thread: the one that is read, and the one that is made of it, with ids up to four times as wide.
BLOCKS_IN_MEMORY = 5
BESIDE_CATEGORIES = 2  # columns of a shard: the label and the dense features


def rewrite_shards(
    old: Sequence[Shard],
    new_ids: Sequence[np.ndarray],
    journal: Journal,
    *,
    old_path: Callable[[int], Path],
    new_path: Callable[[int], Path],
    threads: int,
    memory_bytes: int,
    on_progress: Callable[[float], None],
    stop: Callable[[], bool],
) -> None:
    """Write all shards that the journal does not have as `final`, several at once.

    old: the shards with ids that index new_ids, (F,) arrays. memory_bytes: no more threads than it has room for, but
    one. Raises Stopped, DataError for damaged shards, OutputError.
    """
    done = journal.final_shards()
    left = [number for number in range(len(old)) if number not in done]

    def rewrite(number: int) -> Shard:
        blocks = read_blocks(old_path(number), old[number])
        return write_blocks(new_path(number), _renumbered_blocks(blocks, new_ids))

    left_bytes = memory_bytes - sum(ids.nbytes for ids in new_ids)
    threads = max(min(threads, left_bytes // (BLOCKS_IN_MEMORY * _largest_block(old))), 1)
    with ThreadPoolExecutor(threads) as pool:
        under_way: dict[Future[Shard], int] = {}
        try:
            while left or under_way:
                while left and len(under_way) < threads:
                    number = left.pop(0)
                    under_way[pool.submit(rewrite, number)] = number
                for finished in wait(under_way, return_when=FIRST_COMPLETED).done:
                    number = under_way.pop(finished)
                    journal.append({"final": asdict(finished.result()), "number": number})
                    with output_errors(old_path(number)):
                        old_path(number).unlink(missing_ok=True)
                    on_progress(1 - (len(left) + len(under_way)) / len(old))
                if stop():
                    raise Stopped
        finally:
            for future in under_way:
                future.cancel()


def _largest_block(shards: Sequence[Shard]) -> int:
    """The bytes of a block, of the shard where they are most on the average."""
    return max(shard.size_bytes // len(shard.checksums) for shard in shards)


def _renumbered_blocks(blocks: Iterator[pa.RecordBatch], new_ids: Sequence[np.ndarray]) -> Iterator[pa.RecordBatch]:
    for block in blocks:
        labels, dense, *columns = block.columns
        names = block.schema.names[BESIDE_CATEGORIES:]
        renumbered = (_renumbered(column, mapping) for column, mapping in zip(columns, new_ids, strict=True))
        yield make_block(labels, dense, zip(names, renumbered, strict=True))


def _renumbered(column: pa.Array, new_ids: np.ndarray) -> pa.Array:
    values = column.flatten() if pa.types.is_list(column.type) else column
    ids = values.to_numpy()
    renumbered = np.empty(ids.shape, dtype=new_ids.dtype)
    if not _renumber(ids, new_ids, renumbered):
        raise ValueError("a shard has an id that no value has")
    if not pa.types.is_list(column.type):
        return pa.array(renumbered)
    return list_array(renumbered, column.offsets.to_numpy())


@cached_njit()
def _renumber(ids, new_ids, renumbered):
    """renumbered[i] = new_ids[ids[i]]; False when an id lies outside. All of unsigned types; renumbered is modified."""
    rows = new_ids.shape[0]
    for index in range(ids.shape[0]):
        if ids[index] >= rows:
            return False
        renumbered[index] = new_ids[ids[index]]
    return True
