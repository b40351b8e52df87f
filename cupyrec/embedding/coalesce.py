"""Which lookups of a batch meet in the same row: known before any gradient is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cupyrec.batch import Batch, CoalescePlan, table_offsets
from cupyrec.devices.cpu import CpuDevice, CpuStream
from cupyrec.devices.numba_kernel import cpu_kernel

# Two passes of 11 bits sort a table of four million rows; 2,048 counters stay in the first-level cache.
MOST_DIGIT_BITS = 11
# What a plan takes of memory: lookups, bags, unique rows and where their segments begin; and what making it takes
# beside that: rows twice, lookups and bags once.
PLAN_BYTES_PER_LOOKUP = 4 + 4 + 8 + 8
SORT_BYTES_PER_LOOKUP = 2 * 8 + 4 + 4
# What sorting reads and writes of a lookup, in a few passes.
SORT_FLOATS_PER_LOOKUP = 16


class CoalesceMemory:
    """The arrays of one plan. They grow with the largest batch and are used again: the plan then is no longer valid."""

    def __init__(self) -> None:
        self.capacity = -1

    def reserve(self, stream: CpuDevice | CpuStream, lookups: int) -> None:
        """Make room for so many lookups."""
        if self.capacity >= lookups:
            return
        self.capacity, zeros = lookups, stream.zeros
        self.lookups, self.bags = zeros(lookups, np.int32), zeros(lookups, np.int32)
        self.unique_rows, self.offsets = zeros(lookups, np.int64), zeros(lookups + 1, np.int64)


class Coalescer:
    """Makes coalescing plans. What the sort needs beside a plan's own memory is used again by the next."""

    def __init__(self, stream: CpuDevice | CpuStream, table_rows: Sequence[int]) -> None:
        self._stream = stream
        self._starts = table_offsets(table_rows)
        self._own = CoalesceMemory()
        self._capacity = -1

    def plan(self, batch: Batch, memory: CoalesceMemory | None = None) -> CoalescePlan:
        """Sort and deduplicate the rows of a batch. O(N) by radix sort; each table is one thread's.

        memory: where the plan stands; None: in memory that the next plan overwrites.
        """
        N, B, F = batch.lookups, batch.samples, batch.features
        memory = memory or self._own
        memory.reserve(self._stream, N)
        if self._capacity < N:
            self._capacity, zeros = N, self._stream.zeros
            self._rows, self._other_rows = zeros(N, np.int64), zeros(N, np.int64)
            self._lookups, self._bags = zeros(N, np.int32), zeros(N, np.int32)
        unique_of_table, longer_bags = np.zeros(F, dtype=np.int64), np.zeros(F, dtype=np.bool_)
        self._stream.launch(
            _sort_tables,
            F,
            batch.rows,
            batch.offsets,
            B,
            self._starts,
            self._rows,
            memory.lookups,
            self._other_rows,
            self._lookups,
            unique_of_table,
            longer_bags,
            floats=SORT_FLOATS_PER_LOOKUP * N,
        )
        bags = memory.lookups
        if longer_bags.any():
            bags = memory.bags
            self._stream.launch(_name_bags, F, batch.offsets, B, memory.lookups, self._bags, bags, floats=4 * N)
        first_unique = np.concatenate([[0], np.cumsum(unique_of_table)])
        U = int(first_unique[-1])
        self._stream.launch(
            _cut_segments,
            F,
            batch.offsets,
            B,
            first_unique,
            self._rows,
            memory.unique_rows,
            memory.offsets,
            floats=4 * N,
        )
        memory.offsets[U] = N
        return CoalescePlan(memory.unique_rows[:U], memory.offsets[: U + 1], memory.lookups[:N], bags[:N])


@cpu_kernel
def _sort_tables(
    start, stop, rows, offsets, B, starts, out_rows, out_lookups, other_rows, other_lookups, unique, longer_bags
):
    """Sort the lookups of the tables start .. stop-1 by row, stably; count their unique rows; tell whether some bag
    has another length than 1.
    """
    counts = np.empty(1 << MOST_DIGIT_BITS, dtype=np.int64)
    for table in range(start, stop):
        base = starts[table]
        bits = 0
        while (starts[table + 1] - base - 1) >> bits > 0:
            bits += 1
        passes = (bits + MOST_DIGIT_BITS - 1) // MOST_DIGIT_BITS
        digit_bits = (bits + passes - 1) // passes if passes else 0
        first, last = offsets[table * B], offsets[(table + 1) * B]
        # An even number of passes ends where it began, an odd one in the other arrays.
        from_rows, from_lookups, to_rows, to_lookups = out_rows, out_lookups, other_rows, other_lookups
        if passes % 2:
            from_rows, from_lookups, to_rows, to_lookups = other_rows, other_lookups, out_rows, out_lookups
        for at in range(np.uint64(first), np.uint64(last)):
            from_rows[at] = rows[at]
            from_lookups[at] = at
        # Lookup and bag are then the same number.
        ones = True
        for bag in range(np.uint64(table * B), np.uint64((table + 1) * B + 1)):
            ones &= offsets[bag] == bag
        longer_bags[table] = not ones
        mask = (1 << digit_bits) - 1
        for digit in range(passes):
            shift = digit * digit_bits
            counts[: mask + 1] = 0
            for at in range(first, last):
                counts[((from_rows[at] - base) >> shift) & mask] += 1
            total = first
            for value in range(mask + 1):
                count = counts[value]
                counts[value] = total
                total += count
            for at in range(first, last):
                value = ((from_rows[at] - base) >> shift) & mask
                to = counts[value]
                counts[value] = to + 1
                to_rows[to] = from_rows[at]
                to_lookups[to] = from_lookups[at]
            from_rows, to_rows = to_rows, from_rows
            from_lookups, to_lookups = to_lookups, from_lookups
        distinct = 0
        for at in range(first, last):
            if at == first or out_rows[at] != out_rows[at - 1]:
                distinct += 1
        unique[table] = distinct


@cpu_kernel
def _name_bags(start, stop, offsets, B, sorted_lookups, bag_of_lookup, sorted_bags):
    """The bag of each sorted lookup of the tables start .. stop-1."""
    for table in range(start, stop):
        for bag in range(table * B, (table + 1) * B):
            for at in range(offsets[bag], offsets[bag + 1]):
                bag_of_lookup[at] = bag
        for at in range(offsets[table * B], offsets[(table + 1) * B]):
            sorted_bags[at] = bag_of_lookup[sorted_lookups[at]]


@cpu_kernel
def _cut_segments(start, stop, offsets, B, first_unique, sorted_rows, unique_rows, segment_offsets):
    """Write the unique rows of the tables start .. stop-1 and where their segments begin."""
    for table in range(start, stop):
        u = first_unique[table]
        first = offsets[table * B]
        for at in range(first, offsets[(table + 1) * B]):
            if at == first or sorted_rows[at] != sorted_rows[at - 1]:
                unique_rows[u] = sorted_rows[at]
                segment_offsets[u] = at
                u += 1
