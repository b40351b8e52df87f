"""What a model and a system are made of, as plain validated data."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cupyrec.argument_kinds import PATH, check_kind
from cupyrec.errors import ConfigError
from cupyrec.scratchpad_size import check_scratchpad_size

CRITEO_DENSE_FEATURES = 13
# In float32 a smaller one would be 0, and a weight whose gradient is always 0 would become 0 / 0.
LEAST_EPS = 1e-30
# Of the bottom MLP, before the last one, which has the embedding dimension.
DEFAULT_BOTTOM_LAYERS = (512, 256, 64)


@dataclass(frozen=True)
class DlrmConfig:
    """The shape of a DLRM.

    table_rows:       (F,) rows of each embedding table.
    dense_features:   columns of the dense input.
    dimension:        D, of every table.
    bottom, top:      widths of the layers after the input; bottom ends in D, top in 1.
    pooling:          how the rows of a bag become one vector: sum or mean.
    self_interaction: whether the dot interaction takes each vector's product with itself too.
    """

    table_rows: tuple[int, ...]
    dense_features: int = CRITEO_DENSE_FEATURES
    dimension: int = 16
    bottom: tuple[int, ...] = (*DEFAULT_BOTTOM_LAYERS, 16)
    top: tuple[int, ...] = (512, 256, 1)
    pooling: str = "sum"
    self_interaction: bool = False

    def __post_init__(self) -> None:
        for name in ("table_rows", "bottom", "top"):
            object.__setattr__(self, name, _whole_numbers(name, _each(name, getattr(self, name))))
        for name in ("dimension", "dense_features"):
            object.__setattr__(self, name, _whole_numbers(name, (getattr(self, name),))[0])
        if self.bottom[-1] != self.dimension:
            raise ConfigError(
                f"the bottom MLP must end in the embedding dimension, {self.dimension}, but is {_text(self.bottom)}"
            )
        if self.top[-1] != 1:
            raise ConfigError(f"the top MLP must end in 1, the logit, but is {_text(self.top)}")
        check_kind(bool, "True or False", self_interaction=self.self_interaction)
        if self.pooling not in ("sum", "mean"):
            raise ConfigError(f"pooling must be sum or mean, but is {self.pooling!r}")

    @property
    def features(self) -> int:
        """F."""
        return len(self.table_rows)

    def grown_to(self, table_rows: tuple[int, ...]) -> DlrmConfig | None:
        """The same shape with tables that have grown to (F,) rows; None where these have fewer tables or rows."""
        before = self.table_rows
        if len(before) != len(table_rows) or any(few > more for few, more in zip(before, table_rows, strict=True)):
            return None
        return replace(self, table_rows=table_rows)


SYSTEMS = ("auto", "resident", "hybrid", "static", "serial", "scratchpipe")
REPLACEMENTS = ("lookahead", "lru", "lfu", "random")
DEFAULT_SCRATCHPAD = "10%"
# Batches ahead that scratchpipe's stages must know.
LEAST_LOOKAHEAD = 2
EXCHANGES = ("auto", "staged", "direct", "direct-in", "direct-out", "mixed")
HOST_MEMORIES = ("auto", "ordinary", "managed")
DEVICES = ("auto", "cpu", "gpu")
# How exact matrix products on a GPU are; embedding rows and all else stay float32.
PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class SystemConfig:
    """Where embeddings live and are trained.

    name:        auto, resident, hybrid, static, serial or scratchpipe.
    scratchpad:  device memory for rows: bytes with a unit (8GB), a number of rows (50000, as a number too), or a share
                 of all rows (10%). For static, serial and scratchpipe.
    lookahead:   K, batches that serial and scratchpipe know ahead, 2 or more; None: chosen from data and scratchpad.
    replacement: which row leaves: lookahead, or lru, lfu, random for comparison.
    row_counts:  file of how often each row is used; None: static counts for itself, the others while training.
    exchange:    how serial and scratchpipe move rows between host and GPU: staged (the host gathers, copies cross the
                 link), direct (kernels read and write host memory), direct-in or direct-out (that direction direct, the
                 other staged), mixed (rows come in both ways at once, and go out staged), or auto, which tries all.
    host_memory: of serial and scratchpipe on a GPU, where all rows are: ordinary, its pages locked for the GPU where
                 kernels reach it; managed by CUDA's driver, which GPUs may read faster; or auto, which tries both.
    """

    name: str = "auto"
    scratchpad: str = DEFAULT_SCRATCHPAD
    lookahead: int | None = None
    replacement: str = "lookahead"
    row_counts: str | Path | None = None
    exchange: str = "auto"
    host_memory: str = "auto"

    def __post_init__(self) -> None:
        for what, value, known in (
            ("system", self.name, SYSTEMS),
            ("replacement", self.replacement, REPLACEMENTS),
            ("exchange", self.exchange, EXCHANGES),
            ("host memory", self.host_memory, HOST_MEMORIES),
        ):
            if value not in known:
                raise ConfigError(f"unknown {what} {value!r}; choose {', '.join(known)}")
        check_kind(PATH | None, "a path", row_counts=self.row_counts)
        size: Any = self.scratchpad  # a number of rows may come as one
        if isinstance(size, bool) or not isinstance(size, (str, numbers.Integral)):
            raise ConfigError(f"scratchpad must be a text such as '8GB' or '10%', or a number of rows, but is {size!r}")
        object.__setattr__(self, "scratchpad", str(size))
        check_scratchpad_size(self.scratchpad)
        if self.lookahead is not None:
            check_at_least(LEAST_LOOKAHEAD, lookahead=self.lookahead)
            object.__setattr__(self, "lookahead", int(self.lookahead))
            if self.replacement != "lookahead":
                raise ConfigError(f"the replacement {self.replacement} does not look ahead; leave --lookahead out")


def check_at_least(least: int, **values: Any) -> None:
    """Raise ConfigError where a value is not a whole number of at least so much; the message has its name."""
    for name, value in values.items():
        if not _is_whole(value) or value < least:
            raise ConfigError(f"{name} must be a whole number of at least {least}, but is {value!r}")


def check_share(share: Any, what: str) -> None:
    """Raise ConfigError unless it is a number between 0 and 1, both excluded. what: it is a share of."""
    is_number = isinstance(share, numbers.Real)
    if not is_number or not 0 < share < 1:
        raise ConfigError(f"the share of {what} to split off must be a number between 0 and 1, but is {share!r}")


def _each(name: str, values: Any) -> tuple[Any, ...]:
    """Several values as a tuple. Raises ConfigError; a text has letters, which nobody means."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} must be a list of whole numbers, such as (64, 16), but is {values!r}")
    return tuple(values)


def _whole_numbers(name: str, values: tuple[Any, ...]) -> tuple[int, ...]:
    """The values as ints, NumPy's too. Raises ConfigError; a float or bool is a slip, even where its value is whole."""
    whole = [_is_whole(value) for value in values]
    if not values or not all(whole) or min(values) < 1:
        # A text in its quotes, so that "8" is told from 8.
        shown = _text(tuple(str(value) if fits else repr(value) for value, fits in zip(values, whole, strict=True)))
        raise ConfigError(f"{name} must be whole numbers of at least 1, but is {shown}")
    return tuple(int(value) for value in values)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _text(widths: tuple[object, ...]) -> str:
    return "-".join(str(width) for width in widths) or "empty"
