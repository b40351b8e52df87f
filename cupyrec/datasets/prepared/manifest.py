"""`prepared.json`: what a folder of prepared data holds, and how its ids and dense values came about.

The data are Arrow IPC files, *shards* of SHARD_SAMPLES samples, each of record batches, *blocks* of BLOCK_SAMPLES
samples; only the last shard, and its last block, may be shorter. So sample s is in block s // BLOCK_SAMPLES. The
columns of a shard, in this order:

    label      float32, 0 or 1
    dense      fixed_size_list<float32>[dense features], transformed
    C1, ...    one column for each category: its ids within the table, in the narrowest of uint8, uint16 and uint32 that
               holds those of this shard; list<...> of them where the category is multi-hot

Data without labels have `"labels": false` in the manifest, and everywhere the label 0, which means nothing. Their
version is another, so that no earlier cupyrec takes these for labels; it alone is asked.

No column has nulls, no buffer is compressed. `checksum` is a CRC-32 of all else that the manifest says; who changes it
by hand leaves the checksum out.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from cupyrec.datasets.prepared.encoding import EarlierEncoding
from cupyrec.errors import DataError

MANIFEST_FILE = "prepared.json"
# What was asked for; there from the beginning of a preparation on.
PREPARATION_FILE = "preparation.json"
UNFINISHED = "is being prepared, or its preparation was stopped: the same `cupyrec prepare` goes on with it"
FORMAT, FORMAT_VERSION, UNLABELLED_VERSION = "cupyrec-prepared", 1, 2
BLOCK_SAMPLES = 2**14
SHARD_SAMPLES = 2**20
LABEL_COLUMN, DENSE_COLUMN = "label", "dense"
# Ids within a table are at most uint32.
MOST_TABLE_ROWS = 2**32

Count = TypeVar("Count", int, float)


@dataclass(frozen=True)
class Category:
    """One category column, and its embedding table.

    rows: of the table; multi_hot: whether a sample has a list of ids; vocabulary: its Parquet file, relative to the
    folder; None where ids are hashes.
    """

    name: str
    rows: int
    multi_hot: bool = False
    vocabulary: str | None = None


@dataclass(frozen=True)
class Shard:
    """One file. checksums: of each of its blocks, see block_checksum."""

    file: str
    samples: int
    size_bytes: int
    checksums: tuple[int, ...]


@dataclass(frozen=True)
class InputFile:
    """A raw file, as it was named: the samples it gave, which follow those of the file before it."""

    name: str
    samples: int
    bad_rows: int = 0


@dataclass(frozen=True)
class Manifest:
    """All of prepared.json.

    dense:           names of the dense features; dense_transform: by name, see dense_transforms.
    ids:             hash, first or frequency.
    encoding:        see prepared.encoding: data and models with the same one understand each other.
    labels:          whether the samples have labels.
    negatives:       (d,) values of each dense feature that were below 0 before the transform; None where not counted.
    positives:       samples with the label 1; None without labels, or where not counted.
    unknown:         (F,) shares of the values of each category, 0 to 1, that the vocabulary of other data gives no id
                     of their own; None for data with other ids, or where not counted.
    earlier:         the encodings out of which this one has grown, the first one first.
    """

    dense: tuple[str, ...]
    dense_transform: str
    ids: str
    categories: tuple[Category, ...]
    encoding: str
    inputs: tuple[InputFile, ...]
    shards: tuple[Shard, ...]
    labels: bool = True
    negatives: tuple[int, ...] | None = None
    positives: int | None = None
    unknown: tuple[float, ...] | None = None
    earlier: tuple[EarlierEncoding, ...] = ()

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def table_rows(self) -> tuple[int, ...]:
        """(F,) rows of each table."""
        return tuple(category.rows for category in self.categories)


def shard_name(number: int) -> str:
    """The file of a shard, 0-based."""
    return f"shard-{number:05}.arrow"


def block_checksum(block: pa.RecordBatch) -> int:
    """CRC-32 of the numbers of a block, column after column: of a list column its lengths, then its values."""
    checksum = 0
    for column in block.columns:
        for numbers in _numbers(column):
            checksum = zlib.crc32(numbers, checksum)
    return checksum


def _numbers(column: pa.Array) -> Iterable[Any]:
    """What a column without nulls holds, as contiguous NumPy arrays."""
    if pa.types.is_list(column.type):
        offsets = column.offsets.to_numpy()
        yield offsets[1:] - offsets[:-1]
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    yield column.to_numpy(zero_copy_only=True)


def manifest_json(manifest: Manifest) -> str:
    """The text of prepared.json."""
    version = FORMAT_VERSION if manifest.labels else UNLABELLED_VERSION
    content = {"format": FORMAT, "version": version, **asdict(manifest)}
    if manifest.labels:
        del content["labels"]
    for name in ("negatives", "positives", "unknown", "earlier"):
        if content[name] in (None, ()):
            del content[name]
    content["checksum"] = content_checksum(content)
    shards = content.pop("shards")
    # A line for each shard: of a large data set it is megabytes, and still to be read by people.
    lines = ",\n".join(f"    {json.dumps(shard)}" for shard in shards)
    return json.dumps(content, indent=2)[:-2] + f',\n  "shards": [\n{lines}\n  ]\n}}\n'


def content_checksum(content: dict[str, Any]) -> int:
    """CRC-32 of JSON, however it is laid out; `checksum` in it does not count."""
    counted = {key: value for key, value in content.items() if key != "checksum"}
    return zlib.crc32(json.dumps(counted, sort_keys=True).encode())


def read_manifest(folder: Path) -> Manifest:
    """Read and check prepared.json. Raises DataError that says what is wrong with it."""
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if (folder / PREPARATION_FILE).exists():
            raise DataError(UNFINISHED, path=folder) from None
        raise DataError(f"no prepared data: there is no {MANIFEST_FILE}", path=folder) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"damaged: {error}", path=path) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError("not the manifest of prepared data", path=path)
    if content.get("version") not in (FORMAT_VERSION, UNLABELLED_VERSION):
        raise DataError(
            f"format version {content.get('version')!r}, but this cupyrec reads {UNLABELLED_VERSION} at most; prepare "
            "the data again",
            path=path,
        )
    try:
        if "checksum" in content and content["checksum"] != content_checksum(content):
            raise ValueError("its checksum is wrong; prepare the data again")
        manifest = Manifest(
            dense=tuple(_text(name) for name in content["dense"]),
            dense_transform=_text(content["dense_transform"]),
            ids=_text(content["ids"]),
            categories=tuple(
                Category(_text(c["name"]), _number(c["rows"], 1), c["multi_hot"] is True, _vocabulary(c["vocabulary"]))
                for c in content["categories"]
            ),
            encoding=_text(content["encoding"]),
            inputs=tuple(
                InputFile(_text(i["name"]), _number(i["samples"]), _number(i["bad_rows"])) for i in content["inputs"]
            ),
            shards=tuple(
                Shard(
                    _file_name(s["file"]),
                    _number(s["samples"], 1),
                    _number(s["size_bytes"], 1),
                    tuple(_number(c) for c in s["checksums"]),
                )
                for s in content["shards"]
            ),
            labels=content["version"] == FORMAT_VERSION,
            negatives=_counted(content, "negatives", _number),
            positives=_number(content["positives"]) if "positives" in content else None,
            unknown=_counted(content, "unknown", _share),
            earlier=tuple(
                EarlierEncoding(_text(each["encoding"]), tuple(_number(rows, 1) for rows in each["table_rows"]))
                for each in content.get("earlier", [])
            ),
        )
        _check_whole(manifest)
    except KeyError as error:
        raise DataError(f"damaged: {error.args[0]} is missing", path=path) from None
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"damaged: {error}", path=path) from None
    return manifest


def _check_whole(manifest: Manifest) -> None:
    """Raise ValueError when the parts contradict each other."""
    if not manifest.dense or not manifest.categories or not manifest.shards:
        raise ValueError("there are no dense features, categories or shards")
    if max(manifest.table_rows) > MOST_TABLE_ROWS:
        raise ValueError("a table has more rows than 32 bits count")
    for number, shard in enumerate(manifest.shards):
        last = number == len(manifest.shards) - 1
        if shard.samples > SHARD_SAMPLES or (not last and shard.samples != SHARD_SAMPLES):
            raise ValueError(f"shard {shard.file} has {shard.samples} samples")
        if len(shard.checksums) != math.ceil(shard.samples / BLOCK_SAMPLES):
            raise ValueError(f"shard {shard.file} has {len(shard.checksums)} checksums")
    if len({shard.file for shard in manifest.shards}) != len(manifest.shards):
        raise ValueError("two shards have the same file")
    for counts, columns in ((manifest.negatives, manifest.dense), (manifest.unknown, manifest.categories)):
        if counts is not None and len(counts) != len(columns):
            raise ValueError("negative or unknown values are not counted for each column")
    if manifest.positives is not None and manifest.positives > manifest.samples:
        raise ValueError("there are more labels of 1 than samples")
    tables = [each.table_rows for each in manifest.earlier] + [manifest.table_rows]
    if any(len(rows) != len(manifest.categories) for rows in tables) or any(
        few > more for before, after in pairwise(tables) for few, more in zip(before, after, strict=True)
    ):
        raise ValueError("the tables of an earlier encoding do not fit those of the data")
    if sum(file.samples for file in manifest.inputs) != manifest.samples:
        raise ValueError("the samples of the inputs are not those of the shards")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _number(value: Any, least: int = 0) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{value!r} is not a number of at least {least}")
    return value


def _share(value: Any) -> float:
    if type(value) is not float or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not a share from 0 to 1")
    return value


def _counted(content: dict[str, Any], name: str, check: Callable[[Any], Count]) -> tuple[Count, ...] | None:
    """What older manifests, and those of other ids, do not have."""
    return tuple(check(value) for value in content[name]) if name in content else None


def _vocabulary(value: Any) -> str | None:
    # As with shards; it is written to as well, where vocabularies are copied.
    if value is not None and (Path(_text(value)).is_absolute() or ".." in Path(value).parts):
        raise ValueError(f"the vocabulary {value!r} is not in the folder")
    return value


def _file_name(value: Any) -> str:
    # A plain name: a manifest that came from elsewhere must not lead out of the folder.
    if _text(value) != Path(value).name or not value.endswith(".arrow"):
        raise ValueError(f"{value!r} is not the name of a shard")
    return value
