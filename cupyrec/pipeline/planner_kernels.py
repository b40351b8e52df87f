"""The planner's work on its arrays, as kernels.

A *node* stands for a row that is in the scratchpad or is used by a batch of the window. nodes: (nodes, 8) int32, half a
cache line each:

    SLOT       where the row is; NONE
    NEXT_USE   the next batch to be planned that uses it; NEVER within what is known
    LAST_USE   the last batch planned that used it; NONE
    SEEN       the latest known batch that uses it, and
    SEEN_AT    where in the window it is listed there
    BEFORE, AFTER   its neighbours in a list; NONE at the ends; BEFORE is UNLISTED for a node in no list
    COUNT      how often it was used since it became a node, or in the whole data set

A node whose row may leave is in exactly one list: in that of its rank (see replacement.py) when no next use is known,
else in that of the batch of its next use. lists: (RANKS + ring, 3) int32: first and last node, and how many there are.
window: (capacity, 2) int32, a ring: for each unique row of each known batch its node and the batch that uses it next.
state: (4,) int64: see the names below. Everything is O(unique rows) a batch.
"""

from __future__ import annotations

import numpy as np

from cupyrec.devices.numba_kernel import cpu_kernel, prefetch
from cupyrec.embedding.hit_map import EMPTY, erase, find, home, shift_of
from cupyrec.pipeline.replacement import RANKS, rank_of

SLOT, NEXT_USE, LAST_USE, SEEN, SEEN_AT, BEFORE, AFTER, COUNT = range(8)
NODE_FIELDS = 8
NONE, UNLISTED = -1, -2
NEVER = 2**31 - 1
# state: nodes handed out so far, those of them that are free again, slots filled so far, nodes in all lists.
NODES_USED, NODES_FREE, SLOTS_FILLED, LISTED = range(4)
# Memory is asked for so many rows ahead.
AHEAD = 16


@cpu_kernel
def _list_of(nodes, node_rows, lists, node, kind, seed):
    """The list in which a node belongs."""
    if nodes[node, NEXT_USE] == NEVER:
        return rank_of(kind, node_rows[node], nodes[node, COUNT], nodes[node, LAST_USE], seed)
    ring = lists.shape[0] - RANKS
    return RANKS + (nodes[node, NEXT_USE] & (ring - 1))


@cpu_kernel
def _append(nodes, lists, state, node, to):
    last = lists[to, 1]
    nodes[node, BEFORE], nodes[node, AFTER] = last, NONE
    if last == NONE:
        lists[to, 0] = node
    else:
        nodes[last, AFTER] = node
    lists[to, 1] = node
    lists[to, 2] += 1
    state[LISTED] += 1


@cpu_kernel
def _remove(nodes, lists, state, node, out_of):
    before, after = nodes[node, BEFORE], nodes[node, AFTER]
    if before == NONE:
        lists[out_of, 0] = after
    else:
        nodes[before, AFTER] = after
    if after == NONE:
        lists[out_of, 1] = before
    else:
        nodes[after, BEFORE] = before
    nodes[node, BEFORE] = UNLISTED
    lists[out_of, 2] -= 1
    state[LISTED] -= 1


@cpu_kernel
def look(rows, batch, planned, start, cells, nodes, node_rows, free, lists, window, state, kind, seed, row_counts):
    """Take in the unique rows of a batch beyond those known, and link each from its latest use before.

    planned: batches planned so far; start: where the batch begins in the window; row_counts: (R,), or (0,) where
    counts are kept while running.
    """
    U, mask, shift = rows.shape[0], window.shape[0] - 1, shift_of(cells)
    known_counts = row_counts.shape[0] > 0
    for i in range(U):
        if i + AHEAD < U:
            prefetch(cells, (2 * home(rows[i + AHEAD], shift),))
        row = rows[i]
        at = find(cells, shift, row)
        if cells[2 * at] == EMPTY:
            if state[NODES_FREE] > 0:
                state[NODES_FREE] -= 1
                node = np.int64(free[state[NODES_FREE]])
            else:
                node = state[NODES_USED]
                state[NODES_USED] += 1
            cells[2 * at] = row
            cells[2 * at + 1] = node
            node_rows[node] = row
            nodes[node, SLOT] = NONE
            nodes[node, NEXT_USE] = NEVER
            nodes[node, LAST_USE] = NONE
            nodes[node, SEEN] = NONE
            nodes[node, BEFORE] = UNLISTED
            nodes[node, COUNT] = min(np.int64(row_counts[row]), NEVER) if known_counts else 0
        window[(start + i) & mask, 0] = cells[2 * at + 1]
        window[(start + i) & mask, 1] = NEVER
    for i in range(U):
        if i + AHEAD < U:
            prefetch(nodes, (window[(start + i + AHEAD) & mask, 0], 0))
        node = window[(start + i) & mask, 0]
        if nodes[node, SEEN] >= planned:
            window[nodes[node, SEEN_AT], 1] = batch
        else:
            listed = nodes[node, BEFORE] != UNLISTED
            if listed:
                _remove(nodes, lists, state, node, _list_of(nodes, node_rows, lists, node, kind, seed))
            nodes[node, NEXT_USE] = batch
            if listed:
                _append(nodes, lists, state, node, _list_of(nodes, node_rows, lists, node, kind, seed))
        nodes[node, SEEN] = batch
        nodes[node, SEEN_AT] = (start + i) & mask


@cpu_kernel
def use(batch, start, unique, nodes, node_rows, lists, window, state, kind, seed, known_counts, unique_slots, misses):
    """Mark the rows of a batch as used by it; returns how many have no slot. misses: their places in the batch."""
    mask, missed = window.shape[0] - 1, 0
    for i in range(unique):
        if i + AHEAD < unique:
            prefetch(nodes, (window[(start + i + AHEAD) & mask, 0], 0))
        node, next_use = window[(start + i) & mask, 0], window[(start + i) & mask, 1]
        if nodes[node, BEFORE] != UNLISTED:
            _remove(nodes, lists, state, node, _list_of(nodes, node_rows, lists, node, kind, seed))
        nodes[node, NEXT_USE] = next_use
        nodes[node, LAST_USE] = batch
        if not known_counts:
            nodes[node, COUNT] += 1
        unique_slots[i] = nodes[node, SLOT]
        if nodes[node, SLOT] == NONE:
            misses[missed] = i
            missed += 1
    return missed


@cpu_kernel
def release(batch, start, unique, nodes, node_rows, lists, window, state, kind, seed):
    """A batch is held no longer: its rows that no later one has used may leave."""
    mask = window.shape[0] - 1
    for i in range(unique):
        if i + AHEAD < unique:
            prefetch(nodes, (window[(start + i + AHEAD) & mask, 0], 0))
        node = window[(start + i) & mask, 0]
        if nodes[node, LAST_USE] == batch and nodes[node, SLOT] != NONE and nodes[node, BEFORE] == UNLISTED:
            _append(nodes, lists, state, node, _list_of(nodes, node_rows, lists, node, kind, seed))


@cpu_kernel
def choose_victims(needed, furthest, nodes, node_rows, lists, state, victims):
    """Take the nodes that leave off their lists, in order; returns how many of them no known batch uses.

    First those without a known next use, the lowest rank first; then those next used by the batches from the furthest
    on. As many as are needed must be listed. victims: (needed,) int32, overwritten.
    """
    ring = lists.shape[0] - RANKS
    chosen, unused, rank, next_use = 0, 0, 0, furthest
    while chosen < needed:
        while rank < RANKS and lists[rank, 0] == NONE:
            rank += 1
        which = rank
        if rank == RANKS:
            while lists[RANKS + (next_use & (ring - 1)), 0] == NONE:
                next_use -= 1
            which = RANKS + (next_use & (ring - 1))
        node, taken = np.int64(lists[which, 0]), 0
        while node != NONE and chosen < needed:
            prefetch(node_rows, (node,))
            victims[chosen] = node
            nodes[node, BEFORE] = UNLISTED
            chosen += 1
            taken += 1
            node = np.int64(nodes[node, AFTER])
        lists[which, 0] = node
        if node == NONE:
            lists[which, 1] = NONE
        else:
            nodes[node, BEFORE] = NONE
        lists[which, 2] -= taken
        state[LISTED] -= taken
        if rank < RANKS:
            unused = chosen
    return unused


@cpu_kernel
def evict(unused, victims, cells, nodes, node_rows, free, state, evict_rows, evict_slots):
    """Take the slots of the chosen nodes away; the first `unused` of them are free then. evict_slots may be victims."""
    shift = shift_of(cells)
    for e in range(victims.shape[0]):
        if e + 2 * AHEAD < victims.shape[0]:
            prefetch(nodes, (victims[e + 2 * AHEAD], 0))
            prefetch(node_rows, (victims[e + 2 * AHEAD],))
        if e + AHEAD < unused:
            prefetch(cells, (2 * home(node_rows[victims[e + AHEAD]], shift),))
        node = np.int64(victims[e])
        evict_rows[e] = node_rows[node]
        evict_slots[e] = nodes[node, SLOT]
        nodes[node, SLOT] = NONE
        if e < unused:
            erase(cells, shift, node_rows[node])
            free[state[NODES_FREE]] = node
            state[NODES_FREE] += 1


@cpu_kernel
def assign(start, misses, evict_slots, nodes, node_rows, window, state, unique_slots, miss_rows, miss_slots):
    """Give a slot to each miss: the empty ones first, then those that were left. misses: their places in the batch."""
    mask, missed = window.shape[0] - 1, misses.shape[0]
    first, empty = state[SLOTS_FILLED], missed - evict_slots.shape[0]
    for m in range(missed):
        if m + AHEAD < missed:
            ahead = window[(start + misses[m + AHEAD]) & mask, 0]
            prefetch(nodes, (ahead, 0))
            prefetch(node_rows, (ahead,))
        at = misses[m]
        node = window[(start + at) & mask, 0]
        slot = first + m if m < empty else np.int64(evict_slots[m - empty])
        nodes[node, SLOT] = slot
        unique_slots[at] = slot
        miss_rows[m] = node_rows[node]
        miss_slots[m] = slot
    state[SLOTS_FILLED] += empty
