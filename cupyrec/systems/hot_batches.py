"""For `static`: the lookups of pinned rows, brought with their coalescing to where the pinned rows are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupyrec.batch import Batch, CoalescePlan, GpuCoalescePlan
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.cuda_runtime import LOWEST_PRIORITY
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.gpu_coalesce import GpuCoalescer
from cupyrec.pipeline.gpu_ring import LoadedBatch
from cupyrec.pipeline.growing_array import GrowingArray


@dataclass(frozen=True, eq=False)
class HotBatch:
    """batch: with slots for rows; its arrays, plan and offsets on the device. offsets: (F*B + 1,): of the bags with all
    their lookups, pinned or not.
    """

    batch: Batch
    plan: CoalescePlan | GpuCoalescePlan
    offsets: Any


class HotOnCpu:
    """On the CPU: nothing is copied."""

    def __init__(self, device: CpuDevice, table_slots: Sequence[int]) -> None:
        self._coalescer = Coalescer(device, table_slots)

    def load(self, hot: Batch, batch: Batch) -> HotBatch:
        """hot: the lookups of pinned rows of a batch, as slots. Valid until the next call."""
        return HotBatch(hot, self._coalescer.plan(hot), batch.offsets)

    def done(self) -> None:
        """Training with the batch loaded last is queued."""

    def unique(self, hot: HotBatch) -> int:
        """U of the batch loaded last; waits for it."""
        assert isinstance(hot.plan, CoalescePlan)
        return hot.plan.unique


class HotOnGpu:
    """Copies and coalesces on a stream of its own."""

    def __init__(self, device: GpuDevice, table_slots: Sequence[int], dense_features: int) -> None:
        self._device, self._stream = device, device.stream("load", priority=LOWEST_PRIORITY)
        coalescer = GpuCoalescer(self._stream, table_slots)
        # One is enough: the host waits for each batch's gradient before it comes to the next.
        self._loading = LoadedBatch(device, self._stream, coalescer, dense_features)
        self._offsets = GrowingArray(device, np.int64, on_host=True, on_device=True)

    def load(self, hot: Batch, batch: Batch) -> HotBatch:
        """As HotOnCpu.load. Training waits for it on the device."""
        stream, loading, memory, bags = self._stream, self._loading, self._offsets, batch.offsets.shape[0]
        loading.loaded.synchronize()
        loading.fill(hot)
        memory.reserve(bags)
        np.copyto(memory.host(bags), batch.offsets)
        loading.load()
        stream.copy(memory.host(bags), memory.device(bags))
        stream.record(loading.loaded)
        self._device.wait(loading.loaded)
        return HotBatch(loading.batch, loading.coalesced, memory.device(bags))

    def done(self) -> None:
        """Training with the batch loaded last is queued."""
        self._device.record(self._loading.used)

    def unique(self, hot: HotBatch) -> int:
        """U of the batch loaded last; waits for it."""
        return self._loading.unique()


def make_hot_batches(device: Device, table_slots: Sequence[int], dense_features: int) -> HotOnCpu | HotOnGpu:
    """The one for a device. table_slots: (F,), how many pinned rows each table has."""
    if isinstance(device, GpuDevice):
        return HotOnGpu(device, table_slots, dense_features)
    return HotOnCpu(device, table_slots)
