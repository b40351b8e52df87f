"""The first phase of a preparation: raw rows are read, encoded in order, and written shard by shard.

The calling thread reads text and puts everything in order. A pool parses the parts ahead of it and encodes the columns,
each column by one thread at a time; one thread more writes a shard while the next one comes together. So the result
does not depend on the number of threads.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from cupyrec.byte_sizes import format_bytes
from cupyrec.datasets.criteo_rows import BadLine
from cupyrec.datasets.line_chunks import MAX_LINE_BYTES, too_long
from cupyrec.datasets.prepared.manifest import InputFile
from cupyrec.datasets.prepared.shard_writer import id_type, write_rows
from cupyrec.datasets.preparing.bad_rows_file import BadRowsFile
from cupyrec.datasets.preparing.encode import Encoder, KnownEncoder, LearningEncoder
from cupyrec.datasets.preparing.journal import Journal, Stopped
from cupyrec.datasets.preparing.new_values import new_values_name, write_new_values
from cupyrec.datasets.preparing.prepare_options import ShardSizes
from cupyrec.datasets.preparing.raw_input import InputPart, InputPosition, RawInput
from cupyrec.datasets.preparing.raw_rows import RawRows
from cupyrec.datasets.preparing.shard_buffer import ShardBuffer
from cupyrec.datasets.preparing.tally import Tally
from cupyrec.errors import DataError, MemoryPlanError

# Parts that are encoded at once, for each thread: enough that handing out work costs little.
GROUP_PARTS = 4
# Groups that are parsed or being parsed at a time.
GROUPS_AHEAD = 3
# One that comes together and one that is written.
SHARDS_IN_MEMORY = 2
# While a block is written: each id as it was kept, and as it is written.
BYTES_PER_LIST_ID = 8
# Where lists end in a block is told by 32 bits.
MOST_BLOCK_IDS = 2**31 - 1


class ReadPhase:
    """Goes on from the last shard in the journal, or begins."""

    def __init__(
        self,
        raw: RawInput,
        encoders: Sequence[Encoder],
        journal: Journal,
        bad_rows: BadRowsFile,
        *,
        shard_path: Callable[[int], Path],
        work: Path,
        threads: int,
        memory_bytes: int,
        sizes: ShardSizes,
    ) -> None:
        """encoders: as they were after the last shard. shard_path: the file of a shard, by its number.

        work: the folder for new values. Raises MemoryPlanError when memory_bytes is too little for any data.
        """
        self._raw, self._encoders, self._journal, self._bad_rows = raw, encoders, journal, bad_rows
        self._shard_path, self._work, self._threads, self._sizes = shard_path, work, threads, sizes
        self._group_parts = GROUP_PARTS * threads
        self._memory_bytes = memory_bytes
        self._working_bytes = working_bytes(raw, threads, sizes)
        if memory_bytes < self._working_bytes:
            at_work = f"{threads} thread{'s' * (threads > 1)}"
            raise MemoryPlanError(
                f"--memory {format_bytes(memory_bytes)} is too little: rows on their way take "
                f"{format_bytes(self._working_bytes)} with {at_work}, and vocabularies come on top; give "
                f"{format_bytes(2 * self._working_bytes)} or more, or fewer --threads"
            )
        done = [entry for entry in journal.entries if "shard" in entry]
        self._shards = len(done)
        self._start, self._skip = InputPosition(), 0
        self._tally = Tally.start(len(raw.files), len(raw.dense))
        self._first_bad: DataError | None = None
        if done:
            self._start, self._skip = InputPosition(**done[-1]["at"]), done[-1]["skip"]
            self._tally = Tally(**done[-1]["tally"])
        bad_rows.resume(journal, self._tally.bad_rows, self._tally.bad_rows_bytes)
        multi_hot = [kind.multi_hot for kind in raw.kinds]
        self._buffer, self._written_buffer = (
            ShardBuffer(sizes.shard_samples, len(raw.dense), multi_hot, work / f"lists-{number}")
            for number in range(SHARDS_IN_MEMORY)
        )
        self._pending: list[RawRows] = []
        self._encoding: list[Future[None]] = []
        self._writing: Future[None] | None = None
        # Of rows with lists or texts, the most seen: a part, and what a block takes to be written.
        self._largest_part = self._block_bytes = 0
        self.rows_read = 0

    def run(self, on_progress: Callable[[float, int], None], stop: Callable[[], bool]) -> None:
        """Read to the end, and say so in the journal. on_progress: told the share done and the rows in shards to be.

        stop: asked often; when it says so Stopped is raised. Raises DataError, OutputError, MemoryPlanError. Whatever
        is raised, no thread is at work any more.
        """
        self._check_memory()
        with contextlib.ExitStack() as stack:
            self._pool = stack.enter_context(ThreadPoolExecutor(self._threads, "cupyrec-prepare"))
            self._writer = stack.enter_context(ThreadPoolExecutor(1, "cupyrec-write"))
            # Leaving the pools waits for what runs; what has not begun need not be done.
            stack.callback(self._pool.shutdown, wait=False, cancel_futures=True)
            parts = stack.enter_context(contextlib.closing(self._raw.parts(self._start)))
            for group in self._parsed_groups(parts):
                for part, rows, bad_lines in group:
                    self._add(part, rows, bad_lines)
                self._encode()
                on_progress(group[-1][0].bytes_done / self._raw.size_bytes, self._rows_so_far)
                if stop():
                    raise Stopped
            if self._buffer.samples:
                self._finish_shard(InputPosition(len(self._raw.files)), 0, self._tally)
            self._wait_for_writer()
            for buffer in (self._buffer, self._written_buffer):
                buffer.clear()
        if not self._shards:
            raise self._first_bad or DataError("there are no rows; is this the right file?", path=self._raw.files[0])
        inputs = [
            asdict(InputFile(str(file), samples, bad))
            for file, (samples, bad) in zip(self._raw.files, self._tally.inputs, strict=True)
        ]
        self._bad_rows.sync()
        self._journal.append({"read": inputs, "negatives": self._tally.negatives, "positives": self._tally.positives})

    @property
    def _rows_so_far(self) -> int:
        return self._shards * self._sizes.shard_samples + self._buffer.samples

    def _parsed_groups(
        self, parts: Iterator[InputPart]
    ) -> Iterator[list[tuple[InputPart, RawRows, Sequence[BadLine]]]]:
        """The parts in order, parsed, several at a time, while the pool parses the next ones."""
        ahead: deque[tuple[InputPart, Future[tuple[RawRows, Sequence[BadLine]]]]] = deque()
        group_bytes = self._group_parts * self._raw.part_bytes

        def fill() -> None:
            # Of parts that are larger than planned there are fewer.
            bytes_ahead = sum(max(part.nbytes, self._raw.part_bytes) for part, _ in ahead)
            while bytes_ahead < GROUPS_AHEAD * group_bytes and (part := next(parts, None)) is not None:
                ahead.append((part, self._pool.submit(part.parse)))
                bytes_ahead += max(part.nbytes, self._raw.part_bytes)
                self._largest_part = max(self._largest_part, part.nbytes)

        fill()
        while ahead:
            group: list[tuple[InputPart, RawRows, Sequence[BadLine]]] = []
            while ahead and len(group) < self._group_parts:
                if group and sum(part.nbytes for part, *_ in group) + ahead[0][0].nbytes > group_bytes:
                    break
                part, parsing = ahead.popleft()
                group.append((part, *parsing.result()))
            # Before the group is encoded, so that no thread of the pool waits for the next one.
            fill()
            yield group

    def _add(self, part: InputPart, rows: RawRows, bad_lines: Sequence[BadLine]) -> None:
        """Take up the rows of a part; shards that are complete with them are finished."""
        before = self._tally
        if bad_lines:
            self._report(part, bad_lines)
        self._tally = before.after(part.start.file, rows, len(bad_lines), self._bad_rows.size_bytes)
        taken = min(self._skip, len(rows))
        self._skip -= taken
        self.rows_read += len(rows) - taken
        while taken < len(rows):
            stop = min(taken + self._sizes.shard_samples - self._buffer.samples, len(rows))
            self._pending.append(rows[taken:stop])
            self._buffer.add(self._pending[-1])
            taken = stop
            if self._buffer.samples == self._sizes.shard_samples:
                self._encode()
                self._finish_shard(part.start, taken, before)

    def _report(self, part: InputPart, bad_lines: Sequence[BadLine]) -> None:
        """Write the bad rows down, or raise DataError for the first that must not be skipped."""
        file = self._raw.files[part.start.file]
        for bad in bad_lines:
            line = part.start.row + bad.line
            if len(bad.text) > MAX_LINE_BYTES:
                raise too_long(file, line)
            if not self._bad_rows.skips:
                raise DataError(f"{bad.reason}; {bad.advice}", path=file, line=line + 1, column=bad.column)
            if self._first_bad is None:
                reason = f"none of the lines is a good row; of this one: {bad.reason}"
                self._first_bad = DataError(reason, path=file, line=line + 1, column=bad.column)
        self._bad_rows.report(file, part.start.row, part.lines, bad_lines)

    def _encode(self) -> None:
        """Let the pool encode the rows taken up, once it has encoded those before."""
        self._wait_for_encoding()
        if self._pending:
            rows, self._pending = self._pending, []
            self._encoding = [
                self._pool.submit(self._buffer.add_ids, number, encoder, [part.columns[number] for part in rows])
                for number, encoder in enumerate(self._encoders)
            ]

    def _wait_for_encoding(self) -> None:
        for encoding in self._encoding:
            encoding.result()
        self._encoding = []
        self._check_memory()

    def _finish_shard(self, at: InputPosition, skip: int, tally: Tally) -> None:
        """Hand the shard to the writer. The next one begins `skip` good rows after the part that begins `at`."""
        self._wait_for_encoding()
        self._wait_for_writer()
        self._check_blocks(at)
        number, buffer, self._buffer = self._shards, self._buffer, self._written_buffer
        self._written_buffer = buffer
        self._buffer.clear()
        self._shards += 1
        entry = {"at": asdict(at), "skip": skip, "tally": asdict(tally)}
        types = [id_type(encoder.table_rows) for encoder in self._encoders]
        new = [encoder.take_new() for encoder in self._encoders if isinstance(encoder, LearningEncoder)]
        if unknown := [encoder.take_unknown() for encoder in self._encoders if isinstance(encoder, KnownEncoder)]:
            entry["unknown"] = unknown

        def write() -> None:
            path = self._shard_path(number)
            shard = write_rows(path, buffer.rows(), self._raw.categories, types, self._sizes.block_samples)
            entry["shard"] = asdict(shard)
            if new:
                with_texts = any(kind.values == "text" for kind in self._raw.kinds)
                entry["new"] = write_new_values(self._work / new_values_name(number), new, with_texts=with_texts)
            self._bad_rows.sync()
            self._journal.append(entry)

        self._writing = self._writer.submit(write)

    def _wait_for_writer(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _check_blocks(self, at: InputPosition) -> None:
        """Raise DataError or MemoryPlanError when the lists of a block, which is made as a whole, are too long."""
        most = self._buffer.most_list_ids(self._sizes.block_samples)
        for name, ids in zip(self._raw.categories, most, strict=True):
            if ids > MOST_BLOCK_IDS:
                raise DataError(
                    f"column {name} has {ids:,} values in {self._sizes.block_samples:,} rows one after the other, and "
                    f"{MOST_BLOCK_IDS:,} at most can be; shorten its lists",
                    path=self._raw.files[min(at.file, len(self._raw.files) - 1)],
                )
        self._block_bytes = max(self._block_bytes, sum(most) * BYTES_PER_LIST_ID)
        self._check_memory()

    def _check_memory(self) -> None:
        """Raise MemoryPlanError when the vocabularies, or rows with lists, have outgrown their part of the memory."""
        vocabularies = [encoder.memory_bytes for encoder in self._encoders]
        # Of parts larger than planned: those read ahead, and one that waits, comes together and is encoded.
        larger = max(self._largest_part - self._raw.part_bytes, 0) * (self._raw.parts_ahead + 3)
        rows = larger + self._block_bytes + self._working_bytes
        if sum(vocabularies) + rows <= self._memory_bytes:
            return
        if sum(vocabularies) + self._working_bytes <= self._memory_bytes:
            raise MemoryPlanError(
                f"rows with long lists or texts take {format_bytes(rows)} on their way, and the vocabularies "
                f"{format_bytes(sum(vocabularies))}, more than --memory {format_bytes(self._memory_bytes)}. Run the "
                "same command with a larger --memory to go on"
            )
        largest = vocabularies.index(max(vocabularies))
        raise MemoryPlanError(
            f"the vocabularies have grown to {format_bytes(sum(vocabularies))}, beyond --memory "
            f"{format_bytes(self._memory_bytes)}; the largest, of {self._raw.categories[largest]}, has "
            f"{self._encoders[largest].table_rows - 1:,} values. Run the same command with a larger --memory to go on, "
            "or prepare all data anew with --modulo or --hash-rows, which bound them"
        )


def working_bytes(raw: RawInput, threads: int, sizes: ShardSizes) -> int:
    """About what the rows on their way take of memory, unless single ones are very large."""
    lists = sum(kind.multi_hot for kind in raw.kinds)
    row_bytes = 4 * (1 + len(raw.dense) + len(raw.categories)) + 4 * lists
    # And the group that comes together, and the one that is encoded.
    parts = (GROUPS_AHEAD + 2) * GROUP_PARTS * threads + raw.parts_ahead
    return SHARDS_IN_MEMORY * sizes.shard_samples * row_bytes + parts * raw.part_bytes
