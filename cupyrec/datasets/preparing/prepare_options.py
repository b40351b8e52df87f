"""What a preparation is told to do, checked before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cupyrec.argument_kinds import PATH, check_kind, check_paths
from cupyrec.datasets.prepared.manifest import BLOCK_SAMPLES, MOST_TABLE_ROWS, SHARD_SAMPLES
from cupyrec.errors import ConfigError

IDS = ("frequency", "first", "hash")
ON_BAD_ROW = ("error", "skip")
DEFAULT_TRANSFORM = "dlrm"


@dataclass(frozen=True)
class PrepareOptions:
    """All that `cupyrec prepare` can be told; None is the default of an option, whatever that is then.

    paths:            files, folders and patterns; see input_files.find_input_files.
    output:           the folder to write.
    ids:              `frequency`: ids in order of falling frequency; `first`: of first appearance; `hash`: the value
                      modulo hash_rows.
    hash_rows:        rows of every table, or of each of them.
    min_count:        values that appear less often become id 0; of data that grow, new values.
    modulo:           values are taken modulo this before anything else.
    vocabulary:       a folder of prepared data whose ids and dense transform are used.
    grow:             values that the vocabulary does not know get ids after its own, in the order that its data say.
    dense_transform:  its name, see dense_transforms.
    label, dense_columns, category_columns: names of columns of tables.
    no_labels:        the input has none, or they are not to be used: the data are good for predictions alone.
    on_bad_row:       `error` or `skip`; bad_rows: where skipped rows are written, None: into the folder.
    memory_bytes:     None: a quarter of what is available. threads: None: one for each core.
    overwrite:        replace what the folder holds of another preparation.
    """

    paths: str | Path | Sequence[str | Path]
    output: str | Path
    ids: str | None = None
    hash_rows: int | Sequence[int] | None = None
    min_count: int | None = None
    modulo: int | None = None
    vocabulary: str | Path | None = None
    grow: bool = False
    dense_transform: str | None = None
    label: str | None = None
    dense_columns: Sequence[str] | None = None
    category_columns: Sequence[str] | None = None
    no_labels: bool = False
    on_bad_row: Literal["error", "skip"] = "error"
    bad_rows: str | Path | None = None
    memory_bytes: int | None = None
    threads: int | None = None
    overwrite: bool = False
    _sizes: ShardSizes = field(default_factory=lambda: ShardSizes())

    def __post_init__(self) -> None:
        """Raises ConfigError for values, and combinations of them, that cannot be used."""
        check_paths(output=self.output)
        check_kind(PATH | None, "a path", vocabulary=self.vocabulary, bad_rows=self.bad_rows)
        names = {"dense_columns": self.dense_columns, "category_columns": self.category_columns}
        check_kind(list | tuple | None, "a list of names", **names)
        if self.ids is not None and self.ids not in IDS:
            raise ConfigError(f"ids must be one of {', '.join(IDS)}, but is {self.ids!r}")
        if self.on_bad_row not in ON_BAD_ROW:
            raise ConfigError(f"on_bad_row must be 'error' or 'skip', but is {self.on_bad_row!r}")
        check_kind(bool, "True or False", grow=self.grow)
        if self.grow and self.vocabulary is None:
            raise ConfigError("--grow needs --vocabulary, the prepared data whose ids new values are added to")
        if self.vocabulary is not None:
            others = ("ids", "hash_rows", "modulo", "dense_transform")
            self._refuse("vocabulary", "the ids are those of its folder", *others)
            if not self.grow:
                self._refuse("vocabulary", "without --grow no value is new", "min_count")
        if self.no_labels:
            self._refuse("no_labels", "no column is read as the label", "label")
        if self.hash_rows is not None and self.ids not in (None, "hash"):
            raise ConfigError(f"--hash-rows makes ids by hashing, not by --ids {self.ids}; leave one of them out")
        if self.ids == "hash" and self.hash_rows is None:
            raise ConfigError("--ids hash needs --hash-rows, the rows of each table")
        if self.hash_rows is not None:
            self._refuse("hash_rows", "hashing keeps no vocabulary", "min_count")
            for rows in self.hash_rows_list(1):
                _check_number("--hash-rows", rows, MOST_TABLE_ROWS)
        for name in ("min_count", "modulo", "memory_bytes", "threads"):
            if (value := getattr(self, name)) is not None:
                _check_number(_option(name), value, 2**63 - 1)

    @property
    def chosen_ids(self) -> str:
        """How values become ids; not for data that use another's vocabulary."""
        return "hash" if self.hash_rows is not None else self.ids or "frequency"

    def hash_rows_list(self, categories: int) -> list[int]:
        """hash_rows of each of the categories, one number standing for all."""
        if isinstance(self.hash_rows, Sequence):
            return list(self.hash_rows)
        assert self.hash_rows is not None
        return [self.hash_rows] * categories

    def _refuse(self, name: str, reason: str, *others: str) -> None:
        for other in others:
            if getattr(self, other) is not None:
                raise ConfigError(f"{_option(name)} and {_option(other)} exclude each other: {reason}")


@dataclass(frozen=True)
class ShardSizes:
    """Sizes that only tests change: samples of a block and of a shard, and how much text is parsed at once."""

    block_samples: int = BLOCK_SAMPLES
    shard_samples: int = SHARD_SAMPLES
    chunk_bytes: int = 1 << 20


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_number(option: str, value: int, largest: int) -> None:
    if type(value) is not int or not 1 <= value <= largest:
        raise ConfigError(f"{option} must be a whole number from 1 to {largest}, but is {value!r}")
