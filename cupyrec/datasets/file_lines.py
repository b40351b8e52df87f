"""The lines of several files, one file after another, or a range of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from cupyrec.datasets.line_chunks import CHUNK_BYTES, LineChunk, LineCount, count_lines, line_chunks
from cupyrec.errors import DataError


class FileLines:
    """Counts lines once and finds any range of them without reading what lies in other files.

    files: read in this order. Ranges made by `split` share the counts.
    """

    def __init__(self, files: Sequence[Path], *, chunk_bytes: int = CHUNK_BYTES):
        self.files = tuple(files)
        self._chunk_bytes = chunk_bytes
        self._counts: dict[Path, LineCount] = {}
        # From the start of the first file, the second exclusive; None: all lines, not counted yet.
        self._range: tuple[int, int] | None = None

    def count(self) -> int:
        """Physical lines of this range. Raises DataError as line_chunks does, when files must be read."""
        start, stop = self._counted_range()
        return stop - start

    def split(self, lines: int) -> tuple[FileLines, FileLines]:
        """The first `lines` lines, and the others."""
        start, stop = self._counted_range()
        return self._part(start, start + lines), self._part(start + lines, stop)

    def chunks(self) -> Iterator[tuple[Path, LineChunk, float]]:
        """Yield all lines in order, each chunk with its file and the share of the whole read by its end.

        The share is one of lines for a part, otherwise one of bytes as stored. Raises DataError as
        line_chunks does, also when a file has become shorter since it was counted.
        """
        parts = self._parts_of_files()
        sizes = [stored_bytes(file) if stop is None else stop - start for file, start, stop in parts]
        done = 0
        for (file, start, stop), size in zip(parts, sizes, strict=True):
            mark = (0, 0) if stop is None else self._counts[file].mark_before(start)
            chunks = line_chunks(file, start_line=start, stop_line=stop, mark=mark, chunk_bytes=self._chunk_bytes)
            with contextlib.closing(chunks):
                for chunk in chunks:
                    read = chunk.bytes_read if stop is None else chunk.first_line + chunk.lines - start
                    yield file, chunk, min((done + read) / sum(sizes), 1.0)
            done += size

    def _counted_range(self) -> tuple[int, int]:
        if self._range is not None:
            return self._range
        for file in self.files:
            if file not in self._counts:
                self._counts[file] = count_lines(file, chunk_bytes=self._chunk_bytes)
        return 0, sum(count.lines for count in self._counts.values())

    def _parts_of_files(self) -> list[tuple[Path, int, int | None]]:
        """The files of this range, each with its first line (0-based) and its last (exclusive; None: all)."""
        if self._range is None:
            return [(file, 0, None) for file in self.files]
        start, stop = self._range
        parts: list[tuple[Path, int, int | None]] = []
        before = 0
        for file in self.files:
            lines = self._counts[file].lines
            first, last = max(start - before, 0), min(stop - before, lines)
            if first < last:
                parts.append((file, first, last))
            before += lines
        return parts

    def _part(self, start: int, stop: int) -> FileLines:
        part = FileLines(self.files, chunk_bytes=self._chunk_bytes)
        part._counts, part._range = self._counts, (start, stop)
        return part


def stored_bytes(file: Path) -> int:
    """The size of a file as it is, compressed or not. Raises DataError."""
    try:
        return file.stat().st_size
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=file) from None
