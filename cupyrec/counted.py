"""Numbers of things, as a person would write them."""

from __future__ import annotations


def counted(number: int, what: str, several: str | None = None) -> str:
    """`1 step`, `1,234 steps`. what: one of them; several: more than one, where that is not what and an s."""
    return f"{number:,} {what if number == 1 else several or f'{what}s'}"
