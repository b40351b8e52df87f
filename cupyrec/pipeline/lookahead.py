"""How far to look ahead, where the user does not say."""

from __future__ import annotations

from dataclasses import dataclass

from cupyrec.batch import Batch
from cupyrec.byte_sizes import format_bytes
from cupyrec.counted import counted
from cupyrec.embedding.coalesce import PLAN_BYTES_PER_LOOKUP
from cupyrec.errors import MemoryPlanError
from cupyrec.pipeline.plan import PLAN_BYTES_PER_ROW
from cupyrec.pipeline.planner import NODE_BYTES

# K = 4 S/U moves at most 1.3 times the rows of the offline optimum, 8 S/U at most 1.1 times (README, Measured).
BATCHES_PER_TURNOVER = 4
# What the window may take when nobody says otherwise: this share of what is free, but always this much.
WINDOW_SHARE = 1 / 8
LEAST_WINDOW_BYTES = 64_000_000


@dataclass(frozen=True)
class Lookahead:
    """K, and what keeping K batches in memory costs. limited: whether that cost kept K below 4 S/U."""

    batches: int
    batch_bytes: int
    limited: bool = False

    @property
    def window_bytes(self) -> int:
        """Of all batches that are known ahead."""
        return self.batches * self.batch_bytes


def choose_lookahead(
    wanted: int | None, *, least: int, slots: int, rows: int, unique: int, batch_bytes: int, free_bytes: int | None
) -> Lookahead:
    """K = 4 S/U batches, or as many of them as memory allows; at least `least`, which the pipeline needs.

    That is enough, too, where the scratchpad holds all rows and none ever leaves.
    wanted: what the user asks for, taken as it is; rows: R; unique: U of a usual batch; batch_bytes: see
    `window_batch_bytes`; free_bytes: of host memory, None where unknown. Raises MemoryPlanError.
    """
    chosen = _choose(wanted, least, slots, rows, unique, batch_bytes, free_bytes)
    if free_bytes is not None and chosen.window_bytes > free_bytes:
        most = free_bytes // batch_bytes
        raise MemoryPlanError(
            f"looking {counted(chosen.batches, 'batch', 'batches')} ahead takes {format_bytes(chosen.window_bytes)} of "
            f"memory, but {format_bytes(free_bytes)} are available; "
            + (f"look at most {most:,} ahead (--lookahead), or " if most >= least else "")
            + "take smaller batches (--batch-size)"
        )
    return chosen


def _choose(
    wanted: int | None, least: int, slots: int, rows: int, unique: int, batch_bytes: int, free_bytes: int | None
) -> Lookahead:
    known = _known(wanted, least, slots, rows)
    if known is not None:
        return Lookahead(known, batch_bytes)
    turnover = -(-BATCHES_PER_TURNOVER * slots // max(unique, 1))
    affordable = max(_budget(free_bytes) // max(batch_bytes, 1), least)
    return Lookahead(max(min(turnover, affordable), least), batch_bytes, limited=affordable < turnover)


def _known(wanted: int | None, least: int, slots: int, rows: int) -> int | None:
    """K, where that does not depend on the batches."""
    return least if wanted is None and slots >= rows else wanted


def _budget(free_bytes: int | None) -> int:
    return max(LEAST_WINDOW_BYTES, int((free_bytes or 0) * WINDOW_SHARE))


def most_window_bytes(
    wanted: int | None, *, least: int, slots: int, rows: int, batch_bytes: int, free_bytes: int | None
) -> int:
    """What the batches known ahead will take at most, before one is read. batch_bytes: of the largest; the others: see
    `choose_lookahead`.
    """
    known = _known(wanted, least, slots, rows)
    if known is not None:
        return known * batch_bytes
    return max(min(_budget(free_bytes), BATCHES_PER_TURNOVER * slots * batch_bytes), least * batch_bytes)


def window_batch_bytes(batch: Batch, unique: int) -> int:
    """What a batch in the window takes: itself, its coalescing, slots of its lookups, plan, and the planner's nodes."""
    arrays = sum(array.nbytes for array in (batch.dense, batch.rows, batch.offsets, batch.labels))
    return arrays + window_bytes_beside(batch.lookups, unique)


def window_bytes_beside(lookups: int, unique: int) -> int:
    """What a batch in the window takes beside itself."""
    slot_bytes, window_bytes = 4, 2 * 4
    return lookups * (PLAN_BYTES_PER_LOOKUP + slot_bytes) + unique * (NODE_BYTES + PLAN_BYTES_PER_ROW + window_bytes)
