"""How rows cross the link between the host table and the device: each direction in one of two ways.

staged   the host gathers into page-locked memory, which is copied at once; and back the same way (the paper's)
direct   kernels read and write the page-locked host table over the link; the CPU touches no row
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cupyrec.config import EXCHANGES
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.gpu import GpuDevice, GpuStream
from cupyrec.embedding.host_table import HostTable
from cupyrec.embedding.move_rows import gather_records, scatter_records
from cupyrec.errors import ConfigError, DeviceError, DeviceMemoryError
from cupyrec.pipeline.gpu_ring import GpuStaging

STAGED, DIRECT, DIRECT_IN, DIRECT_OUT = "staged", "direct", "direct-in", "direct-out"
# Rows that `auto` moves each way, as many as a large batch, and how often, to see which way is fastest.
TRIED_ROWS = 131_072
TRIALS = 3


class WayIn(Protocol):
    """How missed records come to the device. by_host: whether `gather` is to be called, in Collect."""

    name: str
    by_host: bool

    def gather(self, miss_rows: Any, staging: GpuStaging) -> None:
        """Gather the missed records, on the host. miss_rows: (M,) int64, host."""

    def bring(self, stream: GpuStream, miss_rows: Any, staging: GpuStaging) -> None:
        """Queue what brings them to the staging's device side. miss_rows: (M,) int64, device."""


class WayOut(Protocol):
    """How victims come to the host table. by_host: whether `scatter` is to be called, in Insert."""

    name: str
    by_host: bool

    def take(self, stream: GpuStream, evict_rows: Any, staging: GpuStaging) -> None:
        """Queue what takes the victims from the staging's device side. evict_rows: (E,) int64, device."""

    def scatter(self, evict_rows: Any, staging: GpuStaging) -> None:
        """Write the victims to the host table, on the host. evict_rows: (E,) int64, host."""


@dataclass(frozen=True)
class Exchange:
    """A way for each direction."""

    into: WayIn
    out: WayOut

    @property
    def name(self) -> str:
        """As `--exchange` has it."""
        if self.into.name == self.out.name:
            return self.into.name
        return DIRECT_IN if self.into.name == DIRECT else DIRECT_OUT


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

    name, by_host = STAGED, True

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


class DirectOut:
    """A kernel writes the host table."""

    name, by_host = DIRECT, False

    def __init__(self, records: Any) -> None:
        """records: the host table's, as the device reaches them."""
        self._records = records

    def take(self, stream: GpuStream, evict_rows: Any, staging: GpuStaging) -> None:
        scatter_records(stream, staging.device_out(evict_rows.shape[0]), evict_rows, self._records, over_link=True)

    def scatter(self, evict_rows: Any, staging: GpuStaging) -> None:
        """Nothing: `take` writes the table."""


def staged_exchange(device: GpuDevice, table: HostTable) -> Exchange:
    """Both directions staged."""
    return Exchange(StagedIn(device.host, table), StagedOut(device.host, table))


def direct_exchange(device: GpuDevice, table: HostTable) -> Exchange:
    """Both directions direct. Locks the pages of the table for good. Raises DeviceError where that cannot be."""
    try:
        records = device.runtime.mapped(table.records)
    except DeviceError:
        device.runtime.lock_pages(table.records)
        records = device.runtime.mapped(table.records)
    return Exchange(DirectIn(records), DirectOut(records))


def all_exchanges(device: GpuDevice, table: HostTable) -> dict[str, Exchange]:
    """The four, by name. Locks the pages of the table for good. Raises DeviceError where that cannot be."""
    staged, direct = staged_exchange(device, table), direct_exchange(device, table)
    ways = itertools.product((staged.into, direct.into), (staged.out, direct.out))
    return {each.name: each for each in itertools.starmap(Exchange, ways)}


def make_exchange(
    name: str, device: GpuDevice, table: HostTable, say: Callable[[str], None], *, slots: int = TRIED_ROWS
) -> Exchange:
    """The exchange that is asked for; `auto` tries all and takes the fastest. say: is told what was chosen, and why.

    slots: S; no more rows are tried at once. Where the table's pages cannot be locked, or memory is too short to try,
    it is the staged one. Raises ConfigError on an unknown name.
    """
    if name not in EXCHANGES:
        raise ConfigError(f"unknown exchange {name!r}; choose {', '.join(EXCHANGES)}")
    staged = staged_exchange(device, table)
    if name == STAGED or table.records.shape[0] == 0:
        return staged
    try:
        exchanges = all_exchanges(device, table)
    except DeviceError as error:
        say(f"exchange staged, because the host table cannot be reached from the GPU: {error}")
        return staged
    if name in exchanges:
        return exchanges[name]
    most_rows = min(TRIED_ROWS, slots, table.records.shape[0])
    try:
        seconds = try_exchanges(device, table, exchanges.values(), most_rows)
    except DeviceMemoryError as error:
        say(f"exchange staged, because there is no memory to try the others: {error}")
        return staged
    chosen = exchanges[min(seconds, key=lambda each: seconds[each])]
    shown = ", ".join(f"{each} {seconds[each] * 1e3:.2f} ms" for each in seconds)
    say(f"exchange {chosen.name}: {most_rows:,} rows each way took {shown}")
    return chosen


def try_exchanges(
    device: GpuDevice, table: HostTable, exchanges: Iterable[Exchange], most_rows: int = TRIED_ROWS
) -> dict[str, float]:
    """What moving rows in and out takes in each way, by name: the least of a few trials, both directions at once.

    The rows keep their values. most_rows: each way. Raises DeviceMemoryError.
    """
    trial = _Trial(device, table, most_rows)
    with device.running():
        return {each.name: trial.seconds(each) for each in exchanges}


class _Trial:
    """Moves the same rows in and out. Each direction's host work and its way over the link overlap, as in a pipeline,
    where they are stages of different batches.
    """

    def __init__(self, device: GpuDevice, table: HostTable, most_rows: int) -> None:
        R, width = table.records.shape
        count = min(most_rows, R)
        # Spread like the rows of a batch, in two halves, so that no row is read while it is written.
        rows = np.sort(np.unique(np.random.default_rng(0).integers(0, R, 2 * count)))
        self._rows = rows[0::2], rows[1::2] if rows.shape[0] > 1 else rows
        self._on_device = [device.upload(each) for each in self._rows]
        self._stagings = [GpuStaging(device, width, in_on_host=True, out_on_host=True) for _ in range(2)]
        most = max(each.shape[0] for each in self._rows)
        for staging in self._stagings:
            staging.reserve(most, most)
        self._streams = device.stream("in"), device.stream("out")
        # What goes out is what is there.
        out = self._rows[1]
        for staging in self._stagings:
            gather_records(device.host, table.records, out, staging.host_out(out.shape[0]))
            device.upload(staging.host_out(out.shape[0]), staging.device_out(out.shape[0]))

    def seconds(self, exchange: Exchange) -> float:
        """The least of a few trials, the first of which is not counted."""
        return min([self._once(exchange) for _ in range(1 + TRIALS)][1:])

    def _once(self, exchange: Exchange) -> float:
        (in_stream, out_stream), (one, other) = self._streams, self._stagings
        (in_rows, out_rows), (in_there, out_there) = self._rows, self._on_device

        def bring() -> None:
            exchange.into.bring(in_stream, in_there, one)
            in_stream.record().synchronize()

        def take() -> None:
            exchange.out.take(out_stream, out_there, one)
            out_stream.record().synchronize()

        works = (
            bring,
            take,
            lambda: exchange.into.gather(in_rows, other),
            lambda: exchange.out.scatter(out_rows, other),
        )
        begun = time.perf_counter()
        with ThreadPoolExecutor(len(works)) as pool:
            for done in [pool.submit(work) for work in works]:
                done.result()
        return time.perf_counter() - begun
