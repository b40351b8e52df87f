"""Whether data give the same ids and dense features to the same values as the data that a model was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cupyrec.config import DlrmConfig
from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.prepared.encoding import encoding_id
from cupyrec.datasets.prepared.manifest import Manifest
from cupyrec.datasets.source import Source, name_of
from cupyrec.errors import ConfigError, ModelError

# As CriteoFiles computes dense features.
RAW_TRANSFORM = "dlrm"


def raw_encoding(config: DlrmConfig) -> str:
    """The encoding of raw Criteo files: ids are values modulo the rows of their table."""
    return encoding_id(RAW_TRANSFORM, config.table_rows, [None] * config.features)


def model_encoding(config: DlrmConfig, description: Mapping[str, Any], where: Path) -> str | None:
    """The encoding of the data that a model was trained with; None where nobody knows, as of imported weights.

    description: of model.json, or of a checkpoint. A model that says nothing is from before there were other data than
    raw files. Raises ModelError that names the file.
    """
    training = description.get("training")
    if not isinstance(training, dict) or "encoding" not in training:
        return raw_encoding(config)
    encoding = training["encoding"]
    if encoding is not None and not isinstance(encoding, str):
        raise ModelError(f"{where}: the description of the model is damaged: encoding is {encoding!r}")
    return encoding


def check_same_encoding(source: Source, config: DlrmConfig, encoding: str | None) -> None:
    """Raise ConfigError when a source was made with another encoding than a model's data, and has not grown from it.

    encoding: the model's. A source that has no attribute `encoding`, or a model without one, cannot be checked.
    """
    of_data = getattr(source, "encoding", None)
    if None in (encoding, of_data) or encoding == of_data or has_grown_from(source, encoding):
        return
    raw = raw_encoding(config)
    if encoding == raw:
        rows = f"--hash-rows {_rows(config.table_rows)}"
        was = (
            f"with {rows}: give the same rows"
            if isinstance(source, CriteoFiles)
            else f"on raw files, or on data prepared with {rows}: name the raw files, or data prepared in that way"
        )
        raise ConfigError(f"{name_of(source)}: {_made(source)}, but the model was trained {was}")
    trained = "the model was trained on data prepared with"
    what = (
        f"read as raw files, but {trained} vocabularies, --modulo, texts or another dense transform"
        if of_data == raw
        else f"{_made(source)}, encoding {of_data}, but {trained} other vocabularies, tables or another dense "
        f"transform, encoding {encoding}"
    )
    raise ConfigError(
        f"{name_of(source)}: {what}: prepare them with `cupyrec prepare PATH... --vocabulary FOLDER`, FOLDER being the "
        "prepared data of the training"
    )


def has_grown_from(source: Source, encoding: str | None) -> bool:
    """Whether the ids of a source are those of data of an earlier encoding, and some more."""
    return encoding in getattr(source, "earlier_encodings", {})


def _made(source: Source) -> str:
    """How they were prepared."""
    if isinstance(source, CriteoFiles):
        return f"raw files read with --hash-rows {_rows(source.table_rows)}"
    manifest: Manifest | None = getattr(source, "manifest", None)
    if manifest is None:
        return "another encoding"
    ids = f"--hash-rows {_rows(source.table_rows)}" if manifest.ids == "hash" else f"--ids {manifest.ids}"
    return f"prepared with {ids} and --dense-transform {manifest.dense_transform}"


def _rows(table_rows: Sequence[int]) -> str:
    return ",".join(map(str, table_rows[:1] if len(set(table_rows)) == 1 else table_rows))
