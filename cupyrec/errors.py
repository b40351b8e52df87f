"""Every error that cupyrec raises on purpose.

The command line prints the message of a CupyrecError and ends with its `exit_code`, without a traceback;
a library user catches the class. A message is one line that says what is wrong, where, and what to do.
"""

from __future__ import annotations

import unicodedata


class CupyrecError(Exception):
    """Base of all errors that cupyrec raises on purpose."""

    exit_code = 2

    def __str__(self) -> str:
        """The message, one line: controls in it, as a file of anybody may name something, are escaped."""
        message = super().__str__()
        return message if message.isprintable() else "".join(map(_shown, message))


def _shown(letter: str) -> str:
    """A letter, escaped where it would control a terminal, break the line or turn its direction."""
    is_control = unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"}
    turns = unicodedata.bidirectional(letter) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return repr(letter)[1:-1] if is_control or turns else letter


class ConfigError(CupyrecError, ValueError):
    """An option, or a combination of options, that cannot be used."""


class DataError(CupyrecError, ValueError):
    """Input data that cannot be read: the message names the file, and the line and column where there is one.

    path:   the file, as the user gave it.
    line:   1-based physical line, or None when the whole file is meant.
    column: 1-based column, or None when the whole line is meant.
    """

    def __init__(self, reason: str, *, path: object = None, line: int | None = None, column: int | None = None):
        self.reason, self.path, self.line, self.column = reason, path, line, column
        place = [] if path is None else [str(path)]
        if line is not None:
            place.append(f"line {line}")
        if column is not None:
            place.append(f"column {column}")
        super().__init__(f"{', '.join(place)}: {reason}" if place else reason)


class OutputError(CupyrecError, OSError):
    """A folder or file that cannot be written."""


class ModelError(CupyrecError, ValueError):
    """A saved model that cannot be loaded: missing, damaged or of another kind."""


class MemoryPlanError(CupyrecError, MemoryError):
    """What was asked for does not fit in memory; raised before anything is allocated."""


class DivergenceError(CupyrecError, ArithmeticError):
    """The loss is NaN or infinite."""


class ScratchpadError(CupyrecError, ValueError):
    """A scratchpad that cannot hold the rows of one batch."""


class StageError(CupyrecError, RuntimeError):
    """A stage of the pipeline failed: the message names the stage and the batch; the cause is its __cause__."""


class DeviceError(CupyrecError, RuntimeError):
    """A GPU that is not there, or that failed."""


class DeviceMemoryError(DeviceError, MemoryError):
    """Too little device memory, or host memory whose pages cannot be locked."""


def first_line(error: BaseException) -> str:
    """The first line with text of another library's error; its repr where there is none."""
    # CuPy frames its long messages with lines of "=".
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line.strip("=")), repr(error))
