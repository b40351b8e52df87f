"""What every optimizer needs to update the rows of one batch, and the launch that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cupyrec.batch import CoalescePlan
from cupyrec.devices.cpu import CpuDevice
from cupyrec.functions.embedding_bag import balanced_bounds


@dataclass(frozen=True, eq=False)
class RowUpdate:
    """The coalesced update of one batch.

    records: (rows or slots, record width) of one floating dtype, device: D weights, then the optimizer's state.
             Modified.
    dY:      (B, F, D) of the same dtype, device: the gradient of the pooled vectors.
    offsets: (F*B + 1,) int64: the batch's bags.
    plan:    the batch's unique rows and segments.
    mean:    whether bags were averaged; each lookup's gradient is then divided by the length of its bag.
    slots:   (U,) int32, device: where in records each unique row is; None where records holds every row.
    """

    records: Any
    dY: Any
    offsets: Any
    plan: CoalescePlan
    mean: bool
    slots: Any = None

    @property
    def places(self) -> Any:
        """(U,): where in records each unique row is."""
        return self.plan.unique_rows if self.slots is None else self.slots


def launch_row_update(
    device: CpuDevice, kernel_for: Callable[[int, int, bool], Any], update: RowUpdate, *settings: float
) -> None:
    """Run an optimizer's row kernel over the unique rows; each row is read and written once, by one thread.

    kernel_for: makes the kernel for D, the bytes of an element, and mean. settings: its last arguments.
    Raises TypeError where records and gradient differ in dtype.
    """
    records, dY, plan = update.records, update.dY, update.plan
    if records.dtype != dY.dtype:
        raise TypeError(f"records are {records.dtype}, but their gradient is {dY.dtype}")
    kernel = kernel_for(dY.shape[2], dY.dtype.itemsize, update.mean)
    device.launch(
        kernel,
        plan.unique,
        records,
        dY,
        update.offsets,
        update.places,
        plan.segment_offsets,
        plan.segment_bags,
        *settings,
        bounds=balanced_bounds(device, plan),
    )
