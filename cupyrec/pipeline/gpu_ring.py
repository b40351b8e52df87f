"""Batches in device memory: how they come there, and the ring entries of a pipeline on a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cupyrec.batch import Batch, GpuCoalescePlan
from cupyrec.devices.gpu import GpuDevice, GpuEvent, GpuStream
from cupyrec.embedding.gpu_coalesce import GpuCoalesceMemory, GpuCoalescer
from cupyrec.pipeline.gpu_planner import GpuPlanMemory
from cupyrec.pipeline.plan import Plan

# Room is made for this many times what is asked for: growing waits for the whole device, and batches differ a little.
GROWTH = 1.125


class GrowingArray:
    """An array in page-locked host memory, device memory or both, as long as the largest so far."""

    def __init__(
        self, device: GpuDevice, dtype: Any, *, row: Sequence[int] = (), on_host: bool, on_device: bool
    ) -> None:
        """row: the shape of one item."""
        self._device, self._dtype, self._row = device, dtype, tuple(row)
        self._on_host, self._on_device = on_host, on_device
        self._capacity = -1
        self._host: Any = None
        self._array: Any = None

    def reserve(self, items: int) -> None:
        """Make room. What was there is lost."""
        if self._capacity >= items:
            return
        if self._capacity >= 0:
            self._device.synchronize()  # what is given back may still be in use
        self._capacity = math.ceil(GROWTH * items)
        shape = (self._capacity, *self._row)
        if self._on_host:
            self._host = self._device.page_locked(shape, self._dtype)
        if self._on_device:
            self._array = self._device.empty(shape, self._dtype)

    def host(self, items: int) -> Any:
        """(items, ...), page-locked."""
        return self._host[:items]

    def device(self, items: int) -> Any:
        """(items, ...), device."""
        return self._array[:items]


class BatchUpload:
    """Memory for one batch on both sides of the link."""

    def __init__(self, device: GpuDevice, dense_features: int) -> None:
        def both(dtype: Any, row: Sequence[int] = ()) -> GrowingArray:
            return GrowingArray(device, dtype, row=row, on_host=True, on_device=True)

        self._dense, self._labels = both(np.float32, (dense_features,)), both(np.float32)
        self._rows, self._offsets = both(np.int64), both(np.int64)

    def put(self, stream: GpuStream, batch: Batch) -> Batch:
        """Queue the copies of a batch; it is as the batch given, in device memory. Its copies before must be done."""
        return Batch(
            *(
                _put(stream, memory, array)
                for memory, array in (
                    (self._dense, batch.dense),
                    (self._rows, batch.rows),
                    (self._offsets, batch.offsets),
                    (self._labels, batch.labels),
                )
            )
        )


def _put(stream: GpuStream, memory: GrowingArray, array: np.ndarray) -> Any:
    items = array.shape[0]
    memory.reserve(items)
    host, device = memory.host(items), memory.device(items)
    np.copyto(host, array)
    stream.copy(host, device)
    return device


class LoadedBatch:
    """A batch on the device with its coalescing, in memory that is used again.

    loaded: the event that it is there; used: that nobody needs it any more.
    """

    def __init__(self, device: GpuDevice, dense_features: int) -> None:
        self._upload = BatchUpload(device, dense_features)
        self._coalesce_memory = GpuCoalesceMemory()
        self.batch: Batch | None = None
        self.coalesced: GpuCoalescePlan | None = None
        self.loaded, self.used = GpuEvent(device.runtime), GpuEvent(device.runtime)

    def load(self, stream: GpuStream, coalescer: GpuCoalescer, batch: Batch) -> None:
        """Queue the copies of a batch, and the sorting and deduplicating of its rows."""
        self.loaded.synchronize()
        stream.wait(self.used)
        self.batch = self._upload.put(stream, batch)
        self.coalesced = coalescer.plan(self.batch, self._coalesce_memory)
        stream.record(self.loaded)


class GpuRingEntry:
    """One batch on its way through a pipeline on a GPU; each event is done when the stage's work on it is.

    unique:      U, known to the host from Plan on; plan: likewise, with device arrays.
    slots:       (N,) int32, device: the slot of each lookup, from Plan on.
    miss_rows, evict_rows: the plan's, on the host, where the host is to move rows; else None.
    """

    def __init__(self, device: GpuDevice, dense_features: int) -> None:
        self.loading = LoadedBatch(device, dense_features)
        self.plan_memory = GpuPlanMemory()
        self.slots_memory = GrowingArray(device, np.int32, on_host=False, on_device=True)
        self.unique_count = GrowingArray(device, np.int32, on_host=True, on_device=False)
        self.rows_memory = [GrowingArray(device, np.int64, on_host=True, on_device=False) for _ in range(2)]
        self.planned, self.collected, self.came, self.went, self.inserted = (GpuEvent(device.runtime) for _ in range(5))
        self.unique = 0
        self.plan: Plan | None = None
        self.slots: Any = None
        self.miss_rows: Any = None
        self.evict_rows: Any = None

    @property
    def batch(self) -> Batch | None:
        """The batch, in device memory."""
        return self.loading.batch

    @property
    def coalesced(self) -> GpuCoalescePlan | None:
        return self.loading.coalesced

    @property
    def trained(self) -> GpuEvent:
        return self.loading.used


class GpuStaging:
    """Records of one batch on their way: on the device, and, where the host moves them, page-locked beside it."""

    def __init__(self, device: GpuDevice, record_width: int, *, on_host: bool) -> None:
        self._into, self._out = (
            GrowingArray(device, np.float32, row=(record_width,), on_host=on_host, on_device=True) for _ in range(2)
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
