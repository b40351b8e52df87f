"""Splits of prepared data: which samples are for training, validation and test, each kept in a small JSON file.

    {"format": "cupyrec-split", "version": 1, "how": "kaggle", "encoding": ..., "data_samples": of the folder,
     "samples": of this part, "ranges": [[first sample, the one after the last], ...]}

Nothing is copied: a part is ranges of the samples of its folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from cupyrec.datasets.durable_files import output_errors, write_durably
from cupyrec.datasets.prepared.manifest import InputFile, Manifest
from cupyrec.datasets.prepared.shard_reader import check_size
from cupyrec.errors import ConfigError, DataError, OutputError

FORMAT, FORMAT_VERSION = "cupyrec-split", 1
SPLIT_SUFFIX = ".json"
PARTS = ("train", "valid", "test")
KAGGLE_DAYS = 7

Range = tuple[int, int]


@dataclass(frozen=True)
class Split:
    """One part. how: in words; ranges: (first sample, the one after the last), ascending and apart; see the module."""

    how: str
    encoding: str
    data_samples: int
    ranges: tuple[Range, ...]

    @property
    def samples(self) -> int:
        return sum(stop - start for start, stop in self.ranges)


def by_share(samples: int, shares: Sequence[float]) -> dict[str, Range]:
    """Train, valid and test after each other, of these shares of the samples; cuts are rounded. Raises ConfigError."""
    if len(shares) != len(PARTS) or not all(share > 0 for share in shares) or not math.isclose(sum(shares), 1):
        raise ConfigError(
            f"shares must be three numbers above 0 that sum to 1, of {', '.join(PARTS)}, but are "
            f"{','.join(f'{share:g}' for share in shares)}"
        )
    cuts = [0, round(samples * shares[0]), round(samples * (shares[0] + shares[1])), samples]
    return _named(PARTS, cuts)


def by_day(inputs: Sequence[InputFile], days: Sequence[int]) -> dict[str, Range]:
    """Train, valid and test after each other, of so many input files each; together all. Raises ConfigError."""
    if len(days) != len(PARTS) or not all(day > 0 for day in days) or sum(days) != len(inputs):
        raise ConfigError(
            f"days must be three numbers from 1 on, of {', '.join(PARTS)}, that sum to the {len(inputs)} input files "
            f"of the data, but are {','.join(map(str, days))}"
        )
    ends = [0, *accumulate(file.samples for file in inputs)]
    return _named(PARTS, [ends[day] for day in (0, *accumulate(days))])


def kaggle(samples: int) -> dict[str, Range]:
    """The first six of seven days train; of the seventh the first half, the larger one, tests, the second validates.

    The Kaggle set does not say where its days end: each is a seventh, the first ones of one sample more where seven
    does not divide. As in facebookresearch/dlrm: getCriteoAdData in data_utils.py (divmod by 7 days, the rest to the
    first ones) and CriteoDataset in dlrm_data_pytorch.py (numpy.array_split of the last day in two: test, val).
    """
    return _halve_last_day(samples, samples // KAGGLE_DAYS)


def terabyte(inputs: Sequence[InputFile]) -> dict[str, Range]:
    """The last input file is cut in two as the last day of `kaggle`, all others train; as in the DLRM reference.

    Raises ConfigError when there is no other.
    """
    if len(inputs) < 2:
        raise ConfigError("the data come from one input file; there is none to train on beside the last")
    return _halve_last_day(sum(file.samples for file in inputs), inputs[-1].samples)


def _halve_last_day(samples: int, last_day: int) -> dict[str, Range]:
    first = samples - last_day
    return _named(("train", "test", "valid"), [0, first, first + (last_day + 1) // 2, samples])


def _named(names: Sequence[str], cuts: Sequence[int]) -> dict[str, Range]:
    """The parts between the cuts. Raises ConfigError when one is empty."""
    parts = dict(zip(names, pairwise(cuts), strict=True))
    for name, (start, stop) in parts.items():
        if start >= stop:
            raise ConfigError(f"the part {name} would be empty; split another way")
    return {name: parts[name] for name in PARTS}


def write_splits(
    folder: Path, content: Manifest, how: str, parts: Mapping[str, Range], *, overwrite: bool
) -> dict[Path, Split]:
    """Write NAME.json for each part into the folder. What is there already stays when it is the same.

    Raises ConfigError for data without labels, of which no part can be trained on; DataError when a shard is not there
    or has another size; OutputError when another split is there and overwrite is false, and when a file cannot be
    written.
    """
    if not content.labels:
        raise ConfigError(f"{folder}: the data have no labels, so there is nothing to split: predict takes them whole")
    for shard in content.shards:
        check_size(folder / shard.file, shard)
    splits = {
        folder / f"{name}{SPLIT_SUFFIX}": Split(how, content.encoding, content.samples, (part,))
        for name, part in parts.items()
    }
    texts = {path: _text_of(split) for path, split in splits.items()}
    written = {path: text for path, text in texts.items() if not _holds(path, text)}
    for path in written:
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: there is another split already; replace it with --overwrite")
    # A folder with parts of two splits would mix training and test data: rather it has some part not at all.
    for path in written:
        with output_errors(path):
            path.unlink(missing_ok=True)
    for path, text in written.items():
        write_durably(path, text.encode())
    return splits


def read_split(path: Path, content: Manifest) -> Split:
    """Read a split file of the data with this manifest. Raises DataError."""
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise DataError("there is no such split; make it with cupyrec split", path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"damaged: {error}", path=path) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError("not a split of prepared data", path=path)
    if found.get("version") != FORMAT_VERSION:
        raise DataError(
            f"format version {found.get('version')!r}, but this cupyrec reads {FORMAT_VERSION}; split the data again",
            path=path,
        )
    if found.get("encoding") != content.encoding or found.get("data_samples") != content.samples:
        raise DataError("made for other data than are in its folder now; run cupyrec split again", path=path)
    ranges: Any = found.get("ranges")
    if not isinstance(found.get("how"), str) or not _are_ranges(ranges, content.samples):
        raise DataError("damaged: its ranges are not ascending ranges of the samples; split the data again", path=path)
    split = Split(found["how"], content.encoding, content.samples, tuple((start, stop) for start, stop in ranges))
    if found.get("samples") != split.samples:
        raise DataError("damaged: its samples are not those of its ranges; split the data again", path=path)
    return split


def _are_ranges(ranges: Any, samples: int) -> bool:
    """Whether it is a list of at least one [start, stop] that ascend from 0 to at most samples and hold some each."""
    if not isinstance(ranges, list) or not ranges:
        return False
    reached = 0
    for each in ranges:
        if not isinstance(each, list) or len(each) != 2 or any(type(bound) is not int for bound in each):
            return False
        if not reached <= each[0] < each[1] <= samples:
            return False
        reached = each[1]
    return True


def _text_of(split: Split) -> str:
    return json.dumps(
        {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "how": split.how,
            "encoding": split.encoding,
            "data_samples": split.data_samples,
            "samples": split.samples,
            "ranges": split.ranges,
        }
    )


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False
