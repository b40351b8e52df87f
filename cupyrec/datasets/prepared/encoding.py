"""What tells whether two folders of prepared data, or a folder and a model, give the same ids to the same values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EarlierEncoding:
    """An encoding that was grown: its ids are those of the grown one too, which has more. table_rows: (F,)."""

    encoding: str
    table_rows: tuple[int, ...]


def encoding_id(dense_transform: str, table_rows: Sequence[int], columns: Sequence[str | None]) -> str:
    """A short name of how values become ids and dense features, whatever the columns are called: 16 hexadecimal digits.

    columns: (F,) of each category hash_mark or vocabulary_mark. None alone, an id that is the number itself modulo the
    rows of its table, says all about a column of raw Criteo files.
    """
    text = json.dumps([dense_transform, list(table_rows), list(columns)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_mark(values: str, modulo: int | None) -> str | None:
    """What ids that are hashes depend on, beside the rows of the table; None where a number is its own hash.

    values: hex, integer or text, see preparing.raw_rows.ColumnKind; modulo: that numbers are taken by before.
    """
    kind = "text" if values == "text" else "number"
    return None if kind == "number" and modulo is None else f"hash:{kind}:{modulo}"


def vocabulary_mark(digest: str, modulo: int | None) -> str:
    """What ids of a vocabulary depend on: its digest (see preparing.vocabulary), and the modulo of its values."""
    return digest if modulo is None else f"{digest}:{modulo}"
