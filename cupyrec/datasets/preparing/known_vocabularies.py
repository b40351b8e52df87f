"""The ids of data that were prepared before, for data that are to be read by the same model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from cupyrec.datasets.durable_files import output_errors, write_durably
from cupyrec.datasets.prepared.encoding import encoding_id, hash_mark, vocabulary_mark
from cupyrec.datasets.prepared.manifest import Category, read_manifest
from cupyrec.datasets.preparing.encode import Encoder, HashEncoder, KnownEncoder, LearningEncoder
from cupyrec.datasets.preparing.order_phase import keys_digest
from cupyrec.datasets.preparing.output_folder import PREPARATION_FILE, read_preparation
from cupyrec.datasets.preparing.raw_rows import ColumnKind
from cupyrec.datasets.preparing.vocabulary import VocabularyFile, read_vocabulary
from cupyrec.datasets.preparing.vocabulary_file import Numbers, read_texts
from cupyrec.errors import ConfigError, DataError


class NamedColumns(Protocol):
    """What is asked of an input; see RawInput."""

    @property
    def dense(self) -> tuple[str, ...]: ...

    @property
    def categories(self) -> tuple[str, ...]: ...

    @property
    def kinds(self) -> tuple[ColumnKind, ...]: ...


class KnownVocabularies:
    """The vocabularies of a folder of prepared data, or the rows of its tables where ids are hashes."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest. Raises DataError."""
        self.manifest = read_manifest(folder)
        self._folder = folder
        self._kinds: Sequence[ColumnKind] | None = None
        preparation = read_preparation(folder)
        if preparation is None:
            raise DataError("does not say how its values were made; prepare it again", path=folder)
        self.modulo: int | None = _modulo(preparation, folder)
        self.min_count: int | None = _min_count(preparation, folder)
        # How its tables were asked for: `label`, `dense_columns`, `category_columns`, None where they were not.
        self.columns: dict[str, Any] = _columns(preparation, folder)

    def kind(self, name: str) -> ColumnKind | None:
        """Of a category by its vocabulary; None where there is none. Raises DataError."""
        category = next((each for each in self.manifest.categories if each.name == name), None)
        if category is None or category.vocabulary is None:
            return None
        return ColumnKind(self._read(category.vocabulary).kind, category.multi_hot)

    def check_columns(self, raw: NamedColumns) -> None:
        """Raise DataError unless the input has the dense features and categories of the folder, of the same kinds."""
        names = tuple(category.name for category in self.manifest.categories)
        self._check_names("dense features", "--dense-columns", raw.dense, self.manifest.dense)
        self._check_names("categories", "--category-columns", raw.categories, names)
        for category, kind in zip(self.manifest.categories, raw.kinds, strict=True):
            if category.multi_hot != kind.multi_hot:
                found, expected = ("lists", "single values") if kind.multi_hot else ("single values", "lists")
                raise DataError(
                    f"column {category.name} has {found} in the input, {expected} in the data of the vocabulary",
                    path=self._folder,
                )
        self._kinds = raw.kinds
        if all(category.vocabulary is None for category in self.manifest.categories):
            values = [kind.values for kind in raw.kinds]
            if not self._are_hashes_of(values):
                raise DataError(self._other_hashes(values), path=self._folder)

    def _check_names(self, what: str, option: str, found: Sequence[str], expected: Sequence[str]) -> None:
        """Raise DataError unless the names are the same, in the same order."""
        if found == expected:
            return
        message = f"has the {what} {', '.join(expected)}, but the input "
        if sorted(found) == sorted(expected):
            # In the order of the folder they come where they are not named at all.
            message += f"the same in another order, {', '.join(found)}; leave {option} out"
        else:
            message += ", ".join(found)
        raise DataError(message, path=self._folder)

    def check_can_grow(self) -> None:
        """Raise ConfigError where there is no vocabulary that could get more values."""
        if any(category.vocabulary is None for category in self.manifest.categories):
            raise ConfigError(
                f"{self._folder}: its ids are hashes, which need no growing: new values have ids already; leave out "
                "--grow"
            )

    def encoders(self, *, grow: bool = False) -> list[Encoder]:
        """Of each column; grow: such as learn, with the counts of the folder, else what is unknown has the id 0.

        Raises DataError for files that are damaged or do not fit the input.
        """
        assert self._kinds is not None
        pairs = zip(self.manifest.categories, self._kinds, strict=True)
        found = [self._encoder(category, kind, grow) for category, kind in pairs]
        self._check_encoding([mark for _, mark in found])
        return [encoder for encoder, _ in found]

    def _encoder(self, category: Category, kind: ColumnKind, grow: bool) -> tuple[Encoder, str | None]:
        """Of one column, and what its ids depend on."""
        if category.vocabulary is None:
            return HashEncoder(category.rows, self.modulo), hash_mark(kind.values, self.modulo)
        known = self._read(category.vocabulary)
        # Bools are kept as the integers 0 and 1, and other integers are no bools.
        if known.kind != kind.values or (kind.is_bool and known.keys.max(initial=0) > 1):
            raise DataError(
                f"column {category.name} holds {known.kind} values, but {kind} in the input", path=self._folder
            )
        encoder = (
            LearningEncoder(self.modulo, known.keys, known.counts) if grow else KnownEncoder(known.keys, self.modulo)
        )
        return encoder, vocabulary_mark(keys_digest(known.keys), self.modulo)

    def marks(self) -> list[str | None]:
        """What the ids of each column depend on, for encoding_id. Raises DataError unless it is as in the manifest.

        Before check_columns nobody knows what was hashed: then only vocabularies are compared with the manifest.
        """
        marks: list[str | None] = []
        for number, category in enumerate(self.manifest.categories):
            if category.vocabulary is not None:
                marks.append(vocabulary_mark(keys_digest(self._read(category.vocabulary).keys), self.modulo))
            else:
                marks.append(None if self._kinds is None else hash_mark(self._kinds[number].values, self.modulo))
        if self._kinds is not None or all(category.vocabulary for category in self.manifest.categories):
            self._check_encoding(marks)
        return marks

    def texts(self, number: int, keys: Numbers) -> Iterator[pa.Array]:
        """The values of a category of texts, read again in pieces. keys: with those of the folder first.

        Raises DataError when the values are others by now.
        """
        category = self.manifest.categories[number]
        assert category.vocabulary is not None
        return read_texts(self._folder / category.vocabulary, keys, category.rows - 1)

    def copy_files(self, folder: Path) -> None:
        """Copy the files of the vocabularies. Raises OutputError, DataError."""
        for category in self.manifest.categories:
            if category.vocabulary is not None:
                target = folder / category.vocabulary
                with output_errors(target):
                    target.parent.mkdir(exist_ok=True)
                write_durably(target, _content(self._folder / category.vocabulary))

    def _check_encoding(self, marks: Sequence[str | None]) -> None:
        if encoding_id(self.manifest.dense_transform, self.manifest.table_rows, marks) != self.manifest.encoding:
            raise DataError("the vocabularies are not those of the data", path=self._folder)

    def _are_hashes_of(self, values: Sequence[str]) -> bool:
        """Whether the ids are hashes of such values, see ColumnKind, taken modulo what preparation.json says."""
        marks = [hash_mark(value, self.modulo) for value in values]
        return encoding_id(self.manifest.dense_transform, self.manifest.table_rows, marks) == self.manifest.encoding

    def _other_hashes(self, values: Sequence[str]) -> str:
        """What is wrong with the values of the input, as far as can be told."""
        names = [category.name for category in self.manifest.categories]
        for number, name in enumerate(names):
            other = "integer" if values[number] == "text" else "text"
            # This column alone is another, or it is one of several.
            if any(self._are_hashes_of(each) for each in (_replaced(values, number, other), [other] * len(values))):
                before, now = ("texts", "numbers") if other == "text" else ("numbers", "texts")
                return f"its ids of column {name} are hashes of {before}, but the input has {now}"
        return "its ids are hashes of texts where the input has numbers, or the reverse, or were made another way"

    def _read(self, name: str) -> VocabularyFile:
        return read_vocabulary(self._folder / name)


def _modulo(preparation: dict[str, Any], folder: Path) -> int | None:
    """As the data were prepared with. Raises DataError where preparation.json does not say."""
    options = preparation.get("options")
    modulo = options.get("modulo", 0) if isinstance(options, dict) else 0
    if modulo is None:
        return None
    if type(modulo) is not int or not 1 <= modulo < 2**63:
        raise DataError(
            "damaged: it does not say the modulo of values; prepare it again", path=folder / PREPARATION_FILE
        )
    return modulo


def _min_count(preparation: dict[str, Any], folder: Path) -> int | None:
    """As the data were prepared with, 1 where preparation.json does not say; None where nobody knows it, as they have
    the ids of others. Raises DataError where it cannot be.
    """
    options = preparation["options"]
    if options.get("vocabulary") is not None and not options.get("grow"):
        return None
    min_count = options.get("min_count", 1)
    if type(min_count) is not int or not 1 <= min_count < 2**63:
        raise DataError(
            "damaged: its min_count is not a whole number; prepare it again", path=folder / PREPARATION_FILE
        )
    return min_count


def _columns(preparation: dict[str, Any], folder: Path) -> dict[str, Any]:
    """As the data were prepared with. Raises DataError where they are nothing of the kind."""
    options = preparation["options"]
    columns = {name: options.get(name) for name in ("label", "dense_columns", "category_columns")}
    for name, value in columns.items():
        names = [value] if name == "label" else value
        if value is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
            raise DataError(
                f"damaged: {name} are no names of columns; prepare it again", path=folder / PREPARATION_FILE
            )
    return columns


def _replaced(values: Sequence[str], number: int, value: str) -> list[str]:
    return [*values[:number], value, *values[number + 1 :]]


def _content(path: Path) -> Any:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None
