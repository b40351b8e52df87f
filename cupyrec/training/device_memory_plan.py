"""What a run takes of a GPU's memory, known before anything is allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cupyrec.batch import most_chunks
from cupyrec.byte_sizes import format_bytes
from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.counted import counted
from cupyrec.devices.gpu import ARRAY_GROWTH
from cupyrec.embedding.gpu_coalesce import GPU_PLAN_BYTES_PER_LOOKUP, GPU_SORT_BYTES_PER_LOOKUP
from cupyrec.embedding.host_table import record_width
from cupyrec.errors import MemoryPlanError
from cupyrec.models.dlrm import activation_elements, dense_parameters
from cupyrec.optim.registry import Optimizer
from cupyrec.pipeline.gpu_stage_work import loaded_ahead
from cupyrec.pipeline.known_batches import PLANNER_GROWTH
from cupyrec.pipeline.plan import PLAN_BYTES_PER_ROW
from cupyrec.scratchpad_size import scratchpad_slots
from cupyrec.systems.device_inputs import UPLOADS
from cupyrec.systems.hybrid import HybridSystem
from cupyrec.systems.resident import LOADED_BATCHES, ResidentSystem
from cupyrec.systems.static import StaticSystem
from cupyrec.training.memory_plan import plan_lines
from cupyrec.training.scratchpad_memory import DEPTH_OF, FLOAT_BYTES, ScratchpadMemory, scratchpad_memory

# How often a row is used in all data.
DEVICE_COUNT_BYTES = 4
# Kernels, and what the library of matrix products works in, for each of two streams.
LIBRARY_BYTES = 240_000_000


@dataclass(frozen=True)
class DeviceMemoryPlan:
    """Bytes of device memory by what they hold.

    records_bytes: row records, of all rows or of the scratchpad's slots, with what is known of them; planner_bytes:
    what else planning takes; moving_bytes: for rows or pooled vectors on their way, at most; dense_bytes: MLP weights,
    gradients and optimizer state; activation_bytes: of one batch; batch_bytes: what batches and their coalescing take,
    with one lookup a bag; library_bytes. The batches known ahead are not in it: how many there are is chosen later,
    from what is left. slots: S, 0 where all rows are there or none; scratchpad: what others would take.
    """

    system: str
    records_bytes: int
    planner_bytes: int
    moving_bytes: int
    dense_bytes: int
    activation_bytes: int
    batch_bytes: int
    library_bytes: int
    slots: int = 0
    scratchpad: ScratchpadMemory | None = None

    @property
    def total_bytes(self) -> int:
        """All of it."""
        rows = self.records_bytes + self.planner_bytes + self.moving_bytes
        return rows + self.dense_bytes + self.activation_bytes + self.batch_bytes + self.library_bytes

    def lines(self) -> list[str]:
        """The plan as a person reads it."""
        what = (
            f"scratchpad ({counted(self.slots, 'row')}), with what is known of them" if self.slots else "embedding rows"
        )
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
        return plan_lines((what, size) for what, size in parts if size)

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
            f"the memory plan of the GPU is {format_bytes(self.total_bytes)}, with one lookup a bag, and other "
            f"programs may take some too; take a smaller {smaller}"
        )

    def _advice(self, free_bytes: int) -> str:
        """What would fit."""
        if self.scratchpad is not None:
            others_bytes = self.total_bytes - self.scratchpad.total_bytes(self.slots)
            slots = self.scratchpad.most_slots(free_bytes - others_bytes)
            if slots:
                return f"a scratchpad of {counted(slots, 'row')} would fit (--scratchpad {slots})"
        if self.system == ResidentSystem.name and self.total_bytes - self.records_bytes < free_bytes:
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
    slots, scratchpad = 0, None
    records_bytes, planner_bytes, moving_bytes = 0, 0, 0
    if name == ResidentSystem.name:
        records_bytes = rows * record_bytes
    elif system is not None and name != HybridSystem.name:
        slots = scratchpad_slots(system.scratchpad, rows, record_bytes)
        scratchpad = scratchpad_memory(system, rows, lookups, record_bytes)
        records_bytes, planner_bytes = scratchpad.slot_bytes(slots), scratchpad.planner_bytes(slots)
        moving_bytes = scratchpad.moving_bytes(slots)
        if name == StaticSystem.name:
            moving_bytes += lookups * D * FLOAT_BYTES
        elif system.row_counts is not None:
            planner_bytes += DEVICE_COUNT_BYTES * rows
    sums_bytes = 0 if name == HybridSystem.name else most_chunks(lookups) * D * FLOAT_BYTES
    return DeviceMemoryPlan(
        system=name,
        records_bytes=records_bytes,
        planner_bytes=planner_bytes,
        moving_bytes=moving_bytes,
        dense_bytes=dense_bytes,
        activation_bytes=activation_elements(config, max_samples) * FLOAT_BYTES + sums_bytes,
        batch_bytes=_batch_bytes(name, config, max_samples),
        library_bytes=LIBRARY_BYTES,
        slots=slots,
        scratchpad=scratchpad,
    )


def _batch_bytes(name: str, config: DlrmConfig, max_samples: int) -> int:
    """Batches on the device: those that train, those on their way, one that is predicted; and their coalescing."""
    lookups = max_samples * config.features
    inputs = FLOAT_BYTES * max_samples * (config.dense_features + 1)
    batch = inputs + (8 + 8) * lookups
    # What the MLPs read, and a batch that is predicted.
    taken = inputs + batch
    if name in (HybridSystem.name, StaticSystem.name):
        taken += int(ARRAY_GROWTH * UPLOADS * inputs)
    if name == HybridSystem.name:
        return taken
    loaded, planned = 1, 0
    if name == StaticSystem.name:
        taken += int(ARRAY_GROWTH * 8 * lookups)  # offsets of whole bags
    elif name == ResidentSystem.name:
        loaded = LOADED_BATCHES
    else:
        depth = DEPTH_OF[name]
        loaded, planned = depth.ring_size(depth.holds.future, loaded_ahead(depth)), 4 + PLAN_BYTES_PER_ROW
    taken += int(loaded * (ARRAY_GROWTH * batch + (GPU_PLAN_BYTES_PER_LOOKUP + PLANNER_GROWTH * planned) * lookups))
    return taken + math.ceil(GPU_SORT_BYTES_PER_LOOKUP * lookups)
