"""The values that a shard was the first to have: files from which vocabularies are built again.

An Arrow IPC file of one record batch for each category, with the columns `key`, uint64, and, where a category has
texts, `text`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from cupyrec.datasets.durable_files import durable_file
from cupyrec.datasets.preparing.journal import damaged
from cupyrec.errors import first_line

SCHEMA = pa.schema([("key", pa.uint64())])
SCHEMA_WITH_TEXTS = SCHEMA.append(pa.field("text", pa.large_string()))


def new_values_name(shard: int) -> str:
    """The file that belongs to a shard, 0-based."""
    return f"new-{shard:05}.arrow"


def write_new_values(
    path: Path, columns: Sequence[tuple[np.ndarray, pa.Array | None]], *, with_texts: bool
) -> dict[str, int]:
    """Write keys and texts of each category. Returns what the file is known by. Raises OutputError."""
    schema = SCHEMA_WITH_TEXTS if with_texts else SCHEMA
    with durable_file(path) as partial:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for keys, texts in columns:
                arrays = [pa.array(keys)]
                if with_texts:
                    arrays.append(pa.nulls(keys.shape[0], pa.large_string()) if texts is None else texts)
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
        with pa.memory_map(str(partial)) as file:
            content = file.read_buffer()
            identity = {"size_bytes": content.size, "crc32": zlib.crc32(content)}
    return identity


def read_new_values(path: Path, identity: dict[str, Any]) -> list[tuple[np.ndarray, pa.Array | None]]:
    """Keys and texts of each category. identity: what the file is known by. Raises DataError when it is another."""
    try:
        with pa.memory_map(str(path)) as file:
            content = file.read_buffer()
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, first_line(error)) from None
    if {"size_bytes": content.size, "crc32": zlib.crc32(content)} != identity:
        raise damaged(path, "it is not what was written")
    reader = pa.ipc.open_file(content)
    batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    with_texts = len(reader.schema) > 1
    return [(batch.column(0).to_numpy(), batch.column(1) if with_texts else None) for batch in batches]
