"""Models as lines for a person to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cupyrec.byte_sizes import format_bytes
from cupyrec.counted import counted

if TYPE_CHECKING:
    from cupyrec.config import DlrmConfig

# Of tables of different sizes, so many are listed.
SIZES_SHOWN = 6


def describe_shape(config: DlrmConfig) -> str:
    """Tables, dimension and widths of a model in one line."""
    itself = ", each vector's product with itself" if config.self_interaction else ""
    return (
        f"{describe_tables(config.table_rows)}, dimension {config.dimension}, "
        f"bottom {_widths((config.dense_features, *config.bottom))}, top {_widths(config.top)}, "
        f"{config.pooling} pooling{itself}"
    )


def describe_tables(table_rows: Sequence[int]) -> str:
    """How many tables, and how many rows they have."""
    if len(set(table_rows)) == 1:
        return f"{counted(len(table_rows), 'table')} of {table_rows[0]:,} rows"
    largest = [f"{rows:,}" for rows in sorted(table_rows, reverse=True)]
    shown = ", ".join(largest[:SIZES_SHOWN]) + (", ..." if len(largest) > SIZES_SHOWN else "")
    return f"{counted(len(table_rows), 'table')} of {sum(table_rows):,} rows together ({shown})"


def describe_files(done: str, files: Sequence[Path]) -> str:
    """Where a model was written to. done: what was done, such as "exported to"."""
    size = format_bytes(sum(file.stat().st_size for file in files))
    endings = Counter(file.suffix for file in files)
    many = f" ({endings['.safetensors']} files and their index)" if endings[".json"] else ""
    return f"{done} {files[-1]}{many}, {size}"


def _widths(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))
