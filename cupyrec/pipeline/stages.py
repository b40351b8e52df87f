"""The stages of the pipeline, what each must wait for, and the holds that follow from it. Pure rules: no threads.

    Load      read a batch, sort and deduplicate its rows
    Plan      hits, misses, victims; nothing moves yet
    Collect   gather missed rows from the host table and victims from the scratchpad
    Exchange  both go over the link
    Insert    write victims to the host table, fill their slots
    Train     pool, forward, backward, update

Why it is correct. A victim's value is final once the last batch that uses it has trained: Collect(b) reads victims, so
every batch that may still be on its way to Train then has its rows held (past). A victim is back in the host table
after Insert(b): a batch that may read the host table before that has its rows held too (future). And a slot
is filled in Insert(b) only after the value in it has been read and all who use it have trained, which the first rule
includes.

Where a scratchpad is too small, a plan gives up holds and says so: Collect(b) then waits for the batch whose hold went,
too. Holds of future batches go last, when no past batch is held any more. That asks for no wait of its own: in such a
scratchpad the batch that brings a victim back, or one before it, finds no room either and waits for batch b to train.
"""

from __future__ import annotations

from dataclasses import dataclass

from cupyrec.pipeline.plan import Holds, Plan

LOAD, PLAN, COLLECT, EXCHANGE, INSERT, TRAIN = STAGES = ("Load", "Plan", "Collect", "Exchange", "Insert", "Train")


@dataclass(frozen=True)
class Depth:
    """At which step after its planning a batch is in each stage: all else follows from these numbers."""

    collect: int
    exchange: int
    insert: int
    train: int

    @property
    def holds(self) -> Holds:
        """Batches whose rows must stay while one is planned.

        When Collect reads batch b's victims, the batches planned less than `train - collect` steps before have not
        trained; when Insert writes them back, those less than `insert - collect` steps later have been collected.
        """
        return Holds(past=self.train - self.collect, future=self.insert - self.collect)

    @property
    def staging_sets(self) -> int:
        """Batches between Collect and Insert at once: Collect waits for the Insert of the batch so far before."""
        return self.holds.future + 1

    def ring_size(self, lookahead: int, loaded_ahead: int = 0) -> int:
        """Entries of the ring: those known ahead, one being loaded, one in each step from Plan to Train, one spare.

        loaded_ahead: see Board.
        """
        return lookahead + loaded_ahead + 1 + self.train + 2


PIPELINED = Depth(collect=1, exchange=2, insert=3, train=4)
# One stage after another, so nothing is in flight while a batch is planned.
ONE_AFTER_ANOTHER = Depth(collect=0, exchange=0, insert=0, train=0)
# Of stages that wait for nothing but the one before.
BEFORE = {EXCHANGE: COLLECT, INSERT: EXCHANGE, TRAIN: INSERT}


class Board:
    """How far each stage has come, and which may go on. A state machine: told what was done, asked what may be.

    Every stage takes the batches in order. done[stage] is how many it has finished.
    """

    def __init__(self, depth: Depth, lookahead: int, *, loaded_ahead: int = 0) -> None:
        """loaded_ahead: so many batches more than Plan has to know are loaded before it plans: where what Load began
        goes on after it, as on a GPU, Plan would wait for the last of them.
        """
        self.depth, self.lookahead, self._loaded_ahead = depth, lookahead, loaded_ahead
        self.ring_size = depth.ring_size(lookahead, loaded_ahead)
        # Asked for many times a step.
        self._holds = depth.holds
        self.done = dict.fromkeys(STAGES, 0)
        self.total: int | None = None
        self._given_up: dict[int, int] = {}

    def ended(self, total: int) -> None:
        """There are no more batches than so many."""
        self.total = total

    def finished(self, stage: str) -> None:
        """A stage has finished its next batch."""
        self.done[stage] += 1

    def planned(self, plan: Plan) -> None:
        """What a plan asks for beyond the rules; to be told before Plan is finished."""
        if plan.given_up >= 0:
            self._given_up[plan.batch] = plan.given_up
        # Nobody asks for those of batches that have trained.
        for old in [each for each in self._given_up if each < self.done[TRAIN]]:
            del self._given_up[old]

    def exhausted(self, stage: str) -> bool:
        """Whether a stage has no batch left."""
        return self.total is not None and self.done[stage] >= self.total

    def may_begin(self, stage: str) -> bool:
        """Whether the next batch of a stage is there and all that it must wait for is done."""
        batch = self.done[stage]
        if self.total is not None and batch >= self.total:
            return False
        for other, last in self.waits_for(stage, batch):  # noqa: SIM110 - all() is slower, and a step asks dozens of times
            if self.done[other] <= last:
                return False
        return True

    def collect_follows(self, batch: int) -> tuple[int, int]:
        """The batches whose Train, and whose Insert, come before the Collect of a batch; negative: none.

        The first, so that its victims are final; the second, so that the rows that it reads from the host table have
        come there, and the staging that it writes is free.
        """
        holds = self._holds
        return max(batch - holds.past - 1, self._given_up.get(batch, -1)), batch - holds.future - 1

    def waits_for(self, stage: str, batch: int) -> list[tuple[str, int]]:
        """(stage, batch) pairs that must be done before; a negative batch always is."""
        if stage == LOAD:
            return [(TRAIN, batch - self.ring_size)]
        if stage == PLAN:
            last = batch + self.lookahead + self._loaded_ahead
            return [(LOAD, last if self.total is None else min(last, self.total - 1))]
        if stage == COLLECT:
            trained, inserted = self.collect_follows(batch)
            return [(PLAN, batch), (TRAIN, trained), (INSERT, inserted)]
        return [(BEFORE[stage], batch)]
