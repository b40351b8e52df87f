"""The loss of a step, which a GPU knows later than it is asked for."""

from __future__ import annotations

from typing import Any, SupportsFloat

import numpy as np

from cupyrec.devices.gpu import GpuDevice, GpuEvent

# Losses that are on their way to the host at once.
LOSSES = 64


class PendingLoss:
    """A loss that is on its way to the host; float() waits for it."""

    def __init__(self, place: Any, samples: int, event: GpuEvent) -> None:
        """place: (1,) float64, page-locked: where the sum of the samples' losses will stand."""
        self._place, self._samples, self._event = place, samples, event
        self._value: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether float() need not wait."""
        return self._value is not None or self._event.is_done

    def __float__(self) -> float:
        if self._value is None:
            self._event.synchronize()
            self._value = float(self._place[0]) / self._samples
        return self._value


def is_known(loss: SupportsFloat) -> bool:
    """Whether a loss can be had without waiting."""
    return not isinstance(loss, PendingLoss) or loss.is_known


class LossReader:
    """Brings the losses of a GPU's steps to the host, without waiting for them.

    Training only copies them aside. They go on over the link on a stream of their own: there they may have to wait
    behind many megabytes of rows, as training would with them.
    """

    def __init__(self, device: GpuDevice) -> None:
        self._device, self._stream = device, device.stream("loss")
        self._copied, self._events = GpuEvent(device.runtime), [GpuEvent(device.runtime) for _ in range(LOSSES)]
        self._aside, self._places = device.empty(LOSSES, np.float64), device.page_locked(LOSSES, np.float64)
        self._pending: list[PendingLoss | None] = [None] * LOSSES
        self._read = 0

    def read(self, loss_sum: Any, samples: int) -> PendingLoss:
        """The loss whose sum will be in loss_sum, (1,) float64, device, when all that training has queued is done."""
        at = self._read % LOSSES
        self._read += 1
        before = self._pending[at]
        if before is not None:
            float(before)  # its place is used again
        aside, place, stream = self._aside[at : at + 1], self._places[at : at + 1], self._stream
        self._device.copy(loss_sum, aside)
        stream.wait(self._device.record(self._copied))
        stream.copy(aside, place)
        pending = self._pending[at] = PendingLoss(place, samples, stream.record(self._events[at]))
        return pending
