"""The planner as slow, obvious Python: every decision from the whole list of batches, over sorted lists of rows.

Written from the description of cupyrec.pipeline.planner.Planner, not from its code.
"""

from __future__ import annotations

from dataclasses import dataclass

NEVER = float("inf")


@dataclass
class Resident:
    """A row in the scratchpad."""

    slot: int
    last_use: int
    count: int
    # When it became a row that may leave, and at which place among those of that moment; None while it is held.
    since: tuple | None = None
    # Its next use as it was known then.
    known_use: float = NEVER


def rank(replacement, row, count, last_use, seed):
    """As replacement.py describes it."""
    if replacement == "lru":
        return 0
    if replacement == "random":
        z = (row + last_use * 0x9E3779B97F4A7C15 + seed) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return (z ^ (z >> 31)) % 512
    if count < 64:
        return count
    digits = count.bit_length()  # 7 and more
    return 64 + (digits - 7) * 8 + (count >> (digits - 4)) % 8


def reference_plans(batches, slots, *, lookahead, past, future, replacement="lookahead", row_counts=None, seed=0):
    """One dict a batch: unique_slots, miss_rows, miss_slots, evict_rows, evict_slots, given_up, bubbles.

    batches: lists of unique rows, ascending.
    """
    resident: dict[int, Resident] = {}
    # Of rows that are in the scratchpad, or wait in the window to come back: how often they were used.
    counts: dict[int, int] = {}
    released, plans = 0, []

    def uses(row, after, until):
        return [b for b in range(after + 1, min(until, len(batches) - 1) + 1) if row in batches[b]]

    for b, rows in enumerate(batches):
        assert len(rows) <= slots
        known = b + lookahead
        # A use that has just come into sight moves a row that may leave to another place.
        for row in sorted(resident):
            each = resident[row]
            next_use = min(uses(row, b - 1, known), default=NEVER)
            if each.since is not None and each.known_use != next_use:
                each.since, each.known_use = (2 * b, row), next_use

        hits = {row: resident[row].slot for row in rows if row in resident}
        misses = [row for row in rows if row not in resident]
        for row in rows:
            counts[row] = counts.get(row, 0) + 1
        for row in hits:
            resident[row].last_use, resident[row].since, resident[row].count = b, None, counts[row]

        def release(batch, b=b, known=known):
            for row in sorted(resident):
                each = resident[row]
                if each.last_use == batch and each.since is None:
                    each.since = (2 * b + 1, batch, row)
                    each.known_use = min(uses(row, b, known), default=NEVER)

        while released < b - past:
            release(released)
            released += 1

        given_up, nearest, bubbles = -1, b + future + 1, 0

        def candidates(nearest):
            free = [row for row, each in resident.items() if each.since is not None]
            return [row for row in free if resident[row].known_use >= nearest]

        empty = slots - len(resident)
        while len(misses) > empty + len(candidates(nearest)):
            if released < b:
                given_up = released
                release(released)
                released += 1
                bubbles += 1
            else:
                before = len(candidates(nearest))
                nearest -= 1
                bubbles += len(candidates(nearest)) > before

        def order(row):
            each = resident[row]
            if each.known_use == NEVER:
                count = int(row_counts[row]) if row_counts is not None else each.count
                return (0, rank(replacement, row, count, each.last_use, seed), each.since)
            return (1, -each.known_use, each.since)

        leaving = sorted(candidates(nearest), key=order)[: max(len(misses) - empty, 0)]
        first_empty = len(resident)
        evict_slots = [resident[row].slot for row in leaving]
        new_slots = [*range(first_empty, slots), *evict_slots][: len(misses)]
        for row in leaving:
            del resident[row]
            if not uses(row, b, known):
                del counts[row]
        for row, slot in zip(misses, new_slots, strict=True):
            resident[row] = Resident(slot, b, counts[row])
        plans.append(
            {
                "unique_slots": [resident[row].slot for row in rows],
                "miss_rows": misses,
                "miss_slots": new_slots,
                "evict_rows": leaving,
                "evict_slots": evict_slots,
                "given_up": given_up,
                "bubbles": bubbles,
            }
        )
    return plans
