"""The ring buffer of mini-batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cupyrec.batch import Batch, CoalescePlan
from cupyrec.embedding.coalesce import CoalesceMemory
from cupyrec.pipeline.plan import Plan, PlanMemory


@dataclass(eq=False)
class RingEntry:
    """One batch on its way through the pipeline. Its memory grows with the largest batch and is used again.

    coalesced:    its unique rows and their segments, from Load on.
    plan, slots:  from Plan on; slots: (N,) int32, the slot of each lookup.
    """

    coalesce_memory: CoalesceMemory = field(default_factory=CoalesceMemory)
    plan_memory: PlanMemory = field(default_factory=PlanMemory)
    slots_memory: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    batch: Batch | None = None
    coalesced: CoalescePlan | None = None
    plan: Plan | None = None
    slots: Any = None


class Staging:
    """Records on their way between host table and scratchpad, on both sides of the link, for one batch."""

    def __init__(self, record_width: int, dtype: Any) -> None:
        self._width, self._dtype = record_width, np.dtype(dtype)
        self._capacity = -1

    def reserve(self, rows: int) -> None:
        """Make room for so many records each way."""
        if self._capacity >= rows:
            return
        self._capacity = rows
        parts = [np.empty((rows, self._width), self._dtype) for _ in range(4)]
        self.host_in, self.device_in, self.device_out, self.host_out = parts
