"""A copy of the whole host table in device memory."""

from __future__ import annotations

from typing import Any

from cupyrec.devices.gpu import GpuDevice
from cupyrec.embedding.host_table import HostTable

# Copied at a time: some 64 MB at D 128, so that an interrupt need not wait for the whole table.
ROWS_OF_ONE_COPY = 131_072


class DeviceTable:
    """The records of a host table on a GPU, copied there when they are first asked for.

    changed: whether they differ from the host's; who trains them says so.
    """

    def __init__(self, device: GpuDevice, table: HostTable) -> None:
        """Allocates the memory, and copies nothing yet. Raises DeviceMemoryError."""
        self._device, self._table = device, table
        self._records = device.empty(table.records.shape, table.records.dtype)
        self._is_there = self.changed = False

    def on_device(self) -> Any:
        """(R, record width), device."""
        if not self._is_there:
            for part in self._parts():
                self._copy(self._table.records[part], self._records[part])
            self._is_there = True
        return self._records

    def to_host(self) -> None:
        """Copy the records to the host table, where they have changed."""
        if self.changed:
            self._device.synchronize()  # an interrupt may have left a step cut in two, on two streams
            for part in self._parts():
                self._copy(self._records[part], self._table.records[part])
            self.changed = False

    def forget(self) -> None:
        """The host table was filled anew: what is on the device is void."""
        self._is_there = self.changed = False

    def _copy(self, source: Any, target: Any) -> None:
        self._device.copy(source, target)
        self._device.record().synchronize()

    def _parts(self) -> list[slice]:
        rows = self._table.records.shape[0]
        return [slice(at, min(at + ROWS_OF_ONE_COPY, rows)) for at in range(0, rows, ROWS_OF_ONE_COPY)]
