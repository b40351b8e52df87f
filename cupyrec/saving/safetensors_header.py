"""The header of a safetensors file: what is where, written and strictly checked.

A file is an 8-byte little-endian length, a JSON header of that many bytes, and the data of all tensors, one after
another without gaps. The header maps each name to `dtype`, `shape` and `data_offsets` (first and end byte, counted
from the end of the header), and `__metadata__`, where there is one, to a map of strings.
Source: the description of the format in the safetensors project.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LENGTH_BYTES = 8
ALIGNMENT_BYTES = 8
# The limit of the format: a longer header is damage, or an attempt to fill the memory of the reader.
MAX_HEADER_BYTES = 100_000_000

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("<i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("<u1"),
    "BOOL": np.dtype("?"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class HeaderError(ValueError):
    """What is wrong with a header; whoever knows the file says which it is."""


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: data bytes begin to end, little-endian, C order."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def encode_header(entries: Sequence[TensorEntry], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the data: length, then JSON padded with spaces so that the data begin at a multiple of 8.

    Raises TypeError when the metadata are not strings.
    """
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise TypeError("the metadata of a safetensors file are strings by strings")
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for entry in entries:
        header[entry.name] = {
            "dtype": NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    # JSON of anybody may hold half a character (a surrogate), of which there are no bytes.
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def parse_header(text: bytes, data_bytes: int) -> tuple[list[TensorEntry], dict[str, str]]:
    """The entries, in the order of the data, and the metadata of a header.

    text: the JSON; data_bytes: bytes of the file after it, which the entries must fill exactly. Raises HeaderError.
    """
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except HeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise HeaderError("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError("its __metadata__ is not a map of strings")
    entries = sorted((_entry(*item) for item in header.items()), key=lambda entry: (entry.begin, entry.end))
    filled_bytes = 0
    for entry in entries:
        if entry.begin != filled_bytes:
            what = "overlaps the tensor before it" if entry.begin < filled_bytes else "leaves a gap before it"
            raise HeaderError(f"tensor {entry.name!r} {what}")
        filled_bytes = entry.end
    if filled_bytes != data_bytes:
        raise HeaderError(f"its tensors take {filled_bytes} bytes, but {data_bytes} follow the header")
    return entries, metadata


def _entry(name: str, fields: object) -> TensorEntry:
    """Check one tensor of the header by itself. Raises HeaderError."""
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"tensor {name!r} has not just dtype, shape and data_offsets")
    if not isinstance(fields["dtype"], str) or fields["dtype"] not in DTYPES:
        raise HeaderError(f"tensor {name!r} has dtype {fields['dtype']!r}; known are {', '.join(DTYPES)}")
    dtype: np.dtype = DTYPES[fields["dtype"]]
    shape, offsets = fields["shape"], fields["data_offsets"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise HeaderError(f"tensor {name!r} has an unusable shape or data_offsets")
    size_bytes = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != size_bytes:
        raise HeaderError(
            f"tensor {name!r} of shape {shape} needs {size_bytes} bytes, but has {offsets[1] - offsets[0]}"
        )
    return TensorEntry(name, dtype, tuple(shape), *offsets)


def _are_sizes(values: object) -> bool:
    # Not isinstance: True is an int, but no size. 2**63 and more is beyond what any array can have.
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise HeaderError("its header names something twice")
    return values
