"""The ways of one direction of the exchange: how missed records come to the device, and how victims leave it."""

from __future__ import annotations

from typing import Any, Protocol

from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.gpu import GpuEvent, GpuStream
from cupyrec.embedding.host_table import HostTable
from cupyrec.embedding.move_rows import gather_records, scatter_records
from cupyrec.pipeline.gpu_ring import GpuStaging

STAGED, DIRECT, MIXED = "staged", "direct", "mixed"


class WayIn(Protocol):
    """How missed records come to the device. by_host: whether `gather` is to be called, in Collect."""

    name: str
    by_host: bool

    def gather(self, miss_rows: Any, staging: GpuStaging) -> None:
        """Gather the missed records, on the host. miss_rows: (M,) int64, host."""

    def bring(self, stream: GpuStream, miss_rows: Any, staging: GpuStaging) -> None:
        """Queue what brings them to the staging's device side. miss_rows: (M,) int64, device."""


class WayOut(Protocol):
    """How victims come to the host table. by_host: whether `scatter` is to be called, in Insert; in_order: whether the
    victims are to be taken in the order of their rows.
    """

    name: str
    by_host: bool
    in_order: bool

    def take(self, stream: GpuStream, evict_rows: Any, staging: GpuStaging) -> None:
        """Queue what takes the victims from the staging's device side. evict_rows: (E,) int64, device."""

    def scatter(self, evict_rows: Any, staging: GpuStaging) -> None:
        """Write the victims to the host table, on the host. evict_rows: (E,) int64, host."""


class StagedIn:
    """The host gathers, a copy follows."""

    name, by_host = STAGED, True

    def __init__(self, device: CpuDevice, table: HostTable) -> None:
        """device: whose threads gather."""
        self._device, self._table = device, table

    def gather(self, miss_rows: Any, staging: GpuStaging) -> None:
        gather_records(self._device, self._table.records, miss_rows, staging.host_in(miss_rows.shape[0]))

    def bring(self, stream: GpuStream, miss_rows: Any, staging: GpuStaging) -> None:
        missed = miss_rows.shape[0]
        stream.copy(staging.host_in(missed), staging.device_in(missed))


class StagedOut:
    """A copy to the host, which scatters."""

    name, by_host, in_order = STAGED, True, False

    def __init__(self, device: CpuDevice, table: HostTable) -> None:
        """device: whose threads scatter."""
        self._device, self._table = device, table

    def take(self, stream: GpuStream, evict_rows: Any, staging: GpuStaging) -> None:
        evicted = evict_rows.shape[0]
        stream.copy(staging.device_out(evicted), staging.host_out(evicted))

    def scatter(self, evict_rows: Any, staging: GpuStaging) -> None:
        scatter_records(self._device, staging.host_out(evict_rows.shape[0]), evict_rows, self._table.records)


class DirectIn:
    """A kernel reads the host table."""

    name, by_host = DIRECT, False

    def __init__(self, records: Any) -> None:
        """records: the host table's, as the device reaches them."""
        self._records = records

    def gather(self, miss_rows: Any, staging: GpuStaging) -> None:
        """Nothing: `bring` reads the table."""

    def bring(self, stream: GpuStream, miss_rows: Any, staging: GpuStaging) -> None:
        gather_records(stream, self._records, miss_rows, staging.device_in(miss_rows.shape[0]), over_link=True)


class MixedIn:
    """The host gathers the first of the missed records and a copy follows; at the same time a kernel reads the others.

    A kernel waits for addresses and for the link, the host for its memory.
    """

    by_host = True

    def __init__(self, device: CpuDevice, table: HostTable, records: Any, share: float, copies: GpuStream) -> None:
        """device, table, records: of StagedIn and DirectIn; share: of the missed records that the host gathers;
        copies: a stream for nothing but their copies.
        """
        self.name, self._share = f"{MIXED} {share:.0%}", share
        self._device, self._table, self._records, self._copies = device, table, records, copies
        self._begun, self._copied = GpuEvent(copies.runtime), GpuEvent(copies.runtime)

    def gather(self, miss_rows: Any, staging: GpuStaging) -> None:
        rows = miss_rows[: self._gathered(miss_rows)]
        gather_records(self._device, self._table.records, rows, staging.host_in(rows.shape[0]))

    def bring(self, stream: GpuStream, miss_rows: Any, staging: GpuStaging) -> None:
        gathered, device_in = self._gathered(miss_rows), staging.device_in(miss_rows.shape[0])
        self._copies.wait(stream.record(self._begun))
        self._copies.copy(staging.host_in(gathered), device_in[:gathered])
        gather_records(stream, self._records, miss_rows[gathered:], device_in[gathered:], over_link=True)
        stream.wait(self._copies.record(self._copied))

    def _gathered(self, miss_rows: Any) -> int:
        """How many the host gathers."""
        return round(self._share * miss_rows.shape[0])


class DirectOut:
    """A kernel writes the host table."""

    name, by_host = DIRECT, False

    def __init__(self, records: Any, *, in_order: bool) -> None:
        """records: the host table's, as the device reaches them; in_order: see WayOut."""
        self._records, self.in_order = records, in_order

    def take(self, stream: GpuStream, evict_rows: Any, staging: GpuStaging) -> None:
        scatter_records(stream, staging.device_out(evict_rows.shape[0]), evict_rows, self._records, over_link=True)

    def scatter(self, evict_rows: Any, staging: GpuStaging) -> None:
        """Nothing: `take` writes the table."""
