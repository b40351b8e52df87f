"""What a preparation comes to: its options and its inputs together, checked before the output folder is touched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from cupyrec.datasets.bad_rows import is_same_file
from cupyrec.datasets.input_files import find_input_files
from cupyrec.datasets.prepared.encoding import EarlierEncoding
from cupyrec.datasets.preparing.bad_rows_file import BadRowsFile, exists
from cupyrec.datasets.preparing.encode import Encoder, HashEncoder, LearningEncoder
from cupyrec.datasets.preparing.known_vocabularies import KnownVocabularies
from cupyrec.datasets.preparing.order_phase import Ordering
from cupyrec.datasets.preparing.prepare_options import DEFAULT_TRANSFORM, PrepareOptions
from cupyrec.datasets.preparing.raw_input import RawInput, TableInput, identities, is_table, open_input
from cupyrec.datasets.preparing.raw_tables import AT_LEAST_ONE_DENSE
from cupyrec.datasets.preparing.read_phase import working_bytes
from cupyrec.devices.cpu import usable_cores
from cupyrec.devices.host_memory import available_bytes
from cupyrec.errors import ConfigError

# Of the memory that is available a job takes one part in so many, unless it is told.
MEMORY_PARTS = 4

# Values modulo the rows of their tables; of another's vocabularies, as they are or with new values; of own ones.
IdSource = Literal["hashed", "known", "grown", "learned"]


class Preparation:
    """Everything that follows from the options before a row is read.

    raw:       the input; known: the vocabularies of others that are used, or None.
    id_source: where ids come from; ordering: which of those that come about are kept, and in which order.
    modulo, transform, threads: as in the options, with their defaults.
    asked:     JSON of what decides the result, see OutputFolder.begin.
    """

    def __init__(self, options: PrepareOptions) -> None:
        """Raises ConfigError, and DataError for inputs and vocabularies that cannot be read."""
        self.options = options
        self.output = Path(options.output)
        files = find_input_files(options.paths, tables=True)
        self._check_places(files)
        self.known = None if options.vocabulary is None else KnownVocabularies(Path(options.vocabulary))
        self.modulo = options.modulo if self.known is None else self.known.modulo
        self.transform = (
            options.dense_transform or DEFAULT_TRANSFORM if self.known is None else self.known.manifest.dense_transform
        )
        columns: dict[str, Any] = {
            "label": options.label,
            "dense_columns": _listed(options.dense_columns),
            "category_columns": _listed(options.category_columns),
        }
        if self.known is not None and any(is_table(file) for file in files):
            known = self.known.columns
            columns = {name: known[name] if value is None else value for name, value in columns.items()}
            if options.no_labels:
                columns["label"] = None
        self.raw: RawInput = open_input(
            files,
            columns,
            self.transform,
            labels=not options.no_labels,
            chunk_bytes=options._sizes.chunk_bytes,
            known=self.known,
        )
        if self.known is not None:
            self.known.check_columns(self.raw)
        self._check_columns()
        if self.known is None:
            self.id_source: IdSource = "hashed" if options.chosen_ids == "hash" else "learned"
            self.ordering = Ordering(options.chosen_ids, options.min_count or 1)
        elif options.grow:
            self.known.check_can_grow()
            self.id_source = "grown"
            self.ordering = Ordering(self.known.manifest.ids, self._min_count_of_new_values(self.known))
        else:
            self.id_source = "known"
            self.ordering = Ordering(self.known.manifest.ids, 1)
        self.threads = options.threads or usable_cores()
        asked = {"options": self._asked_options(columns), "inputs": identities(files)}
        self.asked: dict[str, Any] = json.loads(json.dumps(asked))

    def _min_count_of_new_values(self, known: KnownVocabularies) -> int:
        """As given, or as the known values were chosen. Raises ConfigError where that is not known."""
        min_count = self.options.min_count or known.min_count
        if min_count is None:
            raise ConfigError(
                f"{self.options.vocabulary}: was prepared with the ids of other data, and does not say which rare "
                "values that has left out: give --min-count, or let the other data grow"
            )
        return min_count

    @property
    def learns(self) -> bool:
        """Whether vocabularies come about."""
        return self.id_source in ("learned", "grown")

    @property
    def renumbers(self) -> bool:
        """Whether the ids that values get at first are not those that they keep."""
        return self.learns and self.ordering.renumbers

    def encoders(self) -> list[Encoder]:
        """Of each column, as before the first row. Raises DataError for vocabularies of others that are damaged."""
        if self.known is not None:
            return self.known.encoders(grow=self.learns)
        if self.id_source == "hashed":
            return [HashEncoder(rows, self.modulo) for rows in self.hash_rows]
        return [LearningEncoder(self.modulo) for _ in self.raw.categories]

    def earlier(self, encoding: str) -> tuple[EarlierEncoding, ...]:
        """The encodings out of which that of the data has grown, the first one first."""
        if self.known is None:
            return ()
        known = self.known.manifest
        has_grown = encoding != known.encoding
        return known.earlier + (EarlierEncoding(known.encoding, known.table_rows),) * has_grown

    def new_values(self, table_rows: Sequence[int]) -> tuple[int, ...] | None:
        """(F,) how many rows of each table are not in those of the vocabulary; None of data that are not grown."""
        if self.known is None or not self.learns:
            return None
        return tuple(rows - known for rows, known in zip(table_rows, self.known.manifest.table_rows, strict=True))

    @property
    def hash_rows(self) -> list[int]:
        """The rows of each table, where ids are hashes."""
        return self.options.hash_rows_list(len(self.raw.categories))

    @property
    def memory_bytes(self) -> int:
        """What rows on their way and vocabularies may take."""
        if self.options.memory_bytes is not None:
            return self.options.memory_bytes
        least = 2 * working_bytes(self.raw, self.threads, self.options._sizes)
        available = available_bytes()
        return least if available is None else max(least, available // MEMORY_PARTS)

    def bad_rows_file(self, default: Path, *, begun: bool) -> BadRowsFile:
        """The file of bad rows; begun: whether it may be there from before, see BadRowsFile. Raises ConfigError."""
        path = default if self.options.bad_rows is None else Path(self.options.bad_rows)
        if _resolved(self.output) in _resolved(path).parents:
            # There is one file for them in there; any other name is that of other data, or may be once.
            if _resolved(path) != _resolved(default):
                raise ConfigError(f"{path}: is in the output folder; name a file elsewhere with --bad-rows, or none")
            path = default
        skips = self.options.on_bad_row == "skip"
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: the bad rows cannot be written: there is no folder {path.parent}")
        if path.is_dir():
            raise ConfigError(f"{path}: a folder; name a file with --bad-rows")
        for file in self.raw.files:
            if is_same_file(path, file):
                raise ConfigError(f"the bad rows would overwrite the input file {file}; name another with --bad-rows")
        own, overwrite = path == default, self.options.overwrite
        if skips and path.is_file() and not (begun or own or overwrite):
            raise exists(path)
        return BadRowsFile(path, skips=skips, own=own, overwrite=overwrite)

    def _check_places(self, files: Sequence[Path]) -> None:
        """Raise ConfigError where writing would destroy what is read, and for names that pyarrow cannot open."""
        output = _resolved(self.output)
        for file in files:
            if output in file.resolve().parents:
                raise ConfigError(f"the input file {file} is in the output folder {self.output}; choose another")
        if self.options.vocabulary is not None and Path(self.options.vocabulary).resolve() == output:
            raise ConfigError(f"{self.output}: cannot be --output and --vocabulary; choose another --output")
        for path in (self.output, *files):
            try:
                str(path).encode()
            except UnicodeEncodeError:
                raise ConfigError(f"{path}: its name is not valid UTF-8; rename it") from None

    def _check_columns(self) -> None:
        """What depends on the columns. Raises ConfigError."""
        options, categories = self.options, len(self.raw.categories)
        for option, names in (("--dense-columns", self.raw.dense), ("--category-columns", self.raw.categories)):
            twice = [name for number, name in enumerate(names) if name in names[:number]]
            if twice:
                raise ConfigError(f"{option} names {twice[0]} twice")
            if not names:
                hint = f" ({AT_LEAST_ONE_DENSE})" if option == "--dense-columns" else ""
                raise ConfigError(f"{option} names no column{hint}")
            if isinstance(self.raw, TableInput) and self.raw.label in names:
                raise ConfigError(f"{option} names {self.raw.label}, which is the label")
        if options.hash_rows is not None and len(self.hash_rows) != categories:
            raise ConfigError(
                f"--hash-rows has {len(self.hash_rows)} numbers, but there are {categories} category columns; give one "
                "number, or one for each"
            )
        if options.modulo is not None:
            for name, kind in zip(self.raw.categories, self.raw.kinds, strict=True):
                if kind.values == "text":
                    raise ConfigError(f"--modulo is for numbers, but column {name} holds texts; use --hash-rows")
        if options.on_bad_row == "skip" and isinstance(self.raw, TableInput):
            raise ConfigError("--on-bad-row skip is for text; correct the table")

    def _asked_options(self, columns: dict[str, Any]) -> dict[str, Any]:
        """What decides the result, beside the inputs: not the number of threads and the like."""
        options = self.options
        return {
            "ids": options.chosen_ids if self.known is None else None,
            "hash_rows": None if options.hash_rows is None else self.hash_rows,
            "min_count": self.ordering.min_count,
            "modulo": self.modulo,
            "vocabulary": None if self.known is None else self.known.manifest.encoding,
            "dense_transform": self.transform,
            **columns,
            # Only where they are so: a preparation of an earlier cupyrec does not say them.
            **({"labels": "none"} if options.no_labels else {}),
            **({"grow": True} if options.grow else {}),
            "block_samples": options._sizes.block_samples,
            "shard_samples": options._sizes.shard_samples,
        }


def _resolved(path: Path) -> Path:
    """The place of a path, whether there is anything or not. Raises ConfigError on links that lead in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path}: cannot be used: {error}") from None


def _listed(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)
