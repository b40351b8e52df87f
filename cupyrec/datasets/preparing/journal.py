"""What a preparation has done so far, on the disk: a file to which a line is appended for each thing done.

A line is its CRC-32 in 8 hexadecimal digits, a space, and JSON. A process that is killed may leave a torn last line,
which does not count: what it told is done again.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cupyrec.datasets.durable_files import output_errors, write_durably
from cupyrec.datasets.prepared.manifest import Shard
from cupyrec.errors import DataError


class Stopped(Exception):
    """A stop was asked for; what is in the journal is done."""


class Journal:
    """The entries of a preparation, in the order in which they were made.

    {"shard": .., "new": .., "at": .., "skip": .., "tally": .., "unknown": ..}
                                  a shard is written, see ReadPhase; one after the other
    {"bad_rows": ..}              a file that bad rows are written to, beside the folder's own
    {"read": .., "negatives": .., "positives": ..}
                                  all is read: the samples and bad rows of each file, and what Tally has counted
    {"ordered": ..}               the vocabularies are written, with what is known of each
    {"final": .., "number": ..}   a shard is written with the ids that values keep; in any order
    """

    def __init__(self, path: Path, entries: list[dict[str, Any]]) -> None:
        self.entries = entries
        self._path = path

    @classmethod
    def start(cls, path: Path) -> Journal:
        """An empty journal. Raises OutputError."""
        write_durably(path, b"")
        return cls(path, [])

    @classmethod
    def resume(cls, path: Path) -> Journal:
        """Read a journal and cut off a torn last line. Raises DataError for other damage, OutputError."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise damaged(path, error.strerror or "cannot be read") from None
        entries, good_bytes = [], 0
        lines = content.split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            entry = _parse(line)
            if entry is None and number == len(lines) - 1:
                break
            if entry is None:
                raise damaged(path, f"line {number} is not what was written")
            entries.append(entry)
            good_bytes += len(line) + 1
        if good_bytes != len(content):
            with output_errors(path):
                os.truncate(path, good_bytes)
        return cls(path, entries)

    def entry(self, kind: str) -> dict[str, Any]:
        """The entry of a kind of which there is at most one; empty when there is none."""
        return next((entry for entry in self.entries if kind in entry), {})

    def shards(self) -> list[Shard]:
        """As reading wrote them, in order."""
        return [self._shard(entry["shard"]) for entry in self.entries if "shard" in entry]

    def negatives(self) -> tuple[int, ...] | None:
        """Of each dense feature, when all is read: see Tally."""
        found = self.entry("read").get("negatives")
        return None if found is None else tuple(found)

    def positives(self) -> int | None:
        """Samples with the label 1, when all is read: see Tally."""
        found: int | None = self.entry("read").get("positives")
        return found

    def unknown(self) -> tuple[float, ...] | None:
        """Of each category the share of values, 0 to 1, without an id in the vocabulary used; None if not counted."""
        shards = [entry for entry in self.entries if "shard" in entry]
        if not all("unknown" in entry for entry in shards):
            return None
        # Of each shard (F, 2): how many are unknown, of how many.
        unknown, values = np.sum([entry["unknown"] for entry in shards], axis=0).T
        return tuple((unknown / np.maximum(values, 1)).tolist())

    def final_shards(self) -> dict[int, Shard]:
        """By number, those that have been written with the ids that values keep."""
        return {entry["number"]: self._shard(entry["final"]) for entry in self.entries if "final" in entry}

    def _shard(self, entry: dict[str, Any]) -> Shard:
        try:
            return Shard(entry["file"], entry["samples"], entry["size_bytes"], tuple(entry["checksums"]))
        except (KeyError, TypeError) as error:
            raise damaged(self._path, repr(error)) from None

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry; when this returns it is on the disk. Raises OutputError."""
        text = json.dumps(entry).encode()
        with output_errors(self._path), open(self._path, "ab") as file:
            file.write(b"%08x %s\n" % (zlib.crc32(text), text))
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(entry)


def damaged(path: Path, reason: str) -> DataError:
    """The error for what an unfinished preparation needs, and is not as it was written."""
    return DataError(f"the unfinished preparation cannot go on: {reason}; start anew with --overwrite", path=path)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The entry of a line, None when it is not as it was written."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry
