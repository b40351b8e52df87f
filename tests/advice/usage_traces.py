"""Data of which only the rows matter, as a source; and what policies do on them, counted in slow, obvious Python."""

from __future__ import annotations

import numpy as np
from reference_planner import reference_plans

from cupyrec.batch import Batch
from cupyrec.datasets.source import BatchList

NEVER = float("inf")


def source_of(batches, rows):
    """A source with one table and bags of one lookup. batches: lists of rows, with repetitions."""
    return BatchList([batch_of(each) for each in batches], [rows], 1)


def batch_of(rows):
    B = len(rows)
    return Batch(
        dense=np.zeros((B, 1), np.float32),
        rows=np.array(rows, np.int64),
        offsets=np.arange(B + 1, dtype=np.int64),
        labels=np.zeros(B, np.float32),
    )


def zipf_batches(steps, lookups, rows, *, exponent=1.0, seed=1):
    """Rows drawn with probability 1 / (rank + 1) ** exponent, the ranks in an order of their own."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, rows + 1) ** exponent
    drawn = random.choice(rows, size=(steps, lookups), p=weights / weights.sum())
    return random.permutation(rows)[drawn].tolist()


def unique(batches):
    return [sorted(set(batch)) for batch in batches]


def most_different_rows(batches, window):
    """The different rows of `window` batches in a row, at most."""
    ends = range(1, len(batches) + 1)
    return max(len(set().union(*batches[max(end - window, 0) : end])) for end in ends)


def planner_moves(batches, slots, *, lookahead, replacement, counts=None):
    """(misses, evictions, steps with bubbles) of the second half, by the reference planner and the usual holds."""
    plans = reference_plans(
        unique(batches), slots, lookahead=lookahead, past=3, future=2, replacement=replacement, row_counts=counts
    )[len(batches) // 2 :]
    return (
        sum(len(plan["miss_rows"]) for plan in plans),
        sum(len(plan["evict_rows"]) for plan in plans),
        sum(plan["bubbles"] > 0 for plan in plans),
    )


def min_moves(batches, slots):
    """(misses, evictions, 0) of the second half: those whose next use is furthest leave."""
    resident, counted = set(), [0, 0]
    batches = unique(batches)

    def next_use(row, after):
        return min((b for b in range(after + 1, len(batches)) if row in batches[b]), default=NEVER)

    for number, rows in enumerate(batches):
        misses = set(rows) - resident
        too_many = max(len(resident) + len(misses) - slots, 0)
        others = sorted(resident - set(rows), key=lambda row, after=number: -next_use(row, after))
        leaving = others[:too_many]
        resident = resident - set(leaving) | misses
        if number >= len(batches) // 2:
            counted[0] += len(misses)
            counted[1] += len(leaving)
    return (*counted, 0)


def static_moves(batches, slots):
    """(misses, 0, 0) of the second half: uses of other rows than the most looked up, the lower ones among equals."""
    lookups = [row for batch in batches for row in batch]
    hot = sorted(set(lookups), key=lambda row: (-lookups.count(row), row))[:slots]
    counted = batches[len(batches) // 2 :]
    return sum(len(set(batch) - set(hot)) for batch in counted), 0, 0
