"""Read Criteo click logs, as they are downloaded, into batches."""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from cupyrec.argument_kinds import PATH, check_kind
from cupyrec.batch import Batch
from cupyrec.config import check_share
from cupyrec.counted import counted
from cupyrec.datasets.assemble_batches import assemble_batches
from cupyrec.datasets.bad_rows import BadRowLog
from cupyrec.datasets.criteo_rows import DENSE_FEATURES, SPARSE_FEATURES, BadLine, parse_rows
from cupyrec.datasets.file_lines import FileLines
from cupyrec.datasets.hashed_rows import HashedRows, hash_keys
from cupyrec.datasets.input_files import find_input_files
from cupyrec.datasets.line_chunks import CHUNK_BYTES, MAX_LINE_BYTES, LineChunk, too_long
from cupyrec.datasets.prepared.encoding import encoding_id
from cupyrec.datasets.read_ahead import batches_ahead, read_ahead
from cupyrec.errors import ConfigError, DataError

# How they become dense features; see dense_transforms.
DENSE_TRANSFORM = "dlrm"

# Global rows are int64.
MOST_ROWS = 2**63 - 1


class CriteoFiles:
    """Files of the Criteo data sets, or a range of their lines, as a source of batches.

    Tab-separated, without a header: the label, 13 integers and 26 hexadecimal categories; plain, .gz or .zst.
    As in the DLRM reference, dense = log(max(integer, 0) + 1), a category's id is its value modulo the rows
    of its table, and a blank counts as 0. Memory does not grow with the size of the files.

    files:          the files to read, in order.
    table_rows:     (26,) rows of each table.
    dense_features: 13.
    labelled:       whether the rows have labels; where not, those of the batches are all 0 and mean nothing.
    """

    dense_features: int = DENSE_FEATURES
    validated = True

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        hash_rows: int | Sequence[int] = 100_000,
        on_bad_row: Literal["error", "skip"] = "error",
        bad_rows_path: str | Path | None = None,
        labels: bool = True,
        _chunk_bytes: int = CHUNK_BYTES,
    ):
        """Find the files; none is read yet.

        paths:         files, folders and patterns such as `day_*`; see input_files.find_input_files.
        hash_rows:     rows of every table, or of each of the 26.
        on_bad_row:    `error` raises at the first row that cannot be parsed, before the batch that would hold
                       it; `skip` leaves such rows out and counts them.
        bad_rows_path: where `skip` writes the rows left out; see bad_rows.BadRowLog. None: nowhere.
        labels:        whether rows begin with a label; those without can be predicted, and no more.

        Raises ConfigError for the settings, DataError for the files.
        """
        if on_bad_row not in ("error", "skip"):
            raise ConfigError(f"on_bad_row must be 'error' or 'skip', but is {on_bad_row!r}")
        check_kind(bool, "True or False", labels=labels)
        check_kind(PATH | None, "a path", bad_rows_path=bad_rows_path)
        self.table_rows: tuple[int, ...] = _table_rows(hash_rows)
        self.labelled = labels
        self.files: tuple[Path, ...] = find_input_files(paths)
        if bad_rows_path is not None and Path(bad_rows_path).resolve() in [f.resolve() for f in self.files]:
            raise ConfigError(f"the bad rows would overwrite the input file {bad_rows_path}; name another file")
        self._skip_bad_rows = on_bad_row == "skip"
        self._bad_row_log = BadRowLog(bad_rows_path)
        self._lines = FileLines(self.files, chunk_bytes=_chunk_bytes)

    @property
    def encoding(self) -> str:
        """How values become ids and dense features, as of prepared data; see prepared.encoding."""
        return encoding_id(DENSE_TRANSFORM, self.table_rows, [None] * len(self.table_rows))

    @property
    def bad_rows(self) -> int:
        """Different bad rows skipped so far, those met by reading ahead included.

        Sources made by split_tail count together with the one they come from.
        """
        return self._bad_row_log.count

    def discard_bad_rows(self) -> None:
        """Remove the file of the bad rows, as nothing came of the data; those that were read count no less."""
        self._bad_row_log.discard()

    def count_lines(self) -> int:
        """Physical lines of this source. Reads all files once; afterwards the number is known.

        Raises DataError for what no reading can get past, such as damaged compressed files.
        """
        return self._lines.count()

    def split_tail(self, share: float) -> tuple[CriteoFiles, CriteoFiles]:
        """Two sources: all lines but the last `share` of them, and these.

        share: between 0 and 1, rounded to whole lines. Files that lie outside a part are not opened for it.
        Raises ConfigError when share is not between 0 and 1 or a part would be empty, DataError as
        count_lines does.
        """
        check_share(share, "lines")
        lines = self.count_lines()
        tail_lines = round(lines * share)
        if not 0 < tail_lines < lines:
            raise ConfigError(
                f"a share of {share} of {counted(lines, 'line')} leaves one part empty; choose another share"
            )
        head, tail = copy.copy(self), copy.copy(self)
        head._lines, tail._lines = self._lines.split(lines - tail_lines)
        return head, tail

    def batches(
        self, batch_size: int, *, on_progress: Callable[[float], None] | None = None
    ) -> Generator[Batch, None, None]:
        """Yield all rows once, in order, as batches of batch_size samples, the last one with what is left.

        on_progress: called before each batch is handed out, by the consumer's thread, with the share (0 to 1)
            of the input that is used up with it: of its bytes as stored, or, for a part made by split_tail, of
            its lines. The share never falls; after the last batch there is one call more, with 1.

        A background thread reads ahead; it ends with the generator, which may be closed at any time. Several
        generators may be at work at once. Raises ConfigError for batch_size and, on the way, DataError with
        file, line and column, or OutputError when bad rows cannot be written.
        """
        return self._deliver(_whole_number(batch_size, "the batch size"), on_progress)

    def _deliver(self, batch_size: int, on_progress: Callable[[float], None] | None) -> Generator[Batch, None, None]:
        batches = assemble_batches(self._good_rows(), batch_size)
        with contextlib.closing(read_ahead(batches, batches_ahead(batch_size))) as ahead:
            for batch, progress in ahead:
                if on_progress is not None:
                    on_progress(progress)
                yield batch
        if on_progress is not None:
            on_progress(1.0)

    def _good_rows(self) -> Iterator[tuple[HashedRows, float, float]]:
        """Yield the good rows chunk by chunk, each with the progress before and after it."""
        good_rows, lines, progress = 0, 0, 0.0
        for file, chunk, reached in self._lines.chunks():
            rows, fatal = self._parse(file, chunk)
            yield rows, progress, reached
            if fatal is not None:
                raise fatal
            good_rows, lines, progress = good_rows + len(rows), lines + chunk.lines, reached
        if not good_rows:
            first = self._bad_row_log.first_reason
            raise DataError(
                f"no row of Criteo data in {counted(lines, 'line')}{first and f' (the first: {first})'}; is this the "
                "right file?",
                path=self.files[0],
            )

    def _parse(self, file: Path, chunk: LineChunk) -> tuple[HashedRows, DataError | None]:
        """The good rows of a chunk up to the first line that must not be skipped, and the error for it."""
        parsed, bad_lines = parse_rows(chunk.data, DENSE_TRANSFORM, labelled=self.labelled)
        rows = hash_keys(parsed, self.table_rows)
        if not bad_lines:
            return rows, None
        fatal, lines = None, chunk.lines
        for skipped, bad in enumerate(bad_lines):
            fatal = self._error_for(file, chunk.first_line + bad.line, bad)
            if fatal is not None:
                rows, bad_lines, lines = rows[: bad.line - skipped], bad_lines[:skipped], bad.line
                break
        if bad_lines:
            self._bad_row_log.report(file, chunk.first_line, lines, bad_lines)
        return rows, fatal

    def _error_for(self, file: Path, line: int, bad: BadLine) -> DataError | None:
        """The error that a bad line calls for, None when it may be skipped. line: 0-based, in the file."""
        if len(bad.text) > MAX_LINE_BYTES:
            return too_long(file, line)
        if self._skip_bad_rows:
            return None
        return DataError(f"{bad.reason}; {bad.advice}", path=file, line=line + 1, column=bad.column)


def _table_rows(hash_rows: int | Sequence[int]) -> tuple[int, ...]:
    sizes = list(hash_rows) if isinstance(hash_rows, Iterable) else [hash_rows] * SPARSE_FEATURES
    if len(sizes) != SPARSE_FEATURES:
        raise ConfigError(
            f"expected one number of rows for all tables or {SPARSE_FEATURES} of them, and found {len(sizes)}"
        )
    table_rows = tuple(_whole_number(size, "the rows of a table") for size in sizes)
    if sum(table_rows) > MOST_ROWS:
        raise ConfigError(f"the tables have {sum(table_rows)} rows together; at most {MOST_ROWS} can be numbered")
    return table_rows


def _whole_number(value: int, what: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ConfigError(f"{what} must be a whole number from 1 on, but is {value!r}")
    return number
