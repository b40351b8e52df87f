"""Which lookups of a batch meet in the same row: known before any gradient is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cupyrec.batch import Batch, CoalescePlan, table_offsets
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.numba_kernel import cpu_kernel

# Two passes of 11 bits sort a table of four million rows; 2,048 counters stay in the first-level cache.
MOST_DIGIT_BITS = 11


class Coalescer:
    """Makes coalescing plans in memory of its own, which grows with the largest batch and is used again.

    A plan is valid until the next one is made.
    """

    def __init__(self, device: CpuDevice, table_rows: Sequence[int]) -> None:
        self._device = device
        self._starts = table_offsets(table_rows)
        self._capacity = -1

    def plan(self, batch: Batch) -> CoalescePlan:
        """Sort and deduplicate the rows of a batch. O(N) by radix sort; each table is one thread's."""
        N, B, F = batch.lookups, batch.samples, batch.features
        if self._capacity < N:
            self._allocate(N)
        unique_of_table = np.zeros(F, dtype=np.int64)
        self._device.launch(
            _sort_tables,
            F,
            batch.rows,
            batch.offsets,
            B,
            self._starts,
            self._rows,
            self._bags,
            self._other_rows,
            self._other_bags,
            unique_of_table,
        )
        first_unique = np.concatenate([[0], np.cumsum(unique_of_table)])
        U = int(first_unique[-1])
        self._device.launch(
            _cut_segments, F, batch.offsets, B, first_unique, self._rows, self._unique_rows, self._offsets
        )
        self._offsets[U] = N
        return CoalescePlan(self._unique_rows[:U], self._offsets[: U + 1], self._bags[:N])

    def _allocate(self, lookups: int) -> None:
        self._capacity = lookups
        empty = self._device.zeros
        self._rows, self._other_rows = empty(lookups, np.int64), empty(lookups, np.int64)
        self._bags, self._other_bags = empty(lookups, np.int32), empty(lookups, np.int32)
        self._unique_rows, self._offsets = empty(lookups, np.int64), empty(lookups + 1, np.int64)


@cpu_kernel
def _sort_tables(start, stop, rows, offsets, B, starts, out_rows, out_bags, other_rows, other_bags, unique):
    """Sort the lookups of the tables start .. stop-1 by row, stably, and count their unique rows."""
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
        from_rows, from_bags, to_rows, to_bags = out_rows, out_bags, other_rows, other_bags
        if passes % 2:
            from_rows, from_bags, to_rows, to_bags = other_rows, other_bags, out_rows, out_bags
        for bag in range(table * B, (table + 1) * B):
            for at in range(offsets[bag], offsets[bag + 1]):
                from_rows[at] = rows[at]
                from_bags[at] = bag
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
                to_bags[to] = from_bags[at]
            from_rows, to_rows = to_rows, from_rows
            from_bags, to_bags = to_bags, from_bags
        distinct = 0
        for at in range(first, last):
            if at == first or out_rows[at] != out_rows[at - 1]:
                distinct += 1
        unique[table] = distinct


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
