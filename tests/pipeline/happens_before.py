"""Whether every order of the stages that a board allows gives what one stage after another gives.

Each stage of each batch reads and writes places: rows of the host table, slots, staging, ring entries. Two of them that
touch a place, one at least writing, must be ordered by what the board makes them wait for, in the order in which they
come when batches train one after another. Where that holds for all pairs, no interleaving, however fine, changes any
value. The places are those that stage_work.py and planner.py touch; plans come from a real planner.
"""

from __future__ import annotations

from dataclasses import dataclass

from cupyrec.pipeline.stages import COLLECT, EXCHANGE, INSERT, LOAD, PLAN, STAGES, TRAIN


@dataclass(frozen=True)
class Access:
    reads: frozenset
    writes: frozenset


def accesses(board, plans):
    """{(stage, batch): Access}."""
    depth, total, ring = board.depth, len(plans), board.ring_size
    touched = {}
    for b, plan in enumerate(plans):
        entry, own = ("entry", b % ring), ("planned entry", b % ring)
        staging = b % depth.staging_sets
        host_in, device_in = ("host in", staging), ("device in", staging)
        device_out, host_out = ("device out", staging), ("host out", staging)
        used = {("slot", slot) for slot in plan["unique_slots"]}
        missed, filled = rows_of(plan["miss_rows"]), {("slot", slot) for slot in plan["miss_slots"]}
        evicted, read = rows_of(plan["evict_rows"]), {("slot", slot) for slot in plan["evict_slots"]}
        shown = {("entry", each % ring) for each in range(b, min(b + board.lookahead, total - 1) + 1)}
        touched |= {
            (LOAD, b): Access(frozenset(), frozenset({entry})),
            (PLAN, b): Access(frozenset(shown), frozenset({own, "planner"})),
            (COLLECT, b): Access(frozenset({own} | missed | read), frozenset({host_in, device_out})),
            (EXCHANGE, b): Access(frozenset({own, host_in, device_out}), frozenset({device_in, host_out})),
            (INSERT, b): Access(frozenset({own, device_in, host_out}), frozenset(evicted | filled)),
            (TRAIN, b): Access(frozenset({own, entry}), frozenset(used)),
        }
    return touched


def rows_of(rows):
    return {("row", row) for row in rows}


def clocks(board, total):
    """{(stage, batch): {stage: how many batches of it have ended for sure before this begins}}."""
    known: dict = {}

    def clock(stage, batch):
        if (stage, batch) not in known:
            own = dict.fromkeys(STAGES, 0)
            before = [(stage, batch - 1), *board.waits_for(stage, batch)]
            for other, last in before:
                if last < 0:
                    continue
                for each, count in clock(other, last).items():
                    own[each] = max(own[each], count)
                own[other] = max(own[other], last + 1)
            known[stage, batch] = own
        return known[stage, batch]

    for batch in range(total):
        for stage in STAGES:
            clock(stage, batch)
    return known


def unordered_pairs(board, plans):
    """Pairs that touch a place, one of them writing, and that nothing orders as one stage after another does."""
    touched, known = accesses(board, plans), clocks(board, len(plans))
    in_turn = [(stage, batch) for batch in range(len(plans)) for stage in STAGES]
    # Loading and planning run ahead; they touch nothing that depends on training but entries, which are used again.
    found = []
    for at, one in enumerate(in_turn):
        for other in in_turn[at + 1 :]:
            if _conflict(touched[one], touched[other]) and known[other][one[0]] <= one[1]:
                # The later one may be the first to happen where it only runs ahead: then that must be sure.
                ahead = other[0] in (LOAD, PLAN) and known[one][other[0]] > other[1]
                if not ahead:
                    found.append((one, other))
    return found


def _conflict(one, other):
    return bool(one.writes & (other.reads | other.writes)) or bool(one.reads & other.writes)
