"""Batches in device memory: how they come there, and the ring entries of a pipeline on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cupyrec.batch import Batch, GpuCoalescePlan
from cupyrec.devices.copy_arrays import copy_four
from cupyrec.devices.gpu import GpuDevice, GpuEvent, GpuStream
from cupyrec.devices.repeated import Repeated
from cupyrec.embedding.gpu_coalesce import GpuCoalesceMemory, GpuCoalescer
from cupyrec.pipeline.gpu_planner import GpuPlanMemory
from cupyrec.pipeline.growing_array import GrowingArray, Largest
from cupyrec.pipeline.plan import Plan
from cupyrec.pipeline.told_array import ToldArray


class BatchUpload:
    """Memory for one batch on both sides of the link."""

    def __init__(self, device: GpuDevice, dense_features: int, largest: Sequence[Largest] | None = None) -> None:
        """largest: of dense features, rows, offsets and labels; shared by the uploads of a ring."""
        kinds = ((np.float32, (dense_features,)), (np.int64, ()), (np.int64, ()), (np.float32, ()))
        self._memory = [
            GrowingArray(device, dtype, row=row, on_host=True, on_device=True, largest=each)
            for (dtype, row), each in zip(kinds, largest or largest_of_a_batch(), strict=True)
        ]
        # Of each array of the batch filled in.
        self.items: tuple[int, ...] = ()

    def fill(self, batch: Batch) -> None:
        """Copy a batch to page-locked memory, from which all copies before must be done."""
        arrays = (batch.dense, batch.rows, batch.offsets, batch.labels)
        self.items = tuple(array.shape[0] for array in arrays)
        pairs = []
        for memory, array, items in zip(self._memory, arrays, self.items, strict=True):
            memory.reserve(items)
            held = memory.host(items).reshape(-1)
            pairs.append((np.ascontiguousarray(array, held.dtype).reshape(-1), held))
        copy_four(pairs)

    def put(self, stream: GpuStream) -> Batch:
        """Queue the copies of the batch filled in to the device; it with its arrays there."""
        arrays = []
        for memory, items in zip(self._memory, self.items, strict=True):
            stream.copy(memory.host(items), memory.device(items))
            arrays.append(memory.device(items))
        return Batch(*arrays)


def largest_of_a_batch() -> list[Largest]:
    """Sizes of dense, rows, offsets and labels, shared by the uploads of a ring."""
    return [Largest() for _ in range(4)]


class LoadedBatch:
    """A batch on the device with its coalescing, in memory that is used again.

    First `fill`, which may be in a thread of its own, then `load`. loaded: the event that it is on the device, and its
    number of unique rows on the host; used: that nobody needs it any more.
    """

    def __init__(
        self,
        device: GpuDevice,
        stream: GpuStream,
        coalescer: GpuCoalescer,
        dense_features: int,
        largest: Sequence[Largest] | None = None,
    ) -> None:
        """stream: on which batches come; coalescer: on the same; largest: see BatchUpload."""
        self._stream, self._coalescer = stream, coalescer
        self._upload = BatchUpload(device, dense_features, largest)
        self._coalesce_memory = GpuCoalesceMemory()
        self._told, self._unique = ToldArray(stream, np.int32), np.zeros(1, np.int32)
        self._repeated = Repeated(stream)
        self._batch: Batch | None = None
        self._coalesced: GpuCoalescePlan | None = None
        self.loaded, self.used = GpuEvent(device.runtime), GpuEvent(device.runtime)

    @property
    def batch(self) -> Batch:
        """The batch loaded last, in device memory."""
        assert self._batch is not None
        return self._batch

    @property
    def coalesced(self) -> GpuCoalescePlan:
        """Its coalescing."""
        assert self._coalesced is not None
        return self._coalesced

    def unique(self) -> int:
        """U; waits until it is known."""
        self.loaded.synchronize()
        return int(self._unique[0])

    def fill(self, batch: Batch) -> None:
        """Take a batch in, on the host. What was loaded before must be on the device."""
        self._upload.fill(batch)

    def load(self) -> None:
        """Queue the copies of the batch taken in, and the sorting and deduplicating of its rows on the device."""
        self._stream.wait(self.used)
        # Most batches are of one size: all is then as it was the last time.
        self._repeated.queue((self._upload.items, self._coalescer.generation), self._queue)
        self._stream.record(self.loaded)

    def _queue(self) -> None:
        self._batch = self._upload.put(self._stream)
        self._coalesced = self._coalescer.plan(self._batch, self._coalesce_memory)
        self._unique = self._told.tell(self._stream, self._coalesced.unique_count)


@dataclass
class RingSizes:
    """The largest sizes that entries and stagings of one ring have needed. batch: see largest_of_a_batch."""

    batch: list[Largest] = field(default_factory=largest_of_a_batch)
    lookups: Largest = field(default_factory=Largest)
    missed: Largest = field(default_factory=Largest)
    evicted: Largest = field(default_factory=Largest)


class GpuRingEntry:
    """One batch on its way through a pipeline on a GPU; each event is done when the stage's work on it is.

    plan:        from Plan on, with device arrays.
    slots:       (N,) int32, device: the slot of each lookup, from Plan on.
    miss_rows, evict_rows: the plan's, on the host, where the host moves such rows; else None.
    """

    def __init__(self, device: GpuDevice, loading: LoadedBatch, sizes: RingSizes) -> None:
        self.loading = loading
        self.plan_memory = GpuPlanMemory()
        self.slots_memory = GrowingArray(device, np.int32, on_host=False, on_device=True, largest=sizes.lookups)
        self.told_misses = ToldArray(device, np.int64, sizes.missed)
        self.told_victims = ToldArray(device, np.int64, sizes.evicted)
        events = (GpuEvent(device.runtime) for _ in range(6))
        self.planned, self.told, self.collected, self.came, self.went, self.inserted = events
        self.plan: Plan | None = None
        self.slots: Any = None
        self.miss_rows: Any = None
        self.evict_rows: Any = None

    @property
    def batch(self) -> Batch:
        """The batch, in device memory, once Load is queued."""
        return self.loading.batch

    @property
    def coalesced(self) -> GpuCoalescePlan:
        return self.loading.coalesced

    @property
    def trained(self) -> GpuEvent:
        return self.loading.used


class GpuStaging:
    """Records of one batch on their way: on the device, and, where the host moves them, page-locked beside it.

    evict_rows, evict_slots: the victims in the order in which their records stand.
    """

    def __init__(
        self,
        device: GpuDevice,
        record_width: int,
        *,
        in_on_host: bool,
        out_on_host: bool,
        sizes: RingSizes | None = None,
    ) -> None:
        sizes = sizes or RingSizes()

        def records(on_host: bool, largest: Largest) -> GrowingArray:
            return GrowingArray(
                device, np.float32, row=(record_width,), on_host=on_host, on_device=True, largest=largest
            )

        self._into, self._out = records(in_on_host, sizes.missed), records(out_on_host, sizes.evicted)
        self.evict_rows, self.evict_slots = (
            GrowingArray(device, dtype, on_host=False, on_device=True, largest=sizes.evicted)
            for dtype in (np.int64, np.int32)
        )

    def reserve(self, missed: int, evicted: int) -> None:
        """Make room for so many records each way."""
        self._into.reserve(missed)
        self._out.reserve(evicted)

    def host_in(self, rows: int) -> Any:
        """(rows, record width), page-locked: missed records, gathered."""
        return self._into.host(rows)

    def device_in(self, rows: int) -> Any:
        """(rows, record width), device: missed records, before they are in their slots."""
        return self._into.device(rows)

    def device_out(self, rows: int) -> Any:
        """(rows, record width), device: victims, gathered."""
        return self._out.device(rows)

    def host_out(self, rows: int) -> Any:
        """(rows, record width), page-locked: victims, before they are in the host table."""
        return self._out.host(rows)
