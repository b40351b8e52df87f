"""Sizes in bytes, to be read and written by people: decimal units, so that 8GB is 8,000,000,000 bytes."""

from __future__ import annotations

import re
from fractions import Fraction

from cupyrec.errors import ConfigError

DECIMAL_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
BYTES_OF_UNIT = {unit.lower(): 1000**power for power, unit in enumerate(DECIMAL_UNITS)} | {
    unit.lower(): 1024**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB", "PiB"), start=1)
}
# Python refuses to read numbers of thousands of digits.
MOST_LETTERS = 100


def format_bytes(size_bytes: int) -> str:
    """Write a size with a decimal unit and at most one digit after the point: 1,700,000,000 is `1.7 GB`."""
    size = float(size_bytes)
    for unit in DECIMAL_UNITS:
        shown = f"{size:.1f}".removesuffix(".0")
        # What would be shown as 1000 of a unit is one of the next.
        if abs(float(shown)) < 1000 or unit == DECIMAL_UNITS[-1]:
            break
        size /= 1000
    return f"{shown} {unit}"


def parse_bytes(text: str) -> int:
    """Read a size: `8GB`, `1.5 GB`, `64 MiB` (binary), `512` (bytes). Case does not matter.

    Parts of a byte are cut off.
    Raises ConfigError that names the text and the units.
    """
    is_short = len(text) <= MOST_LETTERS
    match = is_short and re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", text, re.ASCII | re.IGNORECASE)
    unit_bytes = match and BYTES_OF_UNIT.get(match[2].lower() or "b")
    if not match or not unit_bytes:
        raise ConfigError(
            f"{text!r} is not a size: give a number and a unit, such as 8GB "
            f"(B, kB, MB, GB, TB, PB, or the binary KiB, MiB, GiB, TiB, PiB)"
        )
    return int(Fraction(match[1]) * unit_bytes)
