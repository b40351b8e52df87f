"""What memory the host table lies in: ordinary, whose pages are locked for kernels, or managed by CUDA's driver."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

from cupyrec.byte_sizes import format_bytes
from cupyrec.config import SystemConfig
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice
from cupyrec.embedding.move_rows import gather_records
from cupyrec.errors import DeviceError, DeviceMemoryError
from cupyrec.systems.scratchpipe import ScratchpipeSystem
from cupyrec.systems.serial import SerialSystem

ORDINARY, MANAGED, AUTO = "ordinary", "managed", "auto"
# Smaller tables have few pages: `auto` leaves them in ordinary memory. Larger ones are tried in no more than the most.
LEAST_TRIED_BYTES, MOST_TRIED_BYTES = 2**30, 2**31
# A read takes one of so many rows, as a batch does; how often, after a first time in which the kernel is loaded.
ROWS_OF_ONE_READ, READS = 256, 5
# Shares of the time in ordinary memory: at which managed memory is worth it, and what the host may take there. Where
# kernels reach rows so fast the host moves none in training, and without huge pages it is slower.
WORTH_IT, MOST_OF_HOST = 0.8, 2.5


class TableMemory:
    """Gives a host table its memory, as a configuration asks for it.

    name: ordinary or managed, what was given last; why: how `auto` decided, for people; empty where there was nothing
    to decide.
    """

    def __init__(self, config: SystemConfig, device: Device) -> None:
        """config: resolved. Only rows of serial and scratchpipe on a GPU cross the link: others are in ordinary memory,
        and so are those that are always staged, unless `managed` is asked for.
        """
        self.name, self.why = ORDINARY, ""
        self._device = device
        over_link = isinstance(device, GpuDevice) and config.name in (SerialSystem.name, ScratchpipeSystem.name)
        self._wanted = config.host_memory if over_link else ORDINARY
        if self._wanted == AUTO and config.exchange == "staged":
            self._wanted = ORDINARY

    def zeros(self, shape: tuple[int, int], dtype: Any) -> np.ndarray:
        """(rows, width) of zeros, host. Where the driver gives no memory it is ordinary, which is said if asked for."""
        device = self._device
        self.name, self.why = self._wanted, ""
        if isinstance(device, GpuDevice):
            if self.name == AUTO:
                self.name, self.why = _faster(device, shape, np.dtype(dtype))
            if self.name == MANAGED:
                try:
                    return device.managed_zeros(shape, dtype)
                except DeviceMemoryError as error:
                    device.say(f"{error}; the tables are in ordinary memory")
                    self.name, self.why = ORDINARY, ""
        return device.host.zeros(shape, dtype)


def _faster(device: GpuDevice, shape: tuple[int, int], dtype: np.dtype) -> tuple[str, str]:
    """The memory from which random rows are read faster, and why it is that one."""
    rows, width = shape
    record_bytes = width * dtype.itemsize
    table_bytes = rows * record_bytes
    if table_bytes < LEAST_TRIED_BYTES:
        return ORDINARY, ""
    # What drivers do with managed memory that the GPU could not hold has not been measured.
    if table_bytes > (free_bytes := device.runtime.memory_bytes()[0]):
        return ORDINARY, (
            f"{format_bytes(table_bytes)} of rows are more than the {format_bytes(free_bytes)} that are free on the "
            "GPU, beyond which managed memory has not been tried; `--host-memory managed` tries it"
        )
    tried = min(rows, MOST_TRIED_BYTES // record_bytes), width
    try:
        locked = device.host.zeros(tried, dtype)
        device.runtime.lock_pages(locked)
        ordinary = random_reads_ms(device, locked)
        del locked
        managed = random_reads_ms(device, device.managed_zeros(tried, dtype))
    except DeviceError as error:
        return ORDINARY, f"not both kinds can be tried: {error}"
    is_better = managed.gpu <= WORTH_IT * ordinary.gpu and managed.host <= MOST_OF_HOST * ordinary.host
    return (MANAGED if is_better else ORDINARY), (
        f"to read random rows takes the GPU {ordinary.gpu:.2f} ms in ordinary and {managed.gpu:.2f} ms in managed "
        f"memory, the host {ordinary.host:.2f} and {managed.host:.2f} ms"
    )


class ReadTimes(NamedTuple):
    """Milliseconds."""

    gpu: float
    host: float


def random_reads_ms(device: GpuDevice, records: np.ndarray) -> ReadTimes:
    """What it takes to read random rows: the least of a few times, other rows each time.

    records: (rows, width) host memory that kernels reach. Raises DeviceError.
    """
    mapped, (rows, width) = device.runtime.mapped(records), records.shape
    count = max(rows // ROWS_OF_ONE_READ, 1)
    on_device, on_host = device.empty((count, width), records.dtype), np.empty((count, width), records.dtype)
    random = np.random.default_rng(0)
    times = []
    for _ in range(1 + READS):
        # In no order: in a table of many times these bytes, even sorted rows of a batch are this far apart.
        places = random.integers(0, rows, count)
        uploaded = device.upload(places)
        begun = device.record(timed=True)
        gather_records(device, mapped, uploaded, on_device, over_link=True)
        ended = device.record(timed=True)
        ended.synchronize()
        host_begun = time.perf_counter()
        gather_records(device.host, records, places, on_host)
        host_ms = (time.perf_counter() - host_begun) * 1e3
        times.append(ReadTimes(device.runtime.elapsed_ms(begun.handle, ended.handle), host_ms))
    return ReadTimes(*map(min, zip(*times[1:], strict=True)))
