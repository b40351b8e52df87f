"""Vocabularies as they were after the last finished shard, for a preparation that goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from cupyrec.datasets.prepared.shard_writer import read_blocks
from cupyrec.datasets.preparing.journal import Journal, Stopped, damaged
from cupyrec.datasets.preparing.new_values import new_values_name, read_new_values
from cupyrec.datasets.preparing.rewrite import BESIDE_CATEGORIES
from cupyrec.datasets.preparing.vocabulary import Vocabulary


def rebuild_vocabularies(
    vocabularies: Sequence[Vocabulary],
    journal: Journal,
    *,
    shard_path: Callable[[int], Path],
    work: Path,
    threads: int,
    stop: Callable[[], bool],
) -> None:
    """Add the values of all shards to vocabularies as they are before the first one, and count these.

    Raises DataError when a file that is needed is damaged, Stopped when stop says so.
    """
    news = [entry["new"] for entry in journal.entries if "new" in entry]
    with ThreadPoolExecutor(threads) as pool:
        for number, new in enumerate(news):
            if stop():
                raise Stopped
            path = work / new_values_name(number)
            columns = read_new_values(path, new)
            if len(columns) != len(vocabularies):
                raise damaged(path, f"it has {len(columns)} columns, not {len(vocabularies)}")
            list(pool.map(_extend, vocabularies, [keys for keys, _ in columns]))
        for number, shard in enumerate(journal.shards()):
            if stop():
                raise Stopped
            for block in read_blocks(shard_path(number), shard):
                list(pool.map(_count, vocabularies, block.columns[BESIDE_CATEGORIES:]))


def _extend(vocabulary: Vocabulary, keys: np.ndarray) -> None:
    vocabulary.extend(keys)


def _count(vocabulary: Vocabulary, column: pa.Array) -> None:
    ids = column.flatten() if pa.types.is_list(column.type) else column
    vocabulary.add_counts(ids.to_numpy())
