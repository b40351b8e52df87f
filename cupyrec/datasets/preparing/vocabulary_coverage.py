"""How much of prepared data their vocabularies cover: the share of values that have an id of their own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cupyrec.datasets.prepared.manifest import Category, Manifest
from cupyrec.datasets.preparing.output_folder import read_preparation
from cupyrec.errors import DataError, first_line

COUNT_COLUMN = "count"


def coverages(folder: Path, content: Manifest) -> list[float | None]:
    """Of each category, 0 to 1; None where it is not known: of hashes, of lists with a vocabulary of their own, and of
    vocabularies that have grown, whose counts are of earlier data too.

    The counts of the data's own vocabularies are read, in blocks. Raises DataError.
    """
    if content.unknown is not None:
        return [1 - share for share in content.unknown]
    preparation = read_preparation(folder)
    options = (preparation or {}).get("options")
    own = isinstance(options, dict) and options.get("vocabulary") is None
    return [_coverage(folder, category, content.samples) if own else None for category in content.categories]


def _coverage(folder: Path, category: Category, samples: int) -> float | None:
    if category.vocabulary is None or category.multi_hot:
        return None
    path = folder / category.vocabulary
    try:
        with pq.ParquetFile(path) as file:
            counts = [pc.sum(batch.column(0)).as_py() or 0 for batch in file.iter_batches(columns=[COUNT_COLUMN])]
    except (OSError, pa.ArrowException, IndexError, KeyError) as error:
        raise DataError(f"the vocabulary cannot be read: {first_line(error)}", path=path) from None
    return sum(counts) / samples
