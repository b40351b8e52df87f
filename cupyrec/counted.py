"""Numbers, as a person would write them."""

from __future__ import annotations

# From here on figures are written with a power of ten.
LARGE = 1e6


def counted(number: int, what: str, several: str | None = None) -> str:
    """`1 step`, `1,234 steps`. what: one of them; several: more than one, where that is not what and an s."""
    return f"{number:,} {what if number == 1 else several or f'{what}s'}"


def figure(number: float) -> str:
    """Such as a loss: `0.4712`, `1.23e+09`."""
    return f"{number:.4f}" if abs(number) < LARGE else f"{number:.3g}"
