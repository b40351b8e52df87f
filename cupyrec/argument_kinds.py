"""Whether what a caller of the library gives is of the kind that is asked for, told before anything is done with it."""

from __future__ import annotations

import math
import numbers
import os
from typing import Any

from cupyrec.errors import ConfigError

PATH = str | os.PathLike


def check_kind(kinds: Any, what: str, **values: Any) -> None:
    """Raise ConfigError where a value is of none of these kinds; the message has its name.

    kinds: as isinstance takes them, such as `Sgd | None`; what: they are, in words.
    """
    for name, value in values.items():
        if not isinstance(value, kinds):
            raise ConfigError(f"{name} must be {what}, but is {value!r}")


def check_paths(**values: Any) -> None:
    """As check_kind, for the paths of files and folders."""
    check_kind(PATH, "a path", **values)


def check_number(**values: Any) -> None:
    """As check_kind, for numbers that are neither infinite nor NaN."""
    for name, value in values.items():
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not abs(value) < math.inf:
            raise ConfigError(f"{name} must be a number, but is {value!r}")
