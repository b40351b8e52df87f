"""How large a scratchpad is: `8GB`, `20000` rows, or `10%` of the rows of all tables."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from cupyrec.byte_sizes import MOST_LETTERS, parse_bytes
from cupyrec.errors import ConfigError

# Slots are int32, and the largest stands for "never" elsewhere.
MOST_SLOTS = 2**31 - 2


def scratchpad_size(value: Any) -> str:
    """The size of a scratchpad, as SystemConfig takes it, of the value of an option; see option_values."""
    is_one = isinstance(value, (str, int)) and not isinstance(value, bool)
    try:
        return check_scratchpad_size(str(value) if is_one else "")
    except ConfigError:
        raise ValueError("bytes with a unit (8GB), a number of rows (50000), or a share of all rows (10%)") from None


def check_scratchpad_size(size: str) -> str:
    """The text as it is. Raises ConfigError when it is none of the three, or 0."""
    if _slots(size, MOST_SLOTS, 1) < 1:
        raise ConfigError(f"a scratchpad of {size} holds no row")
    return size


def scratchpad_slots(size: str, rows: int, record_bytes: int) -> int:
    """Slots of a scratchpad: at most one for each row, as all of them then fit.

    size: bytes with a unit (`8GB`, `512MiB`), a plain whole number of rows, or a share (`10%`); rows: R, of all tables;
    record_bytes: what a row takes with its optimizer state. Raises ConfigError.
    """
    slots = _slots(size, rows, record_bytes)
    if slots < 1:
        raise ConfigError(f"a scratchpad of {size} holds no row ({rows:,} rows of {record_bytes} bytes in all)")
    return min(slots, rows, MOST_SLOTS)


def _slots(size: str, rows: int, record_bytes: int) -> int:
    """As many as the text says, 0 too. Raises ConfigError."""
    text = size.strip()
    if len(text) > MOST_LETTERS:
        text = ""  # no size
    share = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*%", text, re.ASCII)
    if share:
        return int(Fraction(share[1]) * rows / 100)
    if re.fullmatch(r"\d+(?:_\d+)*", text, re.ASCII):
        return int(text)
    try:
        return parse_bytes(text) // record_bytes
    except ConfigError:
        raise ConfigError(
            f"{size!r} is not the size of a scratchpad: give bytes with a unit (8GB), a number of rows (50000), "
            "or a share of the rows of all tables (10%)"
        ) from None
