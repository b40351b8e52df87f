"""How large a scratchpad should be: read the ids of the data once, then try sizes and policies on them.

While reading, what can be had exactly is counted exactly: rows of each step, and the different rows of every window of
steps that a pipeline holds at once. The rows of each step, all of them or a sample (advice/sample.py), go to a
temporary file, from which every policy is replayed at every size: the planner itself, Belady's MIN, the rows used most.
Memory is bounded, whatever the size of data and tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from cupyrec.advice.policies import POLICIES, Moved, Replay
from cupyrec.advice.result import Advice, PolicyCost, SizeAdvice
from cupyrec.advice.sample import RowSample
from cupyrec.advice.usage import Usage
from cupyrec.datasets.source import Source, read_batches
from cupyrec.errors import ConfigError, DataError
from cupyrec.pipeline.known_batches import size_with_margin
from cupyrec.pipeline.lookahead import BATCHES_PER_TURNOVER
from cupyrec.pipeline.stages import PIPELINED
from cupyrec.scratchpad_size import scratchpad_slots
from cupyrec.training.scratchpad_memory import FLOAT_BYTES

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


class _Watch:
    """Tells how far the work is, and ends it where that is asked for."""

    def __init__(self, stop_requested: Callable[[], bool], on_progress: Callable[[float], None]) -> None:
        self._stop_requested, self._on_progress = stop_requested, on_progress
        self._shown = 0.0

    def stop_if_asked(self) -> None:
        if self._stop_requested():
            raise _Stopped

    def show(self, share: float) -> None:
        """share: done of all work; one that falls is not shown."""
        self._shown = max(self._shown, share)
        self._on_progress(self._shown)


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
    rows that are simulated, a new one when not given. on_progress: is told the share done, 0 to 1, never falling.

    Raises ConfigError on a size that is none, OutputError when temporary files cannot be written, DataError when the
    data look up no row, and what the source raises.
    """
    rows, watch = sum(source.table_rows), _Watch(stop_requested, on_progress)
    least = PIPELINED.holds.future
    if question.lookahead is not None and question.lookahead < least:
        raise ConfigError(f"the look-ahead (--lookahead) must be at least {least}, but is {question.lookahead}")
    size_of = {scratchpad_slots(size, rows, question.record_bytes): size for size in reversed(question.sizes)}
    try:
        with Usage(source.table_rows, sample=sample, row_counts=row_counts) as usage:
            _read(source, question, usage, watch)
            return _Trial(question, usage, watch).advice(size_of)
    except _Stopped:
        return None


def _read(source: Source, question: Question, usage: Usage, watch: _Watch) -> None:
    def progress(of_data: float) -> None:
        of_steps = usage.steps / question.max_steps if question.max_steps else 0.0
        watch.show(READING_SHARE * max(of_data, of_steps))

    with closing(read_batches(source, question.batch_size, on_progress=progress)) as batches:
        for batch in islice(batches, question.max_steps):
            watch.stop_if_asked()
            usage.add(batch)
    if not usage.lookups:
        raise DataError("the data look up no row")
    usage.end()


class _Trial:
    """Tries sizes and policies on what was read."""

    def __init__(self, question: Question, usage: Usage, watch: _Watch) -> None:
        self._question, self._usage, self._watch = question, usage, watch
        self._unique_rows = usage.unique_rows
        self._counted_from = int(usage.steps * WARM_UP_SHARE)
        self._counted_steps = usage.steps - self._counted_from
        # (B, F, D) float32.
        self._pooled_bytes = usage.batch_samples * usage.features * question.dimension * FLOAT_BYTES
        self._replays_done = self._replays = 0
        self._replay = Replay(
            usage.spool,
            usage.sample.lookups(),
            counted_from=self._counted_from,
            row_counts_known=question.row_counts_known,
            on_batch=self._batch_begins,
        )

    def advice(self, size_of: dict[int, str]) -> Advice:
        """size_of: from slots to the sizes that were asked for. That from which on nothing bubbles is tried as well,
        and one that is safe where not all is read.
        """
        usage, most_unique = self._usage, int(self._unique_rows.max())
        never_bubbles, max_steps = usage.window_rows, self._question.max_steps
        is_cut = max_steps is not None and usage.steps >= max_steps
        safe = min(size_with_margin(most_unique), usage.rows) if is_cut else 0
        if not size_of:
            found = sizes_between(never_bubbles, usage.rows_used)
            # One that is too small for comfort, so that it is seen what that costs.
            found.append(max(never_bubbles // 2, most_unique))
            size_of = {slots: str(slots) for slots in (min(each, usage.rows) for each in found)}
        size_of = {slots: str(slots) for slots in (never_bubbles, max(never_bubbles, safe))} | size_of
        self._replays = len(POLICIES) * sum(slots >= most_unique for slots in size_of)
        sizes = tuple(self._size(size_of[slots], slots, most_unique) for slots in sorted(size_of))
        self._watch.show(1.0)
        return Advice(
            samples=usage.samples,
            steps=usage.steps,
            batch_samples=usage.batch_samples,
            lookups_per_step=usage.lookups / usage.steps,
            unique_rows_per_step=float(self._unique_rows.mean()),
            most_unique_rows=most_unique,
            rows=usage.rows,
            rows_used=usage.rows_used,
            record_bytes=self._question.record_bytes,
            pooled_bytes=self._pooled_bytes,
            never_bubbles_rows=never_bubbles,
            sample_rate=usage.sample.rate,
            counted_steps=self._counted_steps,
            sizes=sizes,
            safe_rows=safe,
        )

    def _size(self, size: str, slots: int, most_unique: int) -> SizeAdvice:
        usage = self._usage
        turnover = math.ceil(BATCHES_PER_TURNOVER * slots / float(self._unique_rows.mean()))
        # More steps than there are nobody knows.
        lookahead = max(min(self._question.lookahead or turnover, usage.steps), PIPELINED.holds.future)
        moved: dict[str, Moved] = {}
        if slots >= most_unique:
            # A sampled batch may by chance have more than its share of rows.
            sampled_slots = max(round(slots * usage.sample.rate), usage.spool.most_unique, 1)
            for policy in POLICIES:
                moved[policy] = self._replay.run(policy, sampled_slots, lookahead)
                self._replays_done += 1
        return SizeAdvice(
            size=size,
            slots=slots,
            size_bytes=slots * self._question.record_bytes,
            lookahead=lookahead,
            costs={policy: self._cost(policy, each) for policy, each in moved.items()},
            never_bubbles=slots >= usage.window_rows,
            full=bool(moved) and all(each.full for each in moved.values()),
        )

    def _cost(self, policy: str, moved: Moved) -> PolicyCost:
        """From rows of the sample in the counted steps to averages over all rows."""
        rate = self._usage.sample.rate
        uses = int(self._unique_rows[self._counted_from :].sum())
        # Uses are known exactly. Misses alone are estimated: they are spread over many rows, hits over a few hot ones.
        hit_rate = max(1 - moved.misses / rate / max(uses, 1), 0.0)
        record_bytes = self._question.record_bytes / rate / self._counted_steps
        bytes_in, bytes_out = moved.misses * record_bytes, moved.evictions * record_bytes
        if policy == "static":
            # Its rows never move. Lookups of the other rows are pooled on the host, and their gradients come back.
            bytes_in = bytes_out = float(self._pooled_bytes)
        return PolicyCost(hit_rate, bytes_in, bytes_out, moved.bubble_steps / self._counted_steps)

    def _batch_begins(self, step: int) -> None:
        self._watch.stop_if_asked()
        done = (self._replays_done + step / self._usage.steps) / self._replays
        self._watch.show(READING_SHARE + (1 - READING_SHARE) * done)


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
