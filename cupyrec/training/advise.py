"""How large a scratchpad should be: read the ids of the data once, then try sizes and policies on them.

While reading, what can be had exactly is counted exactly: rows of each step, and the different rows of every window of
steps that a pipeline holds at once. The rows of each step, all of them or a sample (advise_sample), go to a temporary
file, from which every policy is replayed at every size: the planner itself, Belady's MIN, the rows used most.
Memory is bounded, whatever the size of data and tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from cupyrec.datasets.source import Source, read_batches
from cupyrec.devices.cpu import CpuStream
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.row_counts import add_lookups
from cupyrec.errors import DataError
from cupyrec.pipeline.lookahead import BATCHES_PER_TURNOVER
from cupyrec.pipeline.stages import PIPELINED
from cupyrec.scratchpad_size import scratchpad_slots
from cupyrec.training.advise_policies import POLICIES, Replay
from cupyrec.training.advise_result import Advice, PolicyCost, SizeAdvice
from cupyrec.training.advise_sample import RowSample
from cupyrec.training.advise_spool import UsageSpool
from cupyrec.training.advise_window import WindowRows

FLOAT_BYTES = 4
# Steps whose rows are held while one is planned: with slots for all of them, there is always room.
WINDOW_STEPS = PIPELINED.holds.past + 1 + PIPELINED.holds.future
# The first half of the steps fills the scratchpad and counts for nothing.
WARM_UP_SHARE = 0.5
# Of the progress shown.
READING_SHARE = 0.5
# Of the sizes that are tried when none are given, one to the next: the table then fits on a screen.
MOST_FACTORS = 7


@dataclass(frozen=True)
class Question:
    """What is asked, and what a row and a batch take.

    record_bytes: of a row with its optimizer state; dimension: D; sizes: of the scratchpad, as --scratchpad takes them;
    empty for some that suit the data; lookahead: K, None for 4 S/U at each size; max_steps: None for all;
    row_counts_known: whether training will be told how often each row is used.
    """

    batch_size: int
    record_bytes: int
    dimension: int
    sizes: Sequence[str] = ()
    lookahead: int | None = None
    max_steps: int | None = None
    row_counts_known: bool = False


class _Stopped(Exception):
    """The user asked for an end."""


def advise(
    source: Source,
    question: Question,
    *,
    row_counts: np.ndarray | None = None,
    sample: RowSample | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Advice | None:
    """Read the data and try the sizes; None when it was asked to stop before the end.

    row_counts: (R,) int64, modified: the lookups of each row are added; None where nobody wants them. sample: holds the
    rows that are simulated, a new one when not given. on_progress: is told the share done, 0 to 1.

    Raises ConfigError on a size that is none, OutputError when temporary files cannot be written, DataError when the
    source has no samples, and what the source raises.
    """
    rows = sum(source.table_rows)
    slots_of = {size: scratchpad_slots(size, rows, question.record_bytes) for size in question.sizes}
    sample = sample or RowSample()

    def stop_if_asked() -> None:
        if stop_requested():
            raise _Stopped

    try:
        with UsageSpool() as spool:
            seen = _read(source, question, spool, sample, row_counts, stop_if_asked, on_progress)
            spool.link(sample.numbers(), sample.rows)
            return _Trial(source, question, spool, sample, seen, stop_if_asked, on_progress).advice(slots_of)
    except _Stopped:
        return None


def sizes_between(least: int, most: int) -> list[int]:
    """Sizes from `least` to what holds `most` rows, evenly spaced: each about twice the one before, or more where those
    would be more than MOST_FACTORS. All but the first are rounded up to two digits.
    """
    factors = min(math.ceil(math.log2(max(most / least, 1))), MOST_FACTORS)
    sizes = [least]
    for number in range(1, factors + 1):
        exact = math.ceil(least * (most / least) ** (number / factors))
        unit = 10 ** max(len(str(exact)) - 2, 0)
        sizes.append(-(-exact // unit) * unit)
    return sizes


@dataclass
class _Seen:
    """What reading counted exactly, over all steps; unique_rows: (steps,)."""

    samples: int
    batch_samples: int
    lookups: int
    window_rows: int
    unique_rows: np.ndarray


def _read(
    source: Source,
    question: Question,
    spool: UsageSpool,
    sample: RowSample,
    row_counts: np.ndarray | None,
    stop_if_asked: Callable[[], None],
    on_progress: Callable[[float], None],
) -> _Seen:
    coalescer, window = Coalescer(CpuStream(), source.table_rows), WindowRows(WINDOW_STEPS)
    samples = batch_samples = lookups = window_rows = 0
    unique_rows: list[int] = []
    share = 0.0

    def progress(of_data: float) -> None:
        nonlocal share
        of_steps = len(unique_rows) / question.max_steps if question.max_steps else 0.0
        share = max(share, READING_SHARE * of_data, READING_SHARE * min(of_steps, 1.0))
        on_progress(share)

    with closing(read_batches(source, question.batch_size, on_progress=progress)) as batches:
        for batch in islice(batches, question.max_steps):
            stop_if_asked()
            plan = coalescer.plan(batch)
            spool.append(sample.add(plan.unique_rows, plan.segment_offsets))
            if row_counts is not None:
                add_lookups(row_counts, batch.rows)
            window_rows = max(window_rows, window.add(plan.unique_rows))
            samples += batch.samples
            batch_samples = max(batch_samples, batch.samples)
            lookups += batch.lookups
            unique_rows.append(plan.unique)
    if not lookups:
        raise DataError("the data look up no row")
    return _Seen(samples, batch_samples, lookups, window_rows, np.array(unique_rows, np.int64))


class _Trial:
    """Tries sizes and policies on what was read."""

    def __init__(
        self,
        source: Source,
        question: Question,
        spool: UsageSpool,
        sample: RowSample,
        seen: _Seen,
        stop_if_asked: Callable[[], None],
        on_progress: Callable[[float], None],
    ) -> None:
        self._rows, self._features = sum(source.table_rows), len(source.table_rows)
        self._question, self._spool, self._sample, self._seen = question, spool, sample, seen
        self._steps = spool.batches_taken
        self._counted_from = int(self._steps * WARM_UP_SHARE)
        self._stop_if_asked, self._on_progress = stop_if_asked, on_progress
        self._batches_done = self._batches_in_all = 0
        self._replay = Replay(
            spool,
            sample.lookups(),
            counted_from=self._counted_from,
            row_counts_known=question.row_counts_known,
            on_batch=self._batch_done,
        )

    def advice(self, slots_of: dict[str, int]) -> Advice:
        """slots_of: the slots of each size. The size from which on nothing bubbles is tried as well."""
        seen, most_unique = self._seen, int(self._seen.unique_rows.max())
        sizes = {slots: size for size, slots in reversed(slots_of.items())}
        if not sizes:
            found = sizes_between(seen.window_rows, min(self._rows_used, self._rows))
            # One that is too small for comfort, so that it is seen what that costs.
            found.append(max(seen.window_rows // 2, most_unique))
            sizes = {slots: str(slots) for slots in found}
        sizes.setdefault(seen.window_rows, str(seen.window_rows))
        self._batches_in_all = len(sizes) * len(POLICIES) * self._steps
        advised = tuple(self._size(sizes[slots], slots) for slots in sorted(sizes))
        self._on_progress(1.0)
        return Advice(
            samples=seen.samples,
            steps=self._steps,
            batch_samples=seen.batch_samples,
            lookups_per_step=seen.lookups / self._steps,
            unique_rows_per_step=float(seen.unique_rows.mean()),
            most_unique_rows=most_unique,
            rows=self._rows,
            rows_used=self._rows_used,
            record_bytes=self._question.record_bytes,
            pooled_bytes=self._pooled_bytes,
            never_bubbles_rows=seen.window_rows,
            sample_rate=self._sample.rate,
            counted_steps=self._steps - self._counted_from,
            sizes=advised,
        )

    @property
    def _rows_used(self) -> int:
        return round(self._sample.rows / self._sample.rate)

    @property
    def _pooled_bytes(self) -> int:
        """Of the pooled vectors of a batch, (B, F, D) float32."""
        return self._seen.batch_samples * self._features * self._question.dimension * FLOAT_BYTES

    def _size(self, size: str, slots: int) -> SizeAdvice:
        unique = max(float(self._seen.unique_rows.mean()), 1.0)
        wanted = self._question.lookahead or -int(-BATCHES_PER_TURNOVER * slots // unique)
        lookahead = max(wanted, PIPELINED.holds.future)
        costs, full = {}, True
        if slots >= self._seen.unique_rows.max():
            # A sampled batch may by chance have more than its share of rows.
            sampled_slots = max(round(slots * self._sample.rate), self._spool.most_unique, 1)
            for policy in POLICIES:
                moved = self._replay.run(policy, sampled_slots, lookahead)
                full &= moved.full
                costs[policy] = self._cost(policy, moved.misses, moved.evictions, moved.bubble_steps)
        else:
            self._batches_done += len(POLICIES) * self._steps
        never_bubbles = slots >= self._seen.window_rows
        return SizeAdvice(
            size, slots, slots * self._question.record_bytes, lookahead, costs, never_bubbles, full and bool(costs)
        )

    def _cost(self, policy: str, misses: int, evictions: int, bubble_steps: int) -> PolicyCost:
        """From rows of the sample in the counted steps to averages over all rows."""
        counted_steps, rate = self._steps - self._counted_from, self._sample.rate
        unique = int(self._seen.unique_rows[self._counted_from :].sum())
        # Uses are known exactly. Misses alone are estimated: they are spread over many rows, hits over a few hot ones.
        hit_rate = max(1 - misses / rate / unique, 0.0) if unique else 1.0
        record_bytes = self._question.record_bytes / rate / counted_steps
        bytes_in, bytes_out = misses * record_bytes, evictions * record_bytes
        if policy == "static":
            # Its rows never move. Lookups of the other rows are pooled on the host, and their gradients come back.
            bytes_in = bytes_out = float(self._pooled_bytes)
        return PolicyCost(hit_rate, bytes_in, bytes_out, bubble_steps / counted_steps)

    def _batch_done(self) -> None:
        self._stop_if_asked()
        self._batches_done += 1
        self._on_progress(READING_SHARE + (1 - READING_SHARE) * self._batches_done / self._batches_in_all)
