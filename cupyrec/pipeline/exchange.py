"""How rows cross the link between the host table and the device: each direction in a way of its own.

staged   the host gathers into page-locked memory, which is copied at once; and back the same way (the paper's)
direct   kernels read and write the page-locked host table over the link; the CPU touches no row
mixed    of what comes in, a share is staged and the rest direct; what goes out is staged
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cupyrec.config import EXCHANGES
from cupyrec.devices.gpu import GpuDevice
from cupyrec.embedding.host_table import HostTable
from cupyrec.embedding.move_rows import gather_records
from cupyrec.errors import ConfigError, DeviceError, DeviceMemoryError
from cupyrec.pipeline.gpu_ring import GpuStaging
from cupyrec.pipeline.ways import (
    DIRECT,
    MIXED,
    STAGED,
    DirectIn,
    DirectOut,
    MixedIn,
    StagedIn,
    StagedOut,
    WayIn,
    WayOut,
)

AUTO, DIRECT_IN, DIRECT_OUT = "auto", "direct-in", "direct-out"
# What of `--exchange` is found out by moving rows.
CHOSEN_BY_TRIAL = (AUTO, MIXED)
# Of what comes in, the shares that are tried to be staged where the rest is direct.
MIXED_SHARES = (0.25, 0.5, 0.75)
# Rows that are moved each way to find it out, as many as a large batch, and how often, to see which way is fastest.
TRIED_ROWS = 131_072
TRIALS = 3


@dataclass(frozen=True)
class Exchange:
    """A way for each direction."""

    into: WayIn
    out: WayOut

    @property
    def name(self) -> str:
        """As `--exchange` has it, and where it is mixed how much is staged."""
        if self.into.name == self.out.name or self.into.name.startswith(MIXED):
            return self.into.name
        return DIRECT_IN if self.into.name == DIRECT else DIRECT_OUT


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
    # Locked pages are small, and are then met one after another. To managed memory the order means nothing.
    return Exchange(DirectIn(records), DirectOut(records, in_order=not device.runtime.is_managed(table.records)))


def all_exchanges(device: GpuDevice, table: HostTable) -> dict[str, Exchange]:
    """All there are, by name. Locks the pages of the table for good. Raises DeviceError where that cannot be."""
    staged, direct = staged_exchange(device, table), direct_exchange(device, table)
    records, copies = device.runtime.mapped(table.records), device.stream("in-copy")
    ways = [
        *itertools.product((staged.into, direct.into), (staged.out, direct.out)),
        *((MixedIn(device.host, table, records, share, copies), staged.out) for share in MIXED_SHARES),
    ]
    return {each.name: each for each in itertools.starmap(Exchange, ways)}


def make_exchange(
    name: str, device: GpuDevice, table: HostTable, say: Callable[[str], None], *, slots: int = TRIED_ROWS
) -> Exchange:
    """The exchange that is asked for; `auto` tries all and takes the fastest, `mixed` the fastest of the mixed ones.

    say: is told what was chosen, and why.

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
    tried = [each for each in exchanges.values() if name == AUTO or each.name.startswith(name)]
    try:
        seconds = try_exchanges(device, table, tried, most_rows)
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
