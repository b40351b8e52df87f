"""Stream a plain or compressed text file as chunks of whole lines, in bounded memory, with line numbers.

Blank lines at the very end of a file, which editors and tools leave there, are no lines; anywhere else they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cupyrec.counted import counted
from cupyrec.errors import DataError, first_line

# Small enough for the second-level cache, large enough that what a chunk costs as such does not count.
CHUNK_BYTES = 1 << 20
# A line of Criteo data has some 250 bytes, and never 1,000. Beyond this it is something else.
MAX_LINE_BYTES = 1 << 16
# How often counting notes where a line starts: seeking to a mark leaves at most so much to be skipped.
MARK_BYTES = 1 << 26

CODECS = {".gz": "gzip", ".zst": "zstd"}
MAGIC_NUMBERS = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
NEWLINE = ord("\n")
LINE_ENDS = b"\r\n"


@dataclass(frozen=True, slots=True)
class LineChunk:
    """Whole lines of a file.

    data:       the lines, each with its newline; the last line of a file is given one when it has none.
    first_line: 0-based number of the first of them in the file.
    lines:      how many they are, at least 1.
    offset:     byte position of the first line in the (decompressed) text.
    bytes_read: position in the file as stored, after the read that completed this chunk.
    """

    data: bytes
    first_line: int
    lines: int
    offset: int
    bytes_read: int


@dataclass(frozen=True, slots=True)
class LineCount:
    """The physical lines of one file, and (line, offset) of some line starts of it, in ascending order.

    Only a plain file has marks: nothing can be sought in a compressed one.
    """

    lines: int
    marks: tuple[tuple[int, int], ...] = ()

    def mark_before(self, line: int) -> tuple[int, int]:
        """The last mark at or before a 0-based line; (0, 0), the start of the file, when there is none."""
        return max((mark for mark in self.marks if mark[0] <= line), default=(0, 0))


def line_chunks(
    path: Path,
    *,
    start_line: int = 0,
    stop_line: int | None = None,
    mark: tuple[int, int] = (0, 0),
    chunk_bytes: int = CHUNK_BYTES,
) -> Generator[LineChunk, None, None]:
    """Yield the lines start_line (0-based) to stop_line (exclusive; None: the end) of a file.

    mark:        (line, offset) of a line at or before start_line; reading starts there. Plain files only.
    chunk_bytes: how much is read at once. A chunk has at most so many bytes and the start of a line.

    Raises DataError, after the lines before it, for what is not text: a NUL byte, or a line of more than
    MAX_LINE_BYTES whose end is not in sight; when compressed data are truncated or damaged; when the file
    cannot be read; when it is empty; and when it ends before stop_line.
    """
    line = mark[0]
    for chunk in _all_lines(path, mark, chunk_bytes):
        line = chunk.first_line + chunk.lines
        if line > start_line:
            yield _between(chunk, start_line, line if stop_line is None else stop_line)
        if stop_line is not None and line >= stop_line:
            return
    if line == 0:
        raise DataError("the file is empty", path=path)
    if stop_line is not None:
        raise DataError(
            f"the file has {counted(line, 'line')}, but had at least {stop_line} when they were counted; "
            "leave input files as they are while they are read",
            path=path,
        )


def count_lines(path: Path, *, chunk_bytes: int = CHUNK_BYTES) -> LineCount:
    """Count the physical lines of a file; the last one need not end in a newline. Raises as line_chunks."""
    lines = 0
    marks: list[tuple[int, int]] = []
    for chunk in line_chunks(path, chunk_bytes=chunk_bytes):
        if path.suffix not in CODECS and chunk.offset >= MARK_BYTES * (len(marks) + 1):
            marks.append((chunk.first_line, chunk.offset))
        lines = chunk.first_line + chunk.lines
    return LineCount(lines, tuple(marks))


def _between(chunk: LineChunk, start_line: int, stop_line: int) -> LineChunk:
    """The part of a chunk that lies in [start_line, stop_line); there must be some."""
    first = max(start_line - chunk.first_line, 0)
    stop = min(stop_line - chunk.first_line, chunk.lines)
    if first == 0 and stop == chunk.lines:
        return chunk
    ends = np.flatnonzero(np.frombuffer(chunk.data, dtype=np.uint8) == NEWLINE) + 1
    begin = int(ends[first - 1]) if first else 0
    return LineChunk(
        data=chunk.data[begin : int(ends[stop - 1])],
        first_line=chunk.first_line + first,
        lines=stop - first,
        offset=chunk.offset + begin,
        bytes_read=chunk.bytes_read,
    )


def _all_lines(path: Path, mark: tuple[int, int], chunk_bytes: int) -> Iterator[LineChunk]:
    """Yield all lines from a mark on. What follows the last newline of a block waits for the next block, and so do
    blank lines before it: the file may end with them.
    """
    line, offset = mark
    rest = b""
    with contextlib.closing(_blocks(path, offset, chunk_bytes)) as blocks:
        for block, bytes_read in blocks:
            text = rest + block
            # Beyond a NUL nothing is looked at: the lines before its line are the last to be had.
            nul = text.find(b"\0")
            end = _end_before_blank_lines(text) if nul < 0 else text.rfind(b"\n", 0, nul) + 1
            if end:
                data = text[:end]
                lines = data.count(b"\n")
                yield LineChunk(data, line, lines, offset, bytes_read)
                line, offset = line + lines, offset + end
            rest = text[end:]
            if nul >= 0:
                raise _not_text("it has NUL bytes", path, line)
            if len(rest) > MAX_LINE_BYTES:
                raise too_long(path, line)
        if rest.strip(LINE_ENDS):
            yield LineChunk(rest + b"\n", line, 1, offset, bytes_read)


def _end_before_blank_lines(text: bytes) -> int:
    """Where the whole lines of a text end, but for blank lines that nothing follows, unless these are very many."""
    end, filled = text.rfind(b"\n") + 1, len(text.rstrip(LINE_ENDS))
    # The last line that is not blank has no end yet.
    if filled >= end:
        return end
    last = text.find(b"\n", filled) + 1 if filled else 0
    return last if len(text) - last <= MAX_LINE_BYTES else end


def too_long(path: Path, line: int) -> DataError:
    """The error for a line (0-based) of more than MAX_LINE_BYTES."""
    return _not_text(f"a line is longer than {MAX_LINE_BYTES} bytes", path, line)


def _not_text(fault: str, path: Path, line: int) -> DataError:
    return DataError(
        f"this does not look like Criteo TSV data: {fault}; expected lines of 40 columns, plain, .gz or .zst",
        path=path,
        line=line + 1,
    )


def _blocks(path: Path, offset: int, block_bytes: int) -> Generator[tuple[bytes, int], None, None]:
    """Yield blocks of (decompressed) bytes from `offset` on, each with the position in the file as stored."""
    codec = CODECS.get(path.suffix)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError("its name is not valid UTF-8; rename it", path=path) from None
    try:
        with contextlib.ExitStack() as stack:
            stored = stack.enter_context(pa.OSFile(str(path), "rb"))
            source = stack.enter_context(pa.CompressedInputStream(stored, codec)) if codec else stored
            if offset:
                source.seek(offset)
            while block := source.read(block_bytes):
                if not codec and stored.tell() == len(block):
                    _refuse_hidden_compression(block, path)
                yield block, stored.tell()
    except (OSError, pa.ArrowException) as error:
        cause = first_line(error)
        if codec is None or isinstance(error, (FileNotFoundError, PermissionError)):
            raise DataError(f"cannot be read: {cause}", path=path) from None
        if not _starts_with(path, MAGIC_NUMBERS[path.suffix]):
            raise DataError(
                f"its name ends in {path.suffix}, but it does not begin as {codec} files do: rename it if it is not "
                "compressed, or else fetch it again",
                path=path,
            ) from None
        raise DataError(f"the {codec} file is truncated or damaged ({cause}); fetch it again", path=path) from None


def _starts_with(path: Path, magic: bytes) -> bool:
    """Whether a file begins so, as far as it goes."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return magic.startswith(file.read(len(magic)))
    return True  # what cannot be read is not judged


def _refuse_hidden_compression(block: bytes, path: Path) -> None:
    for suffix, magic in MAGIC_NUMBERS.items():
        if block.startswith(magic):
            raise DataError(f"the file is compressed, but its name does not end in {suffix}; rename it", path=path)
