"""Synthetic Criteo data of any size from a planted model, in bounded memory.

Row i depends on the model (its seed and options) and on i alone: neither the number of rows, nor the division
into blocks or files changes it, so a smaller data set is the beginning of a larger one.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from cupyrec.datasets.criteo_writer import format_rows
from cupyrec.datasets.planted_model import PlantedModel
from cupyrec.datasets.synthetic_columns import draw_columns, draw_uniform
from cupyrec.errors import ConfigError

BLOCK_ROWS = 16_384  # 5 MB of random numbers and 4 MB of text at once
GZIP_LEVEL = 9
COMPRESSIONS = ("gz", "zst")


@dataclass(frozen=True, eq=False, slots=True)
class GeneratedRows:
    """B consecutive rows.

    text:   (bytes,) uint8, whole lines of Criteo text.
    logits: (B,) float32, the planted model's own log-odds.
    labels: (B,) float32, 0 or 1.
    """

    text: np.ndarray
    logits: np.ndarray
    labels: np.ndarray


def generate_blocks(
    model: PlantedModel, start: int, stop: int, *, block_rows: int = BLOCK_ROWS
) -> Iterator[GeneratedRows]:
    """Yield rows start .. stop - 1 in blocks of up to block_rows rows."""
    for first in range(start, stop, block_rows):
        uniform = draw_uniform(model.seed, first, min(block_rows, stop - first))
        integers, ranks = draw_columns(uniform, model.columns)
        logits = model.logits(integers, ranks)
        labels = (uniform[:, 0] < 1 / (1 + np.exp(-logits))).astype(np.float32)
        yield GeneratedRows(format_rows(labels, integers, ranks), logits.astype(np.float32), labels)


def write_blocks(
    model: PlantedModel, rows: int, output: Path, *, files: int = 1, compression: str | None = None
) -> Iterator[GeneratedRows]:
    """Write rows 0 .. rows - 1, and yield each block when it has been written.

    files:       1 writes the file `output`; more make it a folder of day_0 .. day_{files - 1}, whose sizes
                 differ by a row at most.
    compression: None, "gz" or "zst", whatever `output` is called. The names of days end with it. The same
                 rows give the same bytes, as far as one version of the compressor is used.

    `output` must not exist. Closing the iterator early leaves an incomplete file: see staged_output.
    Raises ConfigError for rows, files or compression that cannot be, OSError as the file system does.
    """
    if rows < 1:
        raise ConfigError(f"rows must be at least 1, but is {rows}")
    if not 1 <= files <= rows:
        raise ConfigError(f"files must lie between 1 and the number of rows, {rows}, but is {files}")
    if files > 1:
        output.mkdir()
    for number in range(files):
        name = f"day_{number}" if compression is None else f"day_{number}.{compression}"
        path = output / name if files > 1 else output
        with _open_output(path, compression) as out:
            for block in generate_blocks(model, rows * number // files, rows * (number + 1) // files):
                out.write(block.text.data)
                yield block


@contextlib.contextmanager
def _open_output(path: Path, compression: str | None) -> Iterator[BinaryIO]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("xb"))
        if compression is None:
            yield file
        elif compression == "gz":
            # Without name and time in its header the file is the same whenever and wherever it is made.
            yield cast(
                BinaryIO,
                stack.enter_context(gzip.GzipFile("", "wb", compresslevel=GZIP_LEVEL, fileobj=file, mtime=0)),
            )
        elif compression == "zst":
            import pyarrow

            yield stack.enter_context(pyarrow.CompressedOutputStream(file, "zstd"))
        else:
            raise ConfigError(f"compression must be one of {', '.join(COMPRESSIONS)}, but is {compression}")
