"""Options that are whole numbers, written as those of `cupyrec train`."""

from __future__ import annotations

from typing import Any

import click

from cupyrec.errors import ConfigError
from cupyrec.option_values import whole_number


class WholeNumber(click.ParamType):
    """`1000`, `1_000` or `1e3`, and nothing below a bound."""

    name = "number"

    def __init__(self, least: int = 1) -> None:
        self._convert = whole_number(least)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Raises ConfigError."""
        try:
            return self._convert(value)
        except ValueError as error:
            name = param.opts[0] if param is not None else "a number"
            raise ConfigError(f"{name} must be {error}, but is {value!r}") from None
