"""What a scratchpad of one size moves under each policy, counted over the batches of a spool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupyrec.advice.spool import UsageSpool
from cupyrec.embedding.row_counts import most_used_rows
from cupyrec.pipeline.offline_optimum import OfflineOptimum
from cupyrec.pipeline.plan import PlanMemory
from cupyrec.pipeline.planner import Planner
from cupyrec.pipeline.stages import PIPELINED

# In the order in which they are shown. MIN is what none can beat.
POLICIES = ("lookahead", "lru", "static", "min")


@dataclass
class Moved:
    """Rows that came and went in the counted steps, and how many of these steps had a bubble.

    full: whether the scratchpad had no empty slot any more when counting began.
    """

    misses: int = 0
    evictions: int = 0
    bubble_steps: int = 0
    full: bool = True


class Replay:
    """Runs policies over the same batches. Rows are those of a spool, 0 .. rows - 1."""

    def __init__(
        self,
        spool: UsageSpool,
        lookups: np.ndarray,
        *,
        counted_from: int,
        row_counts_known: bool = False,
        on_batch: Callable[[int], None] = lambda step: None,
    ) -> None:
        """lookups: (rows,) int64, of each row; counted_from: the first step that counts; row_counts_known: whether the
        policy lookahead is told the lookups, as by `cupyrec train --row-counts`; on_batch: is told the number of each
        batch before it is replayed.
        """
        self._spool, self._lookups = spool, lookups
        self._counted_from, self._on_batch = counted_from, on_batch
        self._row_counts = lookups if row_counts_known else None

    def run(self, policy: str, slots: int, lookahead: int) -> Moved:
        """policy: one of POLICIES; slots: at least the rows of the largest batch; lookahead: K, where it matters."""
        if policy == "static":
            return self._static(slots)
        if policy == "min":
            return self._optimum(slots)
        return self._planner(policy, slots, lookahead)

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for step, batch in enumerate(self._spool.batches()):
            self._on_batch(step)
            yield batch

    def _planner(self, replacement: str, slots: int, lookahead: int) -> Moved:
        looks, least = replacement == "lookahead", PIPELINED.holds.future
        planner = Planner(
            slots,
            # More steps than there are nobody knows.
            lookahead=max(min(lookahead, self._spool.batches_taken), least) if looks else least,
            holds=PIPELINED.holds,
            replacement=replacement,
            row_counts=self._row_counts if looks else None,
        )
        batches, memory = self._batches(), PlanMemory()
        moved, filled = Moved(), 0
        for step in range(self._spool.batches_taken):
            while planner.may_look:
                known: tuple[Any, Any] | None = next(batches, None)
                if known is None:
                    planner.end()
                else:
                    planner.look(known[0])
            if step == self._counted_from:
                moved.full = filled == slots
            plan = planner.plan(memory)
            misses, evictions = plan.miss_rows.shape[0], plan.evict_rows.shape[0]
            filled += misses - evictions
            if step >= self._counted_from:
                moved.misses += misses
                moved.evictions += evictions
                moved.bubble_steps += plan.bubbles > 0
        return moved

    def _optimum(self, slots: int) -> Moved:
        """Belady's MIN, without holds: no choice moves fewer rows."""
        optimum = OfflineOptimum(slots, self._lookups.shape[0], self._spool.batches_taken)
        moved, filled = Moved(), 0
        for step, (rows, next_uses) in enumerate(self._batches()):
            if step == self._counted_from:
                moved.full = filled == slots
            misses = optimum.step(rows, next_uses)
            # Empty slots are taken first.
            came_to_empty = min(misses, slots - filled)
            filled += came_to_empty
            if step >= self._counted_from:
                moved.misses += misses
                moved.evictions += misses - came_to_empty
        return moved

    def _static(self, slots: int) -> Moved:
        """The rows looked up most are there from the start and stay; a miss is a use of another one."""
        cold = np.ones(self._lookups.shape[0], np.bool_)
        cold[most_used_rows(self._lookups, slots)] = False
        moved = Moved()
        for step, (rows, _) in enumerate(self._batches()):
            if step >= self._counted_from:
                moved.misses += int(np.count_nonzero(cold[rows]))
        return moved
