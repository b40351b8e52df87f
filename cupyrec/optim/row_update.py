"""What every optimizer needs to update the rows of one batch, and the launch that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cupyrec.batch import CoalescePlan, GpuCoalescePlan
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuStream
from cupyrec.functions.embedding_bag import (
    balanced_bounds,
    check_bags,
    check_vectors,
    constants_of,
    kind_of,
    plan_of,
    sum_segments,
)


@dataclass(frozen=True, eq=False)
class RowUpdate:
    """The coalesced update of one batch.

    records: (rows or slots, record width) of one floating dtype, device: D weights, then the optimizer's state.
             Modified.
    dY:      (B, F, D) of the same dtype, device: the gradient of the pooled vectors.
    offsets: (F*B + 1,) int64, device: the batch's bags.
    plan:    the batch's unique rows and segments, device: a GpuCoalescePlan on a GPU, else a CoalescePlan.
    mean:    whether bags were averaged; each lookup's gradient is then divided by the length of its bag.
    slots:   (U,) int32 or more, device: where in records each unique row is; None where records holds every row.
    partial_sums: for a GPU: (most_chunks(N), D) float32 or more rows, device: room that is overwritten. Else None.

    All arrays are C-contiguous.
    """

    records: Any
    dY: Any
    offsets: Any
    plan: CoalescePlan | GpuCoalescePlan
    mean: bool
    slots: Any = None
    partial_sums: Any = None

    @property
    def places(self) -> Any:
        """(U,): where in records each unique row is."""
        return self.plan.unique_rows if self.slots is None else self.slots


class RowOptimizer(Protocol):
    """What is asked here of an optimizer."""

    @property
    def name(self) -> str: ...

    def row_state_width(self, dimension: int) -> int: ...


def launch_row_update(
    device: Device,
    optimizer: RowOptimizer,
    kernel_for: Callable[[int, int, bool], Any],
    update: RowUpdate,
    *settings: float,
) -> None:
    """Run an optimizer's step on the unique rows; each row is read and written once.

    optimizer: whose step it is. kernel_for: makes its kernel for the CPU from D, the bytes of an element, and mean.
    settings: the kernel's last arguments: the learning rate, and eps where the optimizer has one.
    Raises TypeError where records and gradient differ in dtype, or the plan is not one for the device; ValueError where
    an array has another shape, or is not C-contiguous. The values in a plan and in slots are not checked: a row or
    slot outside of records spoils memory, or ends the process.
    """
    records, dY, plan, slots = update.records, update.dY, update.plan, update.slots
    check_bags(dY, update.offsets, "dY")
    D = dY.shape[2]
    if records.ndim != 2 or records.shape[1] < D + optimizer.row_state_width(D):
        raise ValueError(
            f"records must hold {D} weights and {optimizer.row_state_width(D)} of {optimizer.name}'s state in a row, "
            f"but are {records.shape}"
        )
    if records.dtype != dY.dtype:
        raise TypeError(f"records are {records.dtype}, but their gradient is {dY.dtype}")
    if isinstance(device, GpuStream):
        _update_on_gpu(device, optimizer.name, update, *settings)
        return
    check_vectors(update.offsets, records=records, dY=dY)
    cpu_plan = plan_of(plan, CoalescePlan)
    if slots is not None and (slots.ndim != 1 or slots.shape[0] < cpu_plan.unique or slots.dtype != np.int32):
        raise ValueError(
            f"slots must be ({cpu_plan.unique} or more,) int32, one for each row of the plan, but are {slots.shape} "
            f"{slots.dtype}"
        )
    kernel = kernel_for(D, dY.dtype.itemsize, update.mean)
    device.launch(
        kernel,
        cpu_plan.unique,
        records,
        dY,
        update.offsets,
        update.places,
        cpu_plan.segment_offsets,
        cpu_plan.segment_bags,
        *settings,
        bounds=balanced_bounds(device, cpu_plan),
        floats=(cpu_plan.segment_bags.shape[0] + 2 * cpu_plan.unique) * D,
    )


def _update_on_gpu(stream: GpuStream, name: str, update: RowUpdate, learning_rate: float, eps: float = 0.0) -> None:
    """See row_update.cu."""
    kind, width = kind_of(update.places), update.records.shape[1]
    names = (f"update_short_at_{kind}", "sum_chunks", f"update_long_at_{kind}")
    constants = {**constants_of(update.dY.shape[2], update.mean), name.upper().replace("-", "_"): 1}
    step = update.records, np.int32(width), update.places, np.float32(learning_rate), np.float32(eps)
    sum_segments(
        stream, "row_update", names, constants, update.dY, update.offsets, update.plan, update.partial_sums, *step
    )
