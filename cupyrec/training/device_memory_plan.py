"""What a run takes of a GPU's memory, known before anything is allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cupyrec.batch import most_chunks
from cupyrec.byte_sizes import format_bytes
from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.embedding.gpu_coalesce import GPU_PLAN_BYTES_PER_LOOKUP, GPU_SORT_BYTES_PER_LOOKUP
from cupyrec.embedding.host_table import record_width
from cupyrec.embedding.radix_sort import SORT_BYTES_PER_ITEM
from cupyrec.errors import MemoryPlanError
from cupyrec.models.dlrm import activation_elements, dense_parameters
from cupyrec.optim.registry import Optimizer
from cupyrec.pipeline.gpu_nodes import GPU_NODE_BYTES, GPU_SLOT_BYTES
from cupyrec.pipeline.gpu_nodes import GROWTH as PLANNER_GROWTH
from cupyrec.pipeline.gpu_ring import GROWTH
from cupyrec.pipeline.gpu_stage_work import FLUSHED_ROWS
from cupyrec.pipeline.gpu_victims import SPARE_BITS
from cupyrec.scratchpad_size import scratchpad_slots
from cupyrec.systems.device_inputs import UPLOADS
from cupyrec.systems.hybrid import HybridSystem
from cupyrec.systems.resident import LOADED_BATCHES, ResidentSystem
from cupyrec.systems.scratchpipe import ScratchpipeSystem
from cupyrec.systems.serial import SerialSystem
from cupyrec.systems.static import StaticSystem

FLOAT_BYTES = 4
DEPTH_OF = {each.name: each.depth for each in (SerialSystem, ScratchpipeSystem)}
# What is known of a slot's row, at most: while memory grows, what was there before is there too.
PLANNED_ROW_BYTES = int(1.5 * GPU_NODE_BYTES)
# Of each slot, beside its record: what the planner knows of it and its row, and which row is in it now.
PLANNED_SLOT_BYTES = PLANNED_ROW_BYTES + GPU_SLOT_BYTES + 8
# Of a unique row of a batch: its slot, and row and slot of as many misses and victims.
PLAN_BYTES_PER_ROW = 4 + 2 * (8 + 4)
# Of a row that may leave: when it was listed, and its slot, before and after sorting.
VICTIM_BYTES = 2 * (8 + 4) + SORT_BYTES_PER_ITEM
# Of a victim on its way: its row and its slot; and of sorting them.
VICTIM_ON_ITS_WAY_BYTES = 8 + 4
# How often a row is used in all data.
COUNT_BYTES = 4
# Kernels, and what the library of matrix products works in.
LIBRARY_BYTES = 200_000_000


@dataclass(frozen=True)
class DeviceMemoryPlan:
    """Bytes of device memory by what they hold.

    records_bytes: row records, of all rows or of the scratchpad's slots; slots: S, 0 where all rows are there or none;
    slot_bytes: what a slot takes, with what is known of its row; planner_bytes: what else planning takes; moving_bytes:
    for rows or pooled vectors on their way, at most; dense_bytes: MLP weights, gradients and optimizer state;
    activation_bytes: of one batch; batch_bytes: what batches and their coalescing take, with one lookup a bag;
    library_bytes. The batches known ahead are not in it: how many there are is chosen later, from what is left.
    """

    system: str
    records_bytes: int
    slots: int
    slot_bytes: int
    planner_bytes: int
    moving_bytes: int
    dense_bytes: int
    activation_bytes: int
    batch_bytes: int
    library_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.records_bytes + self._other_bytes

    @property
    def _other_bytes(self) -> int:
        dense = self.dense_bytes + self.activation_bytes
        return self.planner_bytes + self.moving_bytes + dense + self.batch_bytes + self.library_bytes

    def lines(self) -> list[str]:
        """The plan as a person reads it."""
        what = f"scratchpad ({self.slots:,} rows), with what is known of them" if self.slots else "embedding rows"
        parts = (
            (what, self.records_bytes),
            ("planning", self.planner_bytes),
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
            f"{format_bytes(self.activation_bytes + self.batch_bytes)}, planning and rows on their way "
            f"{format_bytes(self.planner_bytes + self.moving_bytes)}, libraries {format_bytes(self.library_bytes)}), "
            f"but {format_bytes(free_bytes)} are free; {self._advice(free_bytes)}"
        )

    def shortage(self) -> str:
        """What to say where memory runs short although the plan fitted."""
        smaller = "--scratchpad, --lookahead or --batch-size" if self.slots else "--batch-size"
        if self.system == ResidentSystem.name:
            smaller += ", or --system scratchpipe"
        return (
            f"the memory plan of the GPU is {format_bytes(self.total_bytes)}, with one lookup a bag, and other programs "
            f"may take some too; take a smaller {smaller}"
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
    config: DlrmConfig, optimizer: Optimizer, max_samples: int, system: SystemConfig | None = None
) -> DeviceMemoryPlan:
    """What training takes of a GPU's memory.

    max_samples: the most samples of a batch; system: resolved; None: resident.
    """
    name = ResidentSystem.name if system is None else system.name
    rows, D, F = sum(config.table_rows), config.dimension, config.features
    record_bytes = record_width(D, optimizer.row_state_width(D), FLOAT_BYTES) * FLOAT_BYTES
    parameters, lookups = dense_parameters(config), max_samples * F
    dense_bytes = (2 * parameters + optimizer.dense_state_size(parameters)) * FLOAT_BYTES
    slots, slot_bytes, planner_bytes, moving_bytes, records_bytes = 0, 0, 0, 0, 0
    if name == ResidentSystem.name:
        records_bytes = rows * record_bytes
    elif system is not None and name != HybridSystem.name:
        slots, slot_bytes = scratchpad_slots(system.scratchpad, rows, record_bytes), record_bytes
        if name == StaticSystem.name:
            moving_bytes = lookups * D * FLOAT_BYTES
        else:
            slot_bytes += PLANNED_SLOT_BYTES
            planner_bytes = _planner_bytes(slots, lookups) + (0 if system.row_counts is None else COUNT_BYTES * rows)
            moving_bytes = _moving_bytes(name, slots, lookups, record_bytes)
        records_bytes = slots * slot_bytes
    sums_bytes = 0 if name == HybridSystem.name else most_chunks(lookups) * D * FLOAT_BYTES
    return DeviceMemoryPlan(
        system=name,
        records_bytes=records_bytes,
        slots=slots,
        slot_bytes=slot_bytes,
        planner_bytes=planner_bytes,
        moving_bytes=moving_bytes,
        dense_bytes=dense_bytes,
        activation_bytes=activation_elements(config, max_samples) * FLOAT_BYTES + sums_bytes,
        batch_bytes=_batch_bytes(name, config, max_samples),
        library_bytes=LIBRARY_BYTES,
    )


def _planner_bytes(slots: int, unique: int) -> int:
    """Beside what each slot takes: the rows of the least batches that are known ahead, and the choice of victims.

    unique: U, at most.
    """
    chosen = min(int(PLANNER_GROWTH * unique) + (1 << SPARE_BITS), slots)
    return PLANNED_ROW_BYTES * unique + int(VICTIM_BYTES * chosen)


def _moving_bytes(name: str, slots: int, unique: int, record_bytes: int) -> int:
    """Records on their way each way, in each set of staging; and those on their way to the host at the end."""
    staged = min(slots, unique)
    in_staging = DEPTH_OF[name].staging_sets * staged * (2 * record_bytes + VICTIM_ON_ITS_WAY_BYTES)
    sorting = SORT_BYTES_PER_ITEM * staged
    flushed = min(slots, FLUSHED_ROWS) * record_bytes
    return int(GROWTH * (in_staging + sorting + flushed))


def _batch_bytes(name: str, config: DlrmConfig, max_samples: int) -> int:
    """Batches on the device: those that train, those on their way, one that is predicted; and their coalescing."""
    lookups = max_samples * config.features
    inputs = FLOAT_BYTES * max_samples * (config.dense_features + 1)
    batch = inputs + (8 + 8) * lookups
    # What the MLPs read, and a batch that is predicted.
    taken = inputs + batch
    if name in (HybridSystem.name, StaticSystem.name):
        taken += int(GROWTH * UPLOADS * inputs)
    if name == HybridSystem.name:
        return taken
    loaded, planned = 1, 0
    if name == StaticSystem.name:
        taken += int(GROWTH * 8 * lookups)  # offsets of whole bags
    elif name == ResidentSystem.name:
        loaded = LOADED_BATCHES
    else:
        loaded, planned = DEPTH_OF[name].ring_size(DEPTH_OF[name].holds.future), 4 + PLAN_BYTES_PER_ROW
    taken += int(loaded * (GROWTH * batch + (GPU_PLAN_BYTES_PER_LOOKUP + PLANNER_GROWTH * planned) * lookups))
    return taken + math.ceil(GPU_SORT_BYTES_PER_LOOKUP * lookups)
