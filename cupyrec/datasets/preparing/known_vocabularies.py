"""The ids of data that were prepared before, for data that are to be read by the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cupyrec.datasets.durable_files import output_errors, write_durably
from cupyrec.datasets.prepared.manifest import encoding_id, read_manifest
from cupyrec.datasets.preparing.encode import Encoder, HashEncoder, KnownEncoder
from cupyrec.datasets.preparing.order_phase import keys_digest
from cupyrec.datasets.preparing.output_folder import read_preparation
from cupyrec.datasets.preparing.raw_input import RawInput
from cupyrec.datasets.preparing.vocabulary import VocabularyFile, read_vocabulary
from cupyrec.errors import DataError


class KnownVocabularies:
    """The vocabularies of a folder of prepared data, or the rows of its tables where ids are hashes."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest. Raises DataError."""
        self.manifest = read_manifest(folder)
        self._folder = folder
        preparation = read_preparation(folder)
        if preparation is None:
            raise DataError("does not say how its values were made; prepare it again", path=folder)
        self.modulo: int | None = preparation["options"]["modulo"]

    def check_columns(self, raw: RawInput) -> None:
        """Raise DataError unless the input has the dense features and categories of the folder."""
        for what, found, expected in (
            ("dense features", raw.dense, self.manifest.dense),
            ("categories", raw.categories, tuple(category.name for category in self.manifest.categories)),
        ):
            if found != expected:
                raise DataError(
                    f"has the {what} {', '.join(expected)}, but the input {', '.join(found)}", path=self._folder
                )
        for category, kind in zip(self.manifest.categories, raw.kinds, strict=True):
            if category.multi_hot != kind.multi_hot:
                raise DataError(f"only one of it and the input has lists in {category.name}", path=self._folder)
            self._kinds = raw.kinds

    def encoders(self) -> list[Encoder]:
        """Of each column. Raises DataError for files that are damaged or do not fit the input."""
        encoders: list[Encoder] = []
        for category, kind in zip(self.manifest.categories, self._kinds, strict=True):
            if category.vocabulary is None:
                encoders.append(HashEncoder(category.rows, self.modulo))
                continue
            known = self._read(category.vocabulary)
            if known.kind != kind.values:
                raise DataError(
                    f"column {category.name} holds {known.kind} values, but {kind.values} in the input",
                    path=self._folder,
                )
            encoders.append(KnownEncoder(known.keys, self.modulo))
        return encoders

    def digests(self) -> list[str | None]:
        """Of each vocabulary. Raises DataError unless they are those that the manifest was made with."""
        digests = [
            None if category.vocabulary is None else keys_digest(self._read(category.vocabulary).keys)
            for category in self.manifest.categories
        ]
        if encoding_id(self.manifest.dense_transform, self.manifest.table_rows, digests) != self.manifest.encoding:
            raise DataError("the vocabularies are not those of the data", path=self._folder)
        return digests

    def copy_files(self, folder: Path) -> None:
        """Copy the files of the vocabularies. Raises OutputError, DataError."""
        for category in self.manifest.categories:
            if category.vocabulary is not None:
                target = folder / category.vocabulary
                with output_errors(target):
                    target.parent.mkdir(exist_ok=True)
                write_durably(target, _content(self._folder / category.vocabulary))

    def _read(self, name: str) -> VocabularyFile:
        return read_vocabulary(self._folder / name)


def _content(path: Path) -> Any:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None
