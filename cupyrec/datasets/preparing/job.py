"""The job that turns raw files into prepared data, and goes on where it was after it was stopped in any way."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cupyrec.argument_kinds import check_kind
from cupyrec.byte_sizes import format_bytes
from cupyrec.datasets.durable_files import make_folders, output_errors, remove_unused
from cupyrec.datasets.prepared.encoding import encoding_id, hash_mark, vocabulary_mark
from cupyrec.datasets.prepared.manifest import Category, InputFile, Manifest, Shard, manifest_json, shard_name
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.datasets.prepared.shard_writer import check_size
from cupyrec.datasets.preparing.encode import Encoder, LearningEncoder
from cupyrec.datasets.preparing.journal import Journal, Stopped
from cupyrec.datasets.preparing.order_phase import categories_of, read_new_ids, write_vocabularies
from cupyrec.datasets.preparing.output_folder import VOCABULARY_FOLDER, OutputFolder
from cupyrec.datasets.preparing.preparation import Preparation
from cupyrec.datasets.preparing.prepare_options import PrepareOptions
from cupyrec.datasets.preparing.raw_input import TextInput
from cupyrec.datasets.preparing.read_phase import ReadPhase
from cupyrec.datasets.preparing.rebuild import rebuild_vocabularies
from cupyrec.datasets.preparing.rewrite import rewrite_shards
from cupyrec.errors import CupyrecError, DataError, OutputError
from cupyrec.folder_lock import FolderLock

__all__ = ["Prepared", "Stopped", "prepare"]

# Of the time of a job that renumbers, what reading takes, about.
READING_SHARE = 0.9
# No sample takes less than this of prepared data for each byte of text: a line of the longest cells.
LEAST_BYTES_PER_TEXT_BYTE = 0.15


@dataclass(frozen=True)
class Prepared:
    """folder: of the data; size_bytes: of all shards; bad_rows_path: None where there are none.

    worked: whether there was anything left to do; rows_read: by this call, of all of them. new_values: (F,) those of
    each category that have ids which the data of the vocabulary do not have, None of data that are not grown;
    min_count: values that appear less often have none.
    """

    folder: Path
    manifest: Manifest
    size_bytes: int
    bad_rows: int
    bad_rows_path: Path | None
    worked: bool
    rows_read: int
    new_values: tuple[int, ...] | None
    min_count: int


def prepare(
    options: PrepareOptions,
    *,
    on_progress: Callable[[float, int], None] = lambda share, rows: None,
    on_rebuild: Callable[[int], None] = lambda shards: None,
    stop: Callable[[], bool] = lambda: False,
) -> Prepared:
    """Prepare data, go on with it, or find it finished.

    on_progress: told the share done, 0 to 1, and the rows prepared. on_rebuild: told, before the first of
    these reports, how many shards of an earlier call are read again to go on. stop: asked often whether to stop.

    The result is the same, bit for bit, whatever the number of threads, the memory and how often the job was stopped
    or killed. Raises Stopped when stop says so; ConfigError, DataError, OutputError and MemoryPlanError. After any of
    these the same call goes on, unless it says otherwise; an error before the first shard leaves nothing behind.
    """
    check_kind(PrepareOptions, "a cupyrec.PrepareOptions", options=options)
    return _Job(Preparation(options), on_progress, on_rebuild, stop).run()


class _Job:
    def __init__(
        self,
        plan: Preparation,
        on_progress: Callable[[float, int], None],
        on_rebuild: Callable[[int], None],
        stop: Callable[[], bool],
    ) -> None:
        self._plan, self._on_progress, self._on_rebuild, self._stop = plan, on_progress, on_rebuild, stop
        self._folder = OutputFolder(plan.output)

    def run(self) -> Prepared:
        folder = self._folder
        with output_errors(folder.path):
            if folder.path.exists() and not folder.path.is_dir():
                raise OutputError(f"{folder.path}: is not a folder; choose another --output")
            made = make_folders(folder.path)
        with FolderLock(folder.path):
            try:
                return self._run()
            except CupyrecError:
                remove_unused(made)
                raise

    def _run(self) -> Prepared:
        """In the folder, locked."""
        folder = self._folder
        self._bad_rows = self._plan.bad_rows_file(folder.bad_rows, begun=folder.begun)
        journal = folder.begin(self._plan.asked, overwrite=self._plan.options.overwrite)
        if journal is None:
            # Looks at the shards too: data that are not whole are not finished.
            finished = PreparedData(folder.path).manifest
            self._check_vocabularies(finished.categories)
            return self._prepared(finished, worked=False, rows_read=0)
        try:
            return self._go_on(journal)
        except CupyrecError:
            # With nothing to go on with, the folder need not keep to these very files.
            if all("bad_rows" in entry for entry in journal.entries):
                with contextlib.suppress(OutputError):
                    self._bad_rows.discard()
                    folder.discard()
            raise

    def _go_on(self, journal: Journal) -> Prepared:
        """Whatever of the phases is not done yet."""
        plan, rows_read = self._plan, 0
        self._check_done(journal)
        encoders: list[Encoder] = []
        if not journal.entry("read") or (plan.learns and not journal.entry("ordered")):
            encoders = self._encoders(journal)
        if not journal.entry("read"):
            rows_read = self._read(journal, encoders)
        if plan.learns and not journal.entry("ordered"):
            write_vocabularies(
                _learning(encoders),
                plan.raw.categories,
                plan.raw.kinds,
                plan.ordering,
                journal,
                known_texts=None if plan.known is None else plan.known.texts,
                folder=self._folder.vocabulary,
                work=self._folder.work,
                threads=plan.threads,
                memory_bytes=plan.memory_bytes,
                stop=self._stop,
            )
        encoders.clear()  # the vocabularies are no longer needed, and large
        shards = journal.shards()
        if plan.renumbers:
            rows = sum(shard.samples for shard in shards)
            rewrite_shards(
                shards,
                read_new_ids(self._folder.work, journal.entry("ordered")["ordered"]),
                journal,
                old_path=self._first_path,
                new_path=self._final_path,
                threads=plan.threads,
                memory_bytes=plan.memory_bytes,
                on_progress=lambda share: self._on_progress(READING_SHARE + share * (1 - READING_SHARE), rows),
                stop=self._stop,
            )
            shards = [shard for _, shard in sorted(journal.final_shards().items())]
        manifest = self._manifest(journal, shards)
        self._folder.finish(manifest_json(manifest))
        self._on_progress(1.0, manifest.samples)
        return self._prepared(manifest, worked=True, rows_read=rows_read)

    def _check_done(self, journal: Journal) -> None:
        """Raise DataError when a shard that is done is not there, as long as it was, or a vocabulary is not."""
        final = journal.final_shards()
        for number, shard in enumerate(journal.shards()):
            if number not in final:
                check_size(self._first_path(number), shard)
        for number, shard in final.items():
            check_size(self._final_path(number), shard)
        if self._plan.learns and journal.entry("ordered"):
            self._check_vocabularies(self._categories(journal)[0])

    def _check_vocabularies(self, categories: Sequence[Category]) -> None:
        """Raise DataError when a file of a vocabulary is not there."""
        for category in categories:
            if category.vocabulary is not None and not (self._folder.path / category.vocabulary).exists():
                raise DataError(
                    "a vocabulary of the prepared data is missing; copy it from where it is whole, or prepare the data "
                    "again with --overwrite",
                    path=self._folder.path / category.vocabulary,
                )

    def _encoders(self, journal: Journal) -> list[Encoder]:
        """Of each column, as after the last shard in the journal."""
        encoders = self._plan.encoders()
        if not self._plan.learns:
            return encoders
        if shards := journal.shards():
            self._on_rebuild(len(shards))
        rebuild_vocabularies(
            [encoder.vocabulary for encoder in _learning(encoders)],
            journal,
            shard_path=self._first_path,
            work=self._folder.work,
            threads=self._plan.threads,
            stop=self._stop,
        )
        return encoders

    def _read(self, journal: Journal, encoders: Sequence[Encoder]) -> int:
        self._check_disk(journal)
        share = READING_SHARE if self._plan.renumbers else 1.0
        phase = ReadPhase(
            self._plan.raw,
            encoders,
            journal,
            self._bad_rows,
            shard_path=self._first_path,
            work=self._folder.work,
            threads=self._plan.threads,
            memory_bytes=self._plan.memory_bytes,
            sizes=self._plan.options._sizes,
        )
        phase.run(lambda done, rows: self._on_progress(done * share, rows), self._stop)
        return phase.rows_read

    def _manifest(self, journal: Journal, shards: Sequence[Shard]) -> Manifest:
        plan = self._plan
        categories, marks = self._categories(journal)
        encoding = encoding_id(plan.transform, [category.rows for category in categories], marks)
        return Manifest(
            dense=plan.raw.dense,
            dense_transform=plan.transform,
            ids=plan.ordering.ids,
            categories=categories,
            encoding=encoding,
            inputs=tuple(InputFile(**file) for file in journal.entry("read")["read"]),
            shards=tuple(shards),
            labels=not plan.options.no_labels,
            negatives=journal.negatives(),
            positives=None if plan.options.no_labels else journal.positives(),
            unknown=journal.unknown(),
            earlier=plan.earlier(encoding),
        )

    def _categories(self, journal: Journal) -> tuple[tuple[Category, ...], Sequence[str | None]]:
        """The categories, and what their ids depend on, for encoding_id. What is known and stays so is copied."""
        plan = self._plan
        marks: Sequence[str | None]
        if plan.known is not None and not plan.learns:
            plan.known.copy_files(self._folder.path)
            return plan.known.manifest.categories, plan.known.marks()
        if plan.learns:
            ordered: list[dict[str, Any]] = journal.entry("ordered")["ordered"]
            rows: list[int] = [each["rows"] for each in ordered]
            marks = [vocabulary_mark(each["digest"], plan.modulo) for each in ordered]
        else:
            rows, marks = plan.hash_rows, [hash_mark(kind.values, plan.modulo) for kind in plan.raw.kinds]
        folder = VOCABULARY_FOLDER if plan.learns else None
        return categories_of(plan.raw.categories, plan.raw.kinds, rows, folder=folder), marks

    def _prepared(self, manifest: Manifest, *, worked: bool, rows_read: int) -> Prepared:
        bad_rows = sum(file.bad_rows for file in manifest.inputs)
        size_bytes = sum(shard.size_bytes for shard in manifest.shards)
        # Of finished data they may be in another file than is named now.
        path = self._bad_rows.path if bad_rows and self._bad_rows.path.is_file() else None
        new_values, min_count = self._plan.new_values(manifest.table_rows), self._plan.ordering.min_count
        return Prepared(
            self._folder.path, manifest, size_bytes, bad_rows, path, worked, rows_read, new_values, min_count
        )

    def _first_path(self, number: int) -> Path:
        """Of a shard as reading writes it: with ids that change, where they do, and then not in its place."""
        return self._folder.work / f"first-{number:05}.arrow" if self._plan.renumbers else self._final_path(number)

    def _final_path(self, number: int) -> Path:
        return self._folder.path / shard_name(number)

    def _check_disk(self, journal: Journal) -> None:
        """Raise OutputError where what is to be written surely does not fit."""
        if not isinstance(self._plan.raw, TextInput):
            return
        written = sum(shard.size_bytes for shard in journal.shards())
        least = int(self._plan.raw.plain_bytes * LEAST_BYTES_PER_TEXT_BYTE) - written
        with output_errors(self._folder.path):
            free = shutil.disk_usage(self._folder.path).free
        if least > free:
            raise OutputError(
                f"{self._folder.path}: the data take at least {format_bytes(least)} more, but {format_bytes(free)} are "
                "free on this disk; make room, or choose another --output"
            )


def _learning(encoders: Sequence[Encoder]) -> list[LearningEncoder]:
    return [encoder for encoder in encoders if isinstance(encoder, LearningEncoder)]
