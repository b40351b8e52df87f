"""The second phase of a preparation: all values are known, and get the ids that they keep."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cupyrec.datasets.durable_files import output_errors, write_durably
from cupyrec.datasets.prepared.manifest import Category
from cupyrec.datasets.prepared.shard_writer import id_type
from cupyrec.datasets.preparing.journal import Journal, Stopped, damaged
from cupyrec.datasets.preparing.new_values import new_values_name, read_new_values
from cupyrec.datasets.preparing.raw_rows import ColumnKind
from cupyrec.datasets.preparing.vocabulary import Vocabulary, by_first_appearance, by_frequency, write_vocabulary

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Ordering:
    """ids: frequency or first; min_count: values met less often have the id 0."""

    ids: str
    min_count: int

    @property
    def renumbers(self) -> bool:
        """Whether the ids are others than those of first appearance, so that values must be counted."""
        return self.ids == "frequency" or self.min_count > 1


def write_vocabularies(
    vocabularies: Sequence[Vocabulary],
    names: Sequence[str],
    kinds: Sequence[ColumnKind],
    ordering: Ordering,
    journal: Journal,
    *,
    folder: Path,
    work: Path,
    threads: int,
    stop: Callable[[], bool],
) -> None:
    """Write the file of each vocabulary, and how old ids become new ones; then an entry `ordered` in the journal.

    vocabularies: by first appearance, counted; their slots are dropped, to make room for what sorting takes. Raises
    OutputError, and Stopped when stop says so.
    """
    with output_errors(folder):
        folder.mkdir(exist_ok=True)
    files = vocabulary_files(names)
    news = [entry["new"] for entry in journal.entries if "new" in entry]
    for vocabulary in vocabularies:
        vocabulary.drop_slots()

    def write(number: int) -> dict[str, Any]:
        if stop():
            raise Stopped
        vocabulary = vocabularies[number]
        order = by_frequency if ordering.ids == "frequency" else by_first_appearance
        new_ids, kept = order(vocabulary, ordering.min_count)
        keys = vocabulary.keys_by_id()[kept]
        texts = None
        if kinds[number].values == "text":
            # In the order of first appearance that they have in the files; index 0 is id 1.
            all_texts = pa.chunked_array(
                [read_new_values(work / new_values_name(shard), new)[number][1] for shard, new in enumerate(news)],
                pa.large_string(),
            )
            texts = all_texts.take(pa.array(kept.astype(np.int64) - 1)).chunks
        write_vocabulary(folder / files[number], keys, vocabulary.counts_by_id()[kept], texts, kinds[number].values)
        entry = {"rows": kept.shape[0] + 1, "digest": keys_digest(keys)}
        if ordering.renumbers:
            new_ids = new_ids.astype(id_type(kept.shape[0] + 1))
            write_durably(work / _new_ids_name(number), new_ids.data)
            entry["new_ids"] = {"type": new_ids.dtype.name, "crc32": zlib.crc32(new_ids.data)}
        return entry

    # The largest first, so that no thread is left with it at the end.
    by_size = sorted(range(len(names)), key=lambda number: -vocabularies[number].size)
    with ThreadPoolExecutor(threads) as pool:
        ordered = dict(zip(by_size, pool.map(write, by_size), strict=True))
    journal.append({"ordered": [ordered[number] for number in range(len(names))]})


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


def keys_digest(keys: np.ndarray) -> str:
    """That of a Vocabulary of the keys, (n,) uint64, of ids 1 to n."""
    return hashlib.sha256(np.ascontiguousarray(keys, dtype="<u8").data).hexdigest()


def _new_ids_name(number: int) -> str:
    return f"new-ids-{number:03}"
