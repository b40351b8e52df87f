"""The job that turns raw files into prepared data, and goes on where it was after it was stopped in any way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cupyrec.byte_sizes import format_bytes
from cupyrec.datasets.bad_rows import is_same_file
from cupyrec.datasets.durable_files import output_errors
from cupyrec.datasets.input_files import find_input_files
from cupyrec.datasets.prepared.manifest import (
    Category,
    InputFile,
    Manifest,
    Shard,
    encoding_id,
    manifest_json,
    read_manifest,
    shard_name,
)
from cupyrec.datasets.preparing.bad_rows_file import BadRowsFile
from cupyrec.datasets.preparing.encode import Encoder, HashEncoder, LearningEncoder
from cupyrec.datasets.preparing.journal import Journal, damaged
from cupyrec.datasets.preparing.known_vocabularies import KnownVocabularies
from cupyrec.datasets.preparing.order_phase import (
    Ordering,
    categories_of,
    read_new_ids,
    write_vocabularies,
)
from cupyrec.datasets.preparing.output_folder import VOCABULARY_FOLDER, OutputFolder
from cupyrec.datasets.preparing.prepare_options import DEFAULT_TRANSFORM, PrepareOptions
from cupyrec.datasets.preparing.raw_input import RawInput, TableInput, TextInput, identities, open_input
from cupyrec.datasets.preparing.read_phase import ReadPhase, Stopped, working_bytes
from cupyrec.datasets.preparing.rebuild import rebuild_vocabularies
from cupyrec.datasets.preparing.rewrite import rewrite_shards
from cupyrec.devices.host_memory import available_bytes
from cupyrec.errors import ConfigError, OutputError
from cupyrec.folder_lock import FolderLock

__all__ = ["Prepared", "Stopped", "prepare"]

# Of the memory that is available a job takes one part in so many, unless it is told.
MEMORY_PARTS = 4
# Of the time of a job that renumbers, what reading takes, about.
READING_SHARE = 0.9
# No sample takes less than this of prepared data for each byte of text: a line of the longest cells.
LEAST_BYTES_PER_TEXT_BYTE = 0.15


@dataclass(frozen=True)
class Prepared:
    """folder: of the data; size_bytes: of all shards; bad_rows_path: None where there are none.

    worked: whether there was anything left to do; rows_read: by this call, of all of them.
    """

    folder: Path
    manifest: Manifest
    size_bytes: int
    bad_rows: int
    bad_rows_path: Path | None
    worked: bool
    rows_read: int


def prepare(
    options: PrepareOptions,
    *,
    on_progress: Callable[[float, int], None] = lambda share, rows: None,
    stop: Callable[[], bool] = lambda: False,
) -> Prepared:
    """Prepare data, go on with it, or find it finished.

    on_progress: told the share done, 0 to 1, and the rows prepared. stop: asked often whether to stop.

    The result is the same, bit for bit, whatever the number of threads, the memory and how often the job was stopped
    or killed. Raises Stopped when stop says so; ConfigError, DataError, OutputError and MemoryPlanError. After any of
    these the same call goes on, unless it says otherwise.
    """
    return _Job(options, on_progress, stop).run()


class _Job:
    def __init__(
        self, options: PrepareOptions, on_progress: Callable[[float, int], None], stop: Callable[[], bool]
    ) -> None:
        """Check all that can be checked before the folder is touched."""
        self._options, self._on_progress, self._stop = options, on_progress, stop
        files = find_input_files(options.paths, tables=True)
        self._known = None if options.vocabulary is None else KnownVocabularies(Path(options.vocabulary))
        self._modulo = options.modulo if self._known is None else self._known.modulo
        self._transform = (
            options.dense_transform or DEFAULT_TRANSFORM
            if self._known is None
            else self._known.manifest.dense_transform
        )
        columns = {
            "label": options.label,
            "dense_columns": _listed(options.dense_columns),
            "category_columns": _listed(options.category_columns),
        }
        self._raw: RawInput = open_input(files, columns, self._transform, chunk_bytes=options._sizes.chunk_bytes)
        if self._known is not None:
            self._known.check_columns(self._raw)
        self._check_options()
        self._ordering = Ordering(options.chosen_ids, options.min_count or 1)
        self._threads = options.threads or _cores()
        asked = {"options": self._asked_options(columns), "inputs": identities(files)}
        self._asked: dict[str, Any] = json.loads(json.dumps(asked))

    def run(self) -> Prepared:
        folder = OutputFolder(Path(self._options.output))
        self._folder = folder
        with output_errors(folder.path):
            if folder.path.exists() and not folder.path.is_dir():
                raise OutputError(f"{folder.path}: is not a folder; choose another --output")
            folder.path.mkdir(parents=True, exist_ok=True)
        with FolderLock(folder.path):
            journal = folder.begin(self._asked, overwrite=self._options.overwrite)
            if journal is None:
                return self._prepared(read_manifest(folder.path), worked=False, rows_read=0)
            return self._go_on(journal)

    def _go_on(self, journal: Journal) -> Prepared:
        """Whatever of the phases is not done yet."""
        rows_read = 0
        has_vocabularies = self._known is None and self._ordering.ids != "hash"
        encoders: list[Encoder] = []
        if not _entry(journal, "read") or (has_vocabularies and not _entry(journal, "ordered")):
            encoders = self._encoders(journal)
        if not _entry(journal, "read"):
            rows_read = self._read(journal, encoders)
        if has_vocabularies and not _entry(journal, "ordered"):
            write_vocabularies(
                [encoder.vocabulary for encoder in encoders if isinstance(encoder, LearningEncoder)],
                self._raw.categories,
                self._raw.kinds,
                self._ordering,
                journal,
                folder=self._folder.vocabulary,
                work=self._folder.work,
                threads=self._threads,
            )
        encoders.clear()  # the vocabularies are no longer needed, and large
        shards = _shards(journal)
        if self._renumbers:
            rows = sum(shard.samples for shard in shards)
            rewrite_shards(
                shards,
                read_new_ids(self._folder.work, _entry(journal, "ordered")["ordered"]),
                journal,
                old_path=self._first_path,
                new_path=self._final_path,
                threads=self._threads,
                on_progress=lambda share: self._on_progress(READING_SHARE + share * (1 - READING_SHARE), rows),
                stop=self._stop,
            )
            final = {entry["number"]: _shard(entry["final"]) for entry in journal.entries if "final" in entry}
            shards = [final[number] for number in range(len(shards))]
        manifest = self._manifest(journal, shards)
        self._folder.finish(manifest_json(manifest))
        self._on_progress(1.0, manifest.samples)
        return self._prepared(manifest, worked=True, rows_read=rows_read)

    @property
    def _renumbers(self) -> bool:
        return self._known is None and self._ordering.ids != "hash" and self._ordering.renumbers

    def _encoders(self, journal: Journal) -> list[Encoder]:
        """Of each column, as after the last shard in the journal."""
        categories = len(self._raw.categories)
        if self._known is not None:
            return self._known.encoders()
        if self._ordering.ids == "hash":
            return [HashEncoder(rows, self._modulo) for rows in self._options.hash_rows_list(categories)]
        encoders = [LearningEncoder(self._modulo) for _ in range(categories)]
        rebuild_vocabularies(
            [encoder.vocabulary for encoder in encoders],
            journal,
            _shards(journal),
            shard_path=self._first_path,
            work=self._folder.work,
            threads=self._threads,
            count=True,
        )
        return list(encoders)

    def _read(self, journal: Journal, encoders: Sequence[Encoder]) -> int:
        self._check_disk(journal)
        share = READING_SHARE if self._renumbers else 1.0
        phase = ReadPhase(
            self._raw,
            encoders,
            journal,
            self._bad_rows_file(),
            shard_path=self._first_path,
            work=self._folder.work,
            threads=self._threads,
            memory_bytes=self._memory_bytes(),
            sizes=self._options._sizes,
        )
        phase.run(lambda done, rows: self._on_progress(done * share, rows), self._stop)
        return phase.rows_read

    def _manifest(self, journal: Journal, shards: Sequence[Shard]) -> Manifest:
        categories, digests = self._categories(journal)
        return Manifest(
            dense=self._raw.dense,
            dense_transform=self._transform,
            ids=self._ordering.ids if self._known is None else self._known.manifest.ids,
            categories=categories,
            encoding=encoding_id(self._transform, [category.rows for category in categories], digests),
            inputs=tuple(InputFile(**file) for file in _entry(journal, "read")["read"]),
            shards=tuple(shards),
        )

    def _categories(self, journal: Journal) -> tuple[tuple[Category, ...], Sequence[str | None]]:
        """The categories, and the digests of their vocabularies. A vocabulary of others is copied."""
        names, kinds = self._raw.categories, self._raw.kinds
        if self._known is not None:
            self._known.copy_files(self._folder.path)
            return self._known.manifest.categories, self._known.digests()
        if self._ordering.ids == "hash":
            rows, digests = self._options.hash_rows_list(len(names)), [None] * len(names)
        else:
            ordered = _entry(journal, "ordered")["ordered"]
            rows, digests = ([each[key] for each in ordered] for key in ("rows", "digest"))
        has_vocabularies = self._ordering.ids != "hash"
        return categories_of(names, kinds, rows, with_vocabularies=has_vocabularies, folder=VOCABULARY_FOLDER), digests

    def _prepared(self, manifest: Manifest, *, worked: bool, rows_read: int) -> Prepared:
        bad_rows = sum(file.bad_rows for file in manifest.inputs)
        size_bytes = sum(shard.size_bytes for shard in manifest.shards)
        path = self._bad_rows_path if bad_rows else None
        return Prepared(self._folder.path, manifest, size_bytes, bad_rows, path, worked, rows_read)

    def _first_path(self, number: int) -> Path:
        """Of a shard as reading writes it: with ids that change, where they do, and then not in its place."""
        return self._folder.work / f"first-{number:05}.arrow" if self._renumbers else self._final_path(number)

    def _final_path(self, number: int) -> Path:
        return self._folder.path / shard_name(number)

    @property
    def _bad_rows_path(self) -> Path:
        return self._folder.bad_rows if self._options.bad_rows is None else Path(self._options.bad_rows)

    def _bad_rows_file(self) -> BadRowsFile:
        path = self._bad_rows_path
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: the bad rows cannot be written: there is no folder {path.parent}")
        if path.is_dir():
            raise ConfigError(f"{path}: a folder; name a file with --bad-rows")
        for file in self._raw.files:
            if is_same_file(path, file):
                raise ConfigError(f"the bad rows would overwrite the input file {file}; name another with --bad-rows")
        return BadRowsFile(path, skips=self._options.on_bad_row == "skip")

    def _check_options(self) -> None:
        """What depends on the columns. Raises ConfigError."""
        categories = len(self._raw.categories)
        if self._options.hash_rows is not None and len(self._options.hash_rows_list(categories)) != categories:
            raise ConfigError(
                f"--hash-rows has {len(self._options.hash_rows_list(categories))} numbers, but there are {categories} "
                "category columns; give one number, or one for each"
            )
        if self._options.modulo is not None:
            for name, kind in zip(self._raw.categories, self._raw.kinds, strict=True):
                if kind.values == "text":
                    raise ConfigError(f"--modulo is for numbers, but column {name} holds texts; use --hash-rows")
        if self._options.on_bad_row == "skip" and isinstance(self._raw, TableInput):
            raise ConfigError("--on-bad-row skip is for text; correct the table")

    def _asked_options(self, columns: dict[str, Any]) -> dict[str, Any]:
        """What decides the result, beside the inputs: not the number of threads and the like."""
        options = self._options
        return {
            "ids": options.chosen_ids if self._known is None else None,
            "hash_rows": None if options.hash_rows is None else options.hash_rows_list(len(self._raw.categories)),
            "min_count": options.min_count or 1,
            "modulo": self._modulo,
            "vocabulary": None if self._known is None else self._known.manifest.encoding,
            "dense_transform": self._transform,
            **columns,
            "block_samples": options._sizes.block_samples,
            "shard_samples": options._sizes.shard_samples,
        }

    def _memory_bytes(self) -> int:
        if self._options.memory_bytes is not None:
            return self._options.memory_bytes
        least = 2 * working_bytes(self._raw, self._threads, self._options._sizes)
        available = available_bytes()
        return least if available is None else max(least, available // MEMORY_PARTS)

    def _check_disk(self, journal: Journal) -> None:
        """Raise OutputError where what is to be written surely does not fit."""
        if not isinstance(self._raw, TextInput):
            return
        written = sum(shard.size_bytes for shard in _shards(journal))
        least = int(self._raw.plain_bytes * LEAST_BYTES_PER_TEXT_BYTE) - written
        with output_errors(self._folder.path):
            free = shutil.disk_usage(self._folder.path).free
        if least > free:
            raise OutputError(
                f"{self._folder.path}: the data take at least {format_bytes(least)} more, but {format_bytes(free)} are "
                "free on this disk; make room, or choose another --output"
            )


def _entry(journal: Journal, kind: str) -> dict[str, Any]:
    """The entry of a kind of which there is at most one; empty when there is none."""
    return next((entry for entry in journal.entries if kind in entry), {})


def _shards(journal: Journal) -> list[Shard]:
    return [_shard(entry["shard"]) for entry in journal.entries if "shard" in entry]


def _shard(entry: dict[str, Any]) -> Shard:
    try:
        return Shard(entry["file"], entry["samples"], entry["size_bytes"], tuple(entry["checksums"]))
    except (KeyError, TypeError) as error:
        raise damaged(Path("journal"), repr(error)) from None


def _listed(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
