"""What the value of an option may be: converters from the text of the command line or from a TOML value.

Each raises ValueError whose message says what the value must be: "batch-size must be <message>, but is 'x'".
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

CRITEO_SPARSE_FEATURES = 26
# What an int64 holds: no count is larger.
MOST = 2**63 - 1


def whole_number(least: int) -> Callable[[Any], int]:
    """A converter to int that accepts `1000`, `1_000` and `1e6`, and nothing below `least`."""

    def convert(value: Any) -> int:
        number = None if isinstance(value, bool) else _number(value)
        if number is None or number != int(number) or number < least:
            raise ValueError(f"a whole number of at least {least}")
        if number > MOST:
            raise ValueError(f"a whole number of at most {MOST}")
        return int(number)

    return convert


def real_number(above: float | None = None, least: float | None = None) -> Callable[[Any], float]:
    """A converter to a finite float, above or at least a bound."""

    def convert(value: Any) -> float:
        number = None if isinstance(value, bool) else _number(value)
        bound = f" above {above:g}" if above is not None else f" of at least {least:g}" if least is not None else ""
        if number is None or (above is not None and number <= above) or (least is not None and number < least):
            raise ValueError(f"a number{bound}")
        return float(number)

    return convert


def _number(value: Any) -> float | int | None:
    """value as a finite number, or None."""
    try:
        number = value if isinstance(value, (int, float)) else int(value)
    except (TypeError, ValueError):
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
    try:
        return number if math.isfinite(number) else None
    except OverflowError:  # a whole number beyond float64
        return None


def widths(value: Any) -> tuple[int, ...]:
    """Layer widths: `512-256-16`, `512,256,16` or a list."""
    parts = value.replace(",", "-").split("-") if isinstance(value, str) else value
    try:
        return tuple(whole_number(1)(part) for part in ([parts] if isinstance(parts, int) else parts))
    except (TypeError, ValueError):
        raise ValueError("layer widths such as 512-256-16") from None


def hash_rows(value: Any) -> tuple[int, ...]:
    """Rows of every table: one number, or one for each of the 26 category columns."""
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, (int, float)) else value
    try:
        numbers = tuple(whole_number(1)(part) for part in parts)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) not in (1, CRITEO_SPARSE_FEATURES):
        raise ValueError(f"one number, or {CRITEO_SPARSE_FEATURES} with commas between them, each at least 1")
    return numbers


def texts(value: Any) -> tuple[str, ...]:
    """One text or several."""
    parts = [value] if isinstance(value, (str, Path)) else value
    if isinstance(parts, (int, float)):
        parts = [str(parts)]
    try:
        return tuple(str(part) for part in parts)
    except TypeError:
        raise ValueError("one path or a list of paths") from None


def text(value: Any) -> str:
    """One text, not an empty one, which would mean the folder that somebody is in."""
    if not isinstance(value, (str, Path)):
        raise ValueError("a text")
    if not str(value):
        raise ValueError("a text that is not empty")
    return str(value)


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def choice(*names: str) -> Callable[[Any], str]:
    """One of a few names."""

    def convert(value: Any) -> str:
        if value not in names:
            raise ValueError(" or ".join(names))
        return str(value)

    return convert


def text_of(value: Any) -> str:
    """The value of an option, for messages."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "-".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


# What other programs call the options.
OTHER_NAMES = {
    "lr": "learning-rate",
    "batch": "batch-size",
    "bs": "batch-size",
    "steps": "max-steps",
    "embedding-dim": "dimension",
    "workers": "threads",
    "num-workers": "threads",
    "jobs": "threads",
    "gpu": "device",
    "cuda": "device",
    "cache": "scratchpad",
}


def nearest_name(name: str, known: Collection[str]) -> str | None:
    """The known name that was probably meant; names of options are without the hyphens before them."""
    meant = OTHER_NAMES.get(name)
    return meant if meant in known else next(iter(difflib.get_close_matches(name, known, n=1)), None)


def about_unknown(name: str, known: Mapping[str, Any]) -> str:
    """What is wrong with a name, and what was probably meant. known: fields of RunConfig by their names."""
    key = name.replace("-", "_")
    if key == "config":
        return "'config' names a file of options, and cannot stand in one"
    positive = key.removeprefix("no_")
    if positive != key and positive in known and isinstance(known[positive].default, bool):
        return f"unknown option '{name}'; write '{option_name(positive)} = false'"
    nearest = nearest_name(option_name(key), [option_name(each) for each in known])
    hint = f"did you mean '{nearest}'?" if nearest else "see cupyrec train --help"
    return f"unknown option '{name}'; {hint}"


def option_words(field_name: str, value: Any) -> list[str]:
    """What the command line needs to give a field this value."""
    name = option_name(field_name)
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]


def option_name(field_name: str) -> str:
    """`batch_size` as the command line and the file write it: `batch-size`."""
    return field_name.replace("_", "-")
