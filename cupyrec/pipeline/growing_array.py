"""Arrays that grow with the largest of what they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cupyrec.devices.gpu import ARRAY_GROWTH, GpuStream


@dataclass
class Largest:
    """The largest size that any array sharing this object has needed so far."""

    items: int = 0


class GrowingArray:
    """An array in page-locked host memory, device memory or both, as long as the largest so far."""

    def __init__(
        self,
        device: GpuStream,
        dtype: Any,
        *,
        row: Sequence[int] = (),
        on_host: bool,
        on_device: bool,
        largest: Largest | None = None,
    ) -> None:
        """device: any stream of it; row: the shape of one item; largest: shared by arrays for the same thing: what one
        needs others will.
        """
        self._largest = largest or Largest()
        self._device, self._dtype, self._row = device, dtype, tuple(row)
        self._on_host, self._on_device = on_host, on_device
        self._capacity = self._viewed = -1
        self._host: Any = None
        self._array: Any = None
        self._view: Any = None

    def reserve(self, items: int) -> None:
        """Make room. What was there is lost."""
        if self._capacity >= items:
            return
        if self._capacity >= 0:
            self._device.runtime.synchronize_all()  # what is given back may still be in use
        # Not read again: another thread may write a smaller number meanwhile, which only costs growing again.
        most = self._largest.items = max(items, self._largest.items)
        capacity = math.ceil(ARRAY_GROWTH * most)
        shape = (capacity, *self._row)
        if self._on_host:
            self._host = self._device.page_locked(shape, self._dtype)
        if self._on_device:
            self._array = self._device.empty(shape, self._dtype)
        self._capacity, self._viewed = capacity, -1  # where there was too little memory, as before

    @property
    def whole_host(self) -> Any:
        """(capacity, ...), page-locked; another one whenever it has grown."""
        return self._host

    def host(self, items: int) -> Any:
        """(items, ...), page-locked."""
        return self._host[:items]

    def device(self, items: int) -> Any:
        """(items, ...), device."""
        # Views of device arrays cost microseconds, and most batches are of one size.
        if self._viewed != items:
            self._viewed, self._view = items, self._array[:items]
        return self._view
