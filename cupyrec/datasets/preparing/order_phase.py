"""The second phase of a preparation: all values are known, and get the ids that they keep."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cupyrec.datasets.durable_files import make_folders, output_errors, write_durably
from cupyrec.datasets.prepared.manifest import Category
from cupyrec.datasets.prepared.shard_writer import id_type
from cupyrec.datasets.preparing.encode import LearningEncoder
from cupyrec.datasets.preparing.journal import Journal, Stopped, damaged
from cupyrec.datasets.preparing.new_values import new_values_name, read_new_values
from cupyrec.datasets.preparing.raw_rows import ColumnKind
from cupyrec.datasets.preparing.value_order import BYTES_PER_VALUE, ValueOrder
from cupyrec.datasets.preparing.vocabulary import Vocabulary
from cupyrec.datasets.preparing.vocabulary_file import GROUP_ROWS, Numbers, write_vocabulary

# What writing a row group of a vocabulary takes: ids, keys, counts and values, and all of them encoded.
GROUP_BYTES_PER_ROW = 100
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Ordering:
    """ids: frequency or first; min_count: values met less often have the id 0. Neither is of values known before."""

    ids: str
    min_count: int

    @property
    def renumbers(self) -> bool:
        """Whether the ids are others than those of first appearance, so that values must be counted."""
        return self.ids == "frequency" or self.min_count > 1


def write_vocabularies(
    encoders: Sequence[LearningEncoder],
    names: Sequence[str],
    kinds: Sequence[ColumnKind],
    ordering: Ordering,
    journal: Journal,
    *,
    known_texts: Callable[[int, Numbers], Iterator[pa.Array]] | None,
    folder: Path,
    work: Path,
    threads: int,
    memory_bytes: int,
    stop: Callable[[], bool],
) -> None:
    """Write the file of each vocabulary, and how old ids become new ones; then an entry `ordered` in the journal.

    encoders:     their vocabularies are by first appearance, counted; they are dropped one by one.
    known_texts:  given the number of a column and its keys, the texts of the values that its encoder has known from the
                  beginning; None where there are none.
    memory_bytes: so many columns are ordered at once as fit into it, at least one.

    Raises OutputError, DataError, and Stopped when stop says so.
    """
    vocabularies = [encoder.vocabulary for encoder in encoders]
    with output_errors(folder):
        make_folders(folder)
    files = vocabulary_files(names)
    texts = _new_texts(journal, work) if any(kind.values == "text" for kind in kinds) else []
    # What sorting takes has room where the slots have been.
    for vocabulary in vocabularies:
        vocabulary.drop_slots()

    def write(number: int) -> dict[str, Any]:
        if stop():
            raise Stopped
        known, by_count = encoders[number].known, ordering.ids == "frequency"
        order = ValueOrder(vocabularies[number], ordering.min_count, by_count=by_count, known=known)
        kind = kinds[number].values
        ordered_texts = None
        if kind == "text":
            new_texts = _ordered_texts([columns[number] for columns in texts], order, known)
            ordered_texts = chain(() if known_texts is None else known_texts(number, order.keys), new_texts)
        write_vocabulary(folder / files[number], order.keys, order.counts, ordered_texts, kind)
        entry = {"rows": len(order) + 1, "digest": keys_digest(order.keys)}
        if ordering.renumbers:
            new_ids = order.new_ids(id_type(len(order) + 1))
            write_durably(work / _new_ids_name(number), new_ids.data)
            entry["new_ids"] = {"type": new_ids.dtype.name, "crc32": zlib.crc32(new_ids.data)}
        vocabularies[number].drop()
        return entry

    # The largest first, so that no thread is left with it at the end.
    by_size = sorted(range(len(names)), key=lambda number: -vocabularies[number].size)
    at_once = _at_once(vocabularies, threads, memory_bytes)
    with ThreadPoolExecutor(at_once) as pool:
        ordered = dict(zip(by_size, pool.map(write, by_size), strict=True))
    journal.append({"ordered": [ordered[number] for number in range(len(names))]})


def _at_once(vocabularies: Sequence[Vocabulary], threads: int, memory_bytes: int) -> int:
    """How many of the vocabularies, any of them, can be ordered at the same time."""
    left = memory_bytes - sum(vocabulary.memory_bytes for vocabulary in vocabularies)
    sizes = sorted((vocabulary.size for vocabulary in vocabularies), reverse=True)[:threads]
    taken = accumulate(size * BYTES_PER_VALUE + min(size, GROUP_ROWS) * GROUP_BYTES_PER_ROW for size in sizes)
    return max(sum(each <= left for each in taken), 1)


def _new_texts(journal: Journal, work: Path) -> list[list[pa.Array | None]]:
    """The texts of all shards, of each column, by first appearance; mapped into memory. Raises DataError."""
    news = [entry["new"] for entry in journal.entries if "new" in entry]
    return [
        [texts for _, texts in read_new_values(work / new_values_name(shard), new)] for shard, new in enumerate(news)
    ]


def _ordered_texts(pieces: Sequence[pa.Array], order: ValueOrder, known: int) -> Iterator[pa.Array]:
    """The texts of an order after its known ones, GROUP_ROWS at a time. pieces: of the others, by first appearance."""
    starts = np.cumsum([0, *map(len, pieces)])
    for start in range(known, len(order), GROUP_ROWS):
        at = order.old_ids(slice(start, start + GROUP_ROWS)) - 1 - known
        piece = np.searchsorted(starts, at, side="right") - 1
        by_piece = np.argsort(piece, kind="stable")
        bounds = np.searchsorted(piece[by_piece], np.arange(len(pieces) + 1))
        found = [
            pieces[number].take(pa.array(at[by_piece[first:stop]] - starts[number]))
            for number, (first, stop) in enumerate(pairwise(bounds))
            if first < stop
        ]
        place = np.empty_like(by_piece)
        place[by_piece] = np.arange(by_piece.shape[0])
        yield pa.concat_arrays(found).take(pa.array(place))


def read_new_ids(work: Path, ordered: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """The new id of each old one, for each category, in the narrowest type for the new ones.

    ordered: the entry of the journal. Raises DataError.
    """
    found = []
    for number, entry in enumerate(ordered):
        path = work / _new_ids_name(number)
        try:
            new_ids = np.fromfile(path, dtype=entry["new_ids"]["type"])
        except OSError as error:
            raise damaged(path, error.strerror or "cannot be read") from None
        if zlib.crc32(new_ids.data) != entry["new_ids"]["crc32"]:
            raise damaged(path, "it is not what was written")
        found.append(new_ids)
    return found


def categories_of(
    names: Sequence[str], kinds: Sequence[ColumnKind], rows: Iterable[int], *, folder: str | None
) -> tuple[Category, ...]:
    """The categories for the manifest. folder: that of the vocabularies, relative to the manifest's, or None."""
    return tuple(
        Category(name, table_rows, kind.multi_hot, None if folder is None else f"{folder}/{file}")
        for name, kind, table_rows, file in zip(names, kinds, rows, vocabulary_files(names), strict=True)
    )


def vocabulary_files(names: Sequence[str]) -> list[str]:
    """The file for each category: called as the category, where every file system allows it."""
    plain = all(PLAIN_NAME.fullmatch(name) for name in names) and len({name.lower() for name in names}) == len(names)
    return [f"{name if plain else f'column-{number}'}.parquet" for number, name in enumerate(names, start=1)]


def keys_digest(keys: Numbers) -> str:
    """SHA-256 of the keys, (n,) uint64, of ids 1 to n, little-endian, as hexadecimal digits."""
    digest = hashlib.sha256()
    for start in range(0, keys.shape[0], GROUP_ROWS):
        digest.update(np.ascontiguousarray(keys[start : start + GROUP_ROWS], dtype="<u8").data)
    return digest.hexdigest()


def _new_ids_name(number: int) -> str:
    return f"new-ids-{number:03}"
