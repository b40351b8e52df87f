"""How rows cross the link between the host table and the device, in two ways behind one interface."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from cupyrec.config import EXCHANGES
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.gpu import GpuDevice, GpuStream
from cupyrec.embedding.host_table import HostTable
from cupyrec.embedding.move_rows import gather_records, scatter_records
from cupyrec.errors import ConfigError, DeviceError
from cupyrec.pipeline.gpu_ring import GpuStaging
from cupyrec.pipeline.plan import Plan

STAGED, DIRECT = "staged", "direct"
# Rows that `auto` moves each way to see which of the two is faster, and how often.
TRIED_ROWS = 32_768
TRIALS = 3


class Exchange(Protocol):
    """Moves missed records to the device, and victims to the host table.

    moved_by_host: whether `gather` and `scatter` are to be called, in the stages Collect and Insert.
    """

    name: str
    moved_by_host: bool

    def gather(self, miss_rows: Any, staging: GpuStaging) -> None:
        """Gather the missed records, on the host. miss_rows: (M,) int64, host."""

    def bring(self, stream: GpuStream, plan: Plan, staging: GpuStaging) -> None:
        """Queue what brings the missed records to the staging's device side."""

    def take(self, stream: GpuStream, plan: Plan, staging: GpuStaging) -> None:
        """Queue what takes the victims from the staging's device side."""

    def scatter(self, evict_rows: Any, staging: GpuStaging) -> None:
        """Write the victims to the host table, on the host. evict_rows: (E,) int64, host."""


class StagedExchange:
    """The paper's way: the host gathers into page-locked staging, which is copied at once, and back the same way."""

    name, moved_by_host = STAGED, True

    def __init__(self, device: CpuDevice, table: HostTable) -> None:
        """device: whose threads move the rows; Collect and Insert share them."""
        self._device, self._table = device, table

    def gather(self, miss_rows: Any, staging: GpuStaging) -> None:
        gather_records(self._device, self._table.records, miss_rows, staging.host_in(miss_rows.shape[0]))

    def bring(self, stream: GpuStream, plan: Plan, staging: GpuStaging) -> None:
        missed = plan.miss_rows.shape[0]
        stream.copy(staging.host_in(missed), staging.device_in(missed))

    def take(self, stream: GpuStream, plan: Plan, staging: GpuStaging) -> None:
        evicted = plan.evict_rows.shape[0]
        stream.copy(staging.device_out(evicted), staging.host_out(evicted))

    def scatter(self, evict_rows: Any, staging: GpuStaging) -> None:
        scatter_records(self._device, staging.host_out(evict_rows.shape[0]), evict_rows, self._table.records)


class DirectExchange:
    """Kernels read and write the page-locked host table over the link; the CPU touches no row."""

    name, moved_by_host = DIRECT, False

    def __init__(self, device: GpuDevice, table: HostTable) -> None:
        """Locks the pages of the host table for good, unless they are. Raises DeviceError where that cannot be."""
        try:
            self._records = device.runtime.mapped(table.records)
        except DeviceError:
            device.runtime.lock_pages(table.records)
            self._records = device.runtime.mapped(table.records)

    def gather(self, miss_rows: Any, staging: GpuStaging) -> None:
        """Nothing: `bring` reads the table."""

    def bring(self, stream: GpuStream, plan: Plan, staging: GpuStaging) -> None:
        device_in = staging.device_in(plan.miss_rows.shape[0])
        gather_records(stream, self._records, plan.miss_rows, device_in, over_link=True)

    def take(self, stream: GpuStream, plan: Plan, staging: GpuStaging) -> None:
        device_out = staging.device_out(plan.evict_rows.shape[0])
        scatter_records(stream, device_out, plan.evict_rows, self._records, over_link=True)

    def scatter(self, evict_rows: Any, staging: GpuStaging) -> None:
        """Nothing: `take` writes the table."""


def make_exchange(name: str, device: GpuDevice, table: HostTable, say: Callable[[str], None]) -> Exchange:
    """The exchange that is asked for; `auto` measures both. say: is told what was chosen, and why.

    Where the table's pages cannot be locked it is the staged one. Raises ConfigError on an unknown name.
    """
    if name not in EXCHANGES:
        raise ConfigError(f"unknown exchange {name!r}; choose {', '.join(EXCHANGES)}")
    staged = StagedExchange(device.host, table)
    if name == STAGED or table.records.shape[0] == 0:
        return staged
    try:
        direct = DirectExchange(device, table)
    except DeviceError as error:
        say(f"exchange staged, because the host table cannot be reached from the GPU: {error}")
        return staged
    if name == DIRECT:
        return direct
    seconds = {STAGED: _seconds(staged, device, table), DIRECT: _seconds(direct, device, table)}
    chosen: Exchange = staged if seconds[STAGED] <= seconds[DIRECT] else direct
    shown = ", ".join(f"{each} {seconds[each] * 1e3:.2f} ms" for each in seconds)
    say(f"exchange {chosen.name}: {min(TRIED_ROWS, table.records.shape[0]):,} rows each way took {shown}")
    return chosen


def _seconds(exchange: Exchange, device: GpuDevice, table: HostTable) -> float:
    """What moving rows in and out again takes; the shortest of a few trials. The rows keep their values."""
    R, width = table.records.shape
    rows = np.sort(np.random.default_rng(0).permutation(R)[:TRIED_ROWS] if R <= 2**22 else _spread(R))
    on_device = device.upload(rows)
    staging = GpuStaging(device, width, on_host=exchange.moved_by_host)
    staging.reserve(rows.shape[0], rows.shape[0])
    slots = device.zeros(rows.shape[0], np.int32)
    plan = Plan(0, slots, on_device, slots, on_device, slots)
    into, out = device.stream("in"), device.stream("out")
    seconds = []
    for _ in range(1 + TRIALS):
        begun = time.perf_counter()
        exchange.gather(rows, staging)
        exchange.bring(into, plan, staging)
        device.synchronize()
        device.copy(staging.device_in(rows.shape[0]), staging.device_out(rows.shape[0]))
        device.synchronize()
        exchange.take(out, plan, staging)
        device.synchronize()
        exchange.scatter(rows, staging)
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def _spread(R: int) -> np.ndarray:
    """TRIED_ROWS different rows of very many, without a list of them all."""
    return np.arange(TRIED_ROWS, dtype=np.int64) * (R // TRIED_ROWS)
