"""Which lookups of a batch meet in the same row, found out on the GPU: the plan of coalesce.py without a wait."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cupyrec.batch import LONG_SEGMENT, Batch, GpuCoalescePlan, most_long_segments
from cupyrec.devices.cuda_kernel import CudaKernel
from cupyrec.devices.gpu import ARRAY_GROWTH, BLOCK_THREADS, GpuStream
from cupyrec.embedding.radix_sort import SORT_BYTES_PER_ITEM, RadixSort
from cupyrec.kernels import kernel
from cupyrec.kernels.compaction import TILE_ITEMS, TILE_THREADS, exclusive_scan, tiles

# What a plan takes of device memory: lookups, bags, unique rows, where their segments begin, long segments; and what
# making it takes beside that: sorted rows, what the sort needs, heads of the tiles.
GPU_PLAN_BYTES_PER_LOOKUP = 4 + 4 + 8 + 8 + (4 + 4) / (LONG_SEGMENT + 1)
GPU_SORT_BYTES_PER_LOOKUP = 8 + SORT_BYTES_PER_ITEM + 2 * 4 / TILE_ITEMS


class GpuCoalesceMemory:
    """The arrays of one plan. They grow with the largest batch and are used again: the plan then is no longer valid."""

    def __init__(self) -> None:
        self.capacity = -1
        self._plan: GpuCoalescePlan | None = None

    def reserve(self, stream: GpuStream, lookups: int) -> None:
        """Make room for so many lookups; where there was less, wait for the device, as the old arrays may be in use.

        Raises DeviceMemoryError.
        """
        if self.capacity >= lookups:
            return
        if self.capacity >= 0:
            stream.runtime.synchronize_all()
        empty, most, most_long = stream.empty, max(lookups, 1), most_long_segments(lookups)
        self.unique_rows, self.segment_offsets = empty(most, np.int64), empty(most + 1, np.int64)
        self.lookups, self.bags = empty(most, np.int32), empty(most, np.int32)
        self.unique_count, self.long_counts = empty(1, np.int32), empty(2, np.int32)
        self.long_segments, self.long_offsets = empty(most_long, np.int32), empty(most_long + 1, np.int32)
        self.capacity, self._plan = lookups, None

    def plan(self, lookups: int) -> GpuCoalescePlan:
        """The plan of so many lookups that stands here."""
        # Views of device arrays cost microseconds, and most batches are of one size.
        if self._plan is not None and self._plan.lookups == lookups:
            return self._plan
        most_long = most_long_segments(lookups)
        self._plan = GpuCoalescePlan(
            lookups=lookups,
            unique_rows=self.unique_rows[:lookups],
            segment_offsets=self.segment_offsets[: lookups + 1],
            segment_lookups=self.lookups[:lookups],
            segment_bags=self.bags[:lookups],
            unique_count=self.unique_count,
            long_segments=self.long_segments[:most_long],
            long_offsets=self.long_offsets[: most_long + 1],
            long_counts=self.long_counts,
        )
        return self._plan


class GpuCoalescer:
    """Makes coalescing plans on one stream. What that needs beside a plan's own memory is used again by the next."""

    def __init__(self, stream: GpuStream, table_rows: Sequence[int]) -> None:
        """table_rows: (F,). Raises DeviceMemoryError."""
        self._stream = stream
        # Of the largest global row.
        self._bits = max(int(sum(table_rows)) - 1, 0).bit_length()
        self._own = GpuCoalesceMemory()
        self._totals = stream.empty(2, np.int32)
        self._capacity = -1
        # How often its own memory was given back for larger: what was captured with the old is of no use any more.
        self.generation = 0
        self._reserve(0)

    def plan(self, batch: Batch, memory: GpuCoalesceMemory | None = None) -> GpuCoalescePlan:
        """Queue the making of the plan of a batch. Nothing waits for the device, unless the batch is the largest yet.

        batch:  its rows (N,) and offsets (F*B + 1,) are device arrays, final on this stream; neither is modified.
        memory: where the plan stands; None: in memory that the next plan overwrites.

        Raises DeviceMemoryError.
        """
        N = batch.lookups
        memory = memory or self._own
        self._reserve(N)
        if memory.capacity < N:
            # As much as any batch so far has needed: memories of a ring then hardly ever grow.
            memory.reserve(self._stream, self._capacity)
        plan = memory.plan(N)
        self._sort.sort(batch.rows, None, self._rows[:N], plan.segment_lookups, bits=self._bits)
        self._cut_segments(batch, memory)
        return plan

    def _cut_segments(self, batch: Batch, memory: GpuCoalesceMemory) -> None:
        """Queue the finding of segments and long segments among the sorted rows."""
        N, blocks, launch = np.int32(batch.lookups), tiles(batch.lookups), self._stream.launch
        heads = self._tile_heads[: 2 * blocks].reshape(2, blocks)
        launch(_kernel("count_segments"), blocks, TILE_THREADS, self._rows, N, heads)
        exclusive_scan(self._stream, heads, self._totals)
        launch(
            _kernel("write_segments"),
            blocks,
            TILE_THREADS,
            self._rows,
            N,
            heads,
            self._totals,
            memory.lookups,
            batch.offsets,
            np.int32(batch.offsets.shape[0] - 1),
            memory.unique_rows,
            memory.segment_offsets,
            memory.bags,
            memory.unique_count,
            memory.long_segments,
        )
        launch(
            _kernel("number_chunks"),
            1,
            BLOCK_THREADS,
            self._totals,
            memory.long_segments,
            memory.segment_offsets,
            memory.long_offsets,
            memory.long_counts,
        )

    def _reserve(self, lookups: int) -> None:
        """Make room for sorting so many lookups, once the device has done what is queued in the old room."""
        if self._capacity >= lookups:
            return
        if self._capacity >= 0:
            self._stream.runtime.synchronize_all()
            lookups = math.ceil(ARRAY_GROWTH * lookups)
        self._rows = self._stream.empty(max(lookups, 1), np.int64)
        self._tile_heads = self._stream.empty(2 * tiles(lookups), np.int32)
        self._sort = RadixSort(self._stream, lookups)
        self._capacity = lookups
        self.generation += 1


def _kernel(name: str) -> CudaKernel:
    return kernel("coalesce", name, LONG_SEGMENT=LONG_SEGMENT)
