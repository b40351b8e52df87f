"""What a run takes of a GPU's memory, known before anything is allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cupyrec.batch import most_chunks
from cupyrec.byte_sizes import format_bytes
from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.embedding.gpu_coalesce import GPU_PLAN_BYTES_PER_LOOKUP, GPU_SORT_BYTES_PER_LOOKUP
from cupyrec.embedding.host_table import record_width
from cupyrec.errors import MemoryPlanError
from cupyrec.models.dlrm import activation_elements, dense_parameters
from cupyrec.optim.registry import Optimizer
from cupyrec.pipeline.gpu_nodes import GPU_NODE_BYTES, GPU_SLOT_BYTES
from cupyrec.pipeline.gpu_ring import GROWTH
from cupyrec.scratchpad_size import scratchpad_slots
from cupyrec.systems.hybrid import HybridSystem
from cupyrec.systems.resident import ResidentSystem
from cupyrec.systems.scratchpipe import ScratchpipeSystem
from cupyrec.systems.serial import SerialSystem
from cupyrec.systems.static import StaticSystem

FLOAT_BYTES = 4
# Of each slot, beside its record: what the planner knows of it and its row, and which row is in it now.
PLANNED_SLOT_BYTES = GPU_NODE_BYTES + GPU_SLOT_BYTES + 8
SLOT_BYTES = {SerialSystem.name: PLANNED_SLOT_BYTES, ScratchpipeSystem.name: PLANNED_SLOT_BYTES, StaticSystem.name: 0}
STAGING_SETS = {each.name: each.depth.staging_sets for each in (SerialSystem, ScratchpipeSystem)}
# Batches in device memory beside those known ahead.
BATCHES = 8
# Kernels, and what the library of matrix products works in.
LIBRARY_BYTES = 200_000_000


@dataclass(frozen=True)
class DeviceMemoryPlan:
    """Bytes of device memory by what they hold.

    records_bytes: row records, of all rows or of the scratchpad's slots; slots: S, 0 where all rows are there or none;
    slot_bytes: what a slot takes, with what is known of its row; moving_bytes: for rows or pooled vectors on their way,
    at most; dense_bytes: MLP weights, gradients and optimizer state; activation_bytes: of one batch; batch_bytes: about
    what batches and their coalescing take, with one lookup a bag; library_bytes. The batches known ahead are not in
    it: how many there are is chosen later, from what is left.
    """

    system: str
    records_bytes: int
    slots: int
    slot_bytes: int
    moving_bytes: int
    dense_bytes: int
    activation_bytes: int
    batch_bytes: int
    library_bytes: int = LIBRARY_BYTES

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.records_bytes + self._other_bytes

    @property
    def _other_bytes(self) -> int:
        dense = self.dense_bytes + self.activation_bytes
        return self.moving_bytes + dense + self.batch_bytes + self.library_bytes

    def lines(self) -> list[str]:
        """The plan as a person reads it."""
        what = f"scratchpad ({self.slots:,} rows), with what is known of them" if self.slots else "embedding rows"
        parts = (
            (what, self.records_bytes),
            ("on the way from the host and back", self.moving_bytes),
            ("MLPs with gradients and state", self.dense_bytes),
            ("activations", self.activation_bytes),
            ("batches and their coalescing", self.batch_bytes),
            ("kernels and libraries", self.library_bytes),
            ("total", self.total_bytes),
        )
        return [f"{what:<42} {format_bytes(size):>10}" for what, size in parts if size]

    def check(self, free_bytes: int) -> None:
        """Raise MemoryPlanError, with the setting that would do, when the plan does not fit."""
        if self.total_bytes <= free_bytes:
            return
        raise MemoryPlanError(
            f"system {self.system} needs {format_bytes(self.total_bytes)} of GPU memory (rows "
            f"{format_bytes(self.records_bytes)}, MLPs {format_bytes(self.dense_bytes)}, activations and batches "
            f"{format_bytes(self.activation_bytes + self.batch_bytes)}, rows on their way "
            f"{format_bytes(self.moving_bytes)}, libraries {format_bytes(self.library_bytes)}), but "
            f"{format_bytes(free_bytes)} are free; {self._advice(free_bytes)}"
        )

    def _advice(self, free_bytes: int) -> str:
        """What would fit."""
        left_bytes = free_bytes - self._other_bytes
        if self.slots and left_bytes >= self.slot_bytes:
            return f"a scratchpad of {left_bytes // self.slot_bytes:,} rows would fit (--scratchpad)"
        if self.system == ResidentSystem.name and left_bytes > 0:
            return "train them through a scratchpad: --system scratchpipe"
        return "take smaller batches (--batch-size) or narrower MLPs"


def plan_device_memory(
    config: DlrmConfig, optimizer: Optimizer | None, max_samples: int, system: SystemConfig | None = None
) -> DeviceMemoryPlan:
    """What training takes of a GPU's memory or, without an optimizer, prediction.

    max_samples: the most samples of a batch; system: resolved; None: resident.
    """
    name = ResidentSystem.name if system is None else system.name
    rows, D, F = sum(config.table_rows), config.dimension, config.features
    record_bytes = record_width(D, optimizer.row_state_width(D) if optimizer else 0, FLOAT_BYTES) * FLOAT_BYTES
    parameters = dense_parameters(config)
    dense_state = optimizer.dense_state_size(parameters) if optimizer else 0
    pooled_bytes = max_samples * F * D * FLOAT_BYTES
    slots, slot_bytes, moving_bytes, records_bytes = 0, 0, 0, 0
    if name == ResidentSystem.name:
        records_bytes = rows * record_bytes
    elif name == HybridSystem.name:
        moving_bytes = 0  # pooled vectors are activations
    elif system is not None:
        slots = min(scratchpad_slots(system.scratchpad, rows, record_bytes), rows)
        slot_bytes = record_bytes + SLOT_BYTES[name]
        records_bytes = slots * slot_bytes
        if name == StaticSystem.name:
            moving_bytes = pooled_bytes
        else:
            moving_bytes = int(GROWTH * 2 * STAGING_SETS[name] * min(slots, max_samples * F) * record_bytes)
    lookups = max_samples * F
    batch = FLOAT_BYTES * max_samples * (config.dense_features + 1) + 16 * lookups
    plan_bytes, sort_bytes = (
        math.ceil(a_lookup * lookups) for a_lookup in (GPU_PLAN_BYTES_PER_LOOKUP, GPU_SORT_BYTES_PER_LOOKUP)
    )
    return DeviceMemoryPlan(
        system=name,
        records_bytes=records_bytes,
        slots=slots,
        slot_bytes=slot_bytes,
        moving_bytes=moving_bytes,
        dense_bytes=(2 * parameters + dense_state) * FLOAT_BYTES,
        activation_bytes=(activation_elements(config, max_samples) + most_chunks(lookups) * D) * FLOAT_BYTES,
        batch_bytes=BATCHES * (batch + plan_bytes) + sort_bytes if optimizer else batch,
    )
