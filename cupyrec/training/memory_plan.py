"""What a run takes of memory, known before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cupyrec.byte_sizes import format_bytes
from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.counted import counted
from cupyrec.embedding.coalesce import PLAN_BYTES_PER_LOOKUP, SORT_BYTES_PER_LOOKUP
from cupyrec.embedding.host_table import record_width
from cupyrec.errors import MemoryPlanError
from cupyrec.models.dlrm import activation_elements, dense_parameters
from cupyrec.optim.registry import Optimizer
from cupyrec.pipeline.known_batches import PLANNER_GROWTH
from cupyrec.pipeline.planner import NODE_BYTES
from cupyrec.scratchpad_size import scratchpad_slots
from cupyrec.systems.hybrid import HybridSystem
from cupyrec.systems.registry import SYSTEMS_WITH_SCRATCHPAD
from cupyrec.systems.scratchpipe import ScratchpipeSystem
from cupyrec.systems.serial import SerialSystem
from cupyrec.systems.static import COPIED_ROWS, StaticSystem
from cupyrec.training.scratchpad_memory import DEPTH_OF, FLOAT_BYTES, ROW_BYTES, scratchpad_memory

# Whose samples are there at once: one whose batches wait, one in the making, and its blocks.
SHUFFLE_WINDOWS = 3
# Read ahead, in the reader's hands and in training.
BATCHES_IN_FLIGHT = 8
COALESCING_BYTES_PER_LOOKUP = PLAN_BYTES_PER_LOOKUP + SORT_BYTES_PER_LOOKUP
# Of a row on its way: into the scratchpad and out of it, on both sides of the link.
STAGED_COPIES = 4
# Of a slot: what the planner knows of its row, and which row is in it. A pinned row has cells of a hash table.
SLOT_BYTES = int(PLANNER_GROWTH * NODE_BYTES) + 8
BOOKKEEPING_BYTES = {SerialSystem.name: SLOT_BYTES, ScratchpipeSystem.name: SLOT_BYTES, StaticSystem.name: 8 + 4 * 16}
# How often each row is used; and a second time the same while the most used rows are looked for.
HOST_COUNT_BYTES = 8
PINNING_BYTES_PER_ROW = 2 * HOST_COUNT_BYTES
# Of the pooled vectors, beside those of the model: the host's, its gradient's where the host trains rows, and what
# static adds to its own.
POOLED_COPIES = {HybridSystem.name: 2, StaticSystem.name: 3, SerialSystem.name: 1, ScratchpipeSystem.name: 1}


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by what they hold; all float32.

    tables_bytes: embedding weights; row_state_bytes: the optimizer's state of the rows and what pads records to
    16 bytes; dense_bytes: MLP weights, gradients and optimizer state; activation_bytes: values and gradients of one
    batch of the largest size; batch_bytes: about what the batches read ahead and their coalescing take, with one
    lookup a bag (longer bags take more), none for prediction; scratchpad_bytes: its slots, what the planner knows of
    them, and how often rows are used; staging_bytes: for rows or pooled vectors on their way, at most, with one lookup
    a bag. The program itself and its libraries, some 200 MB, are not in it, nor the batches known ahead, whose number
    is chosen later.
    """

    rows: int
    tables_bytes: int
    row_state_bytes: int
    dense_bytes: int
    activation_bytes: int
    batch_bytes: int
    scratchpad_bytes: int = 0
    staging_bytes: int = 0
    shuffle_bytes: int = 0
    trains: bool = True

    @property
    def total_bytes(self) -> int:
        """All of it."""
        parts = (self.tables_bytes, self.row_state_bytes, self.dense_bytes, self.activation_bytes, self.batch_bytes)
        return sum(parts) + self.scratchpad_bytes + self.staging_bytes + self.shuffle_bytes

    def lines(self) -> list[str]:
        """The plan as a person reads it."""
        others = (
            ("shuffle windows", self.shuffle_bytes),
            ("scratchpad, with what is known of its rows", self.scratchpad_bytes),
            ("on the way to the device and back", self.staging_bytes),
        )
        parts = (
            (f"embedding tables ({counted(self.rows, 'row')})", self.tables_bytes),
            ("optimizer state of the rows", self.row_state_bytes),
            ("MLPs with gradients and state", self.dense_bytes),
            ("activations", self.activation_bytes),
            ("batches and their coalescing", self.batch_bytes),
            *((what, size) for what, size in others if size),
            ("total", self.total_bytes),
        )
        return plan_lines(parts)

    def check(self, available_bytes: int | None) -> None:
        """Raise MemoryPlanError when the plan does not fit. available_bytes: None where the system does not say."""
        if available_bytes is None or self.total_bytes <= available_bytes:
            return
        raise MemoryPlanError(
            f"{'the run' if self.trains else 'the model'} needs {format_bytes(self.total_bytes)} of memory "
            f"(embedding tables {format_bytes(self.tables_bytes)}, optimizer state "
            f"{format_bytes(self.row_state_bytes)}, MLPs {format_bytes(self.dense_bytes)}, activations and batches "
            f"{format_bytes(self.activation_bytes + self.batch_bytes)}{self._other_texts()}), but "
            f"{format_bytes(available_bytes)} are available; {self._advice()}"
        )

    def _advice(self) -> str:
        if self.trains:
            return (
                "make the largest of these smaller: --hash-rows, --dimension, --batch-size, the widths of the MLPs, or "
                "--optimizer sgd, which keeps no state"
            )
        if self.activation_bytes > self.tables_bytes:
            return "take a smaller --batch-size"
        return "use it on a machine with more memory"

    def _other_texts(self) -> str:
        parts = self.scratchpad_bytes + self.staging_bytes
        scratchpad = f", scratchpad {format_bytes(parts)}: --scratchpad" if parts else ""
        windows = (
            f", shuffle windows {format_bytes(self.shuffle_bytes)}: --shuffle-window" if self.shuffle_bytes else ""
        )
        return scratchpad + windows


def plan_lines(parts: Iterable[tuple[str, int]]) -> list[str]:
    """Parts of a plan as a person reads them: what holds how many bytes."""
    return [f"{what:<42} {format_bytes(size):>10}" for what, size in parts]


def plan_memory(
    config: DlrmConfig,
    optimizer: Optimizer | None,
    max_samples: int,
    system: SystemConfig | None = None,
    *,
    device_apart: bool = False,
    shuffled_samples: int = 0,
) -> MemoryPlan:
    """What training takes of the host's memory, or, without an optimizer, prediction.

    max_samples: the most samples of a batch; system: None for one without a scratchpad; device_apart: whether the
    device has memory of its own, which is not in this plan but in a DeviceMemoryPlan; shuffled_samples: of a window, 0
    where nothing is shuffled.
    """
    rows, D = sum(config.table_rows), config.dimension
    state = optimizer.row_state_width(D) if optimizer else 0
    parameters = dense_parameters(config)
    dense_state = optimizer.dense_state_size(parameters) if optimizer else 0
    record_bytes = record_width(D, state, FLOAT_BYTES) * FLOAT_BYTES
    name = system.name if system is not None else ""
    slots = 0
    if system is not None and name in SYSTEMS_WITH_SCRATCHPAD:
        slots = scratchpad_slots(system.scratchpad, rows, record_bytes)
    counts_bytes = 0
    if name == StaticSystem.name:
        counts_bytes = PINNING_BYTES_PER_ROW * rows
    elif slots and system is not None and system.row_counts is not None:
        counts_bytes = HOST_COUNT_BYTES * rows
    staging_bytes = POOLED_COPIES.get(name, 0) * max_samples * config.features * D * FLOAT_BYTES
    if name == StaticSystem.name:
        staging_bytes += min(slots, COPIED_ROWS) * record_bytes
    elif device_apart and system is not None and slots:
        memory = scratchpad_memory(system, rows, max_samples * config.features, record_bytes)
        staging_bytes += memory.moving_bytes(slots)
    elif name in DEPTH_OF:
        staged_rows = min(slots, max_samples * config.features)
        staging_bytes += STAGED_COPIES * DEPTH_OF[name].staging_sets * staged_rows * record_bytes
    if device_apart:
        slots = 0  # they are there
    return MemoryPlan(
        rows=rows,
        tables_bytes=rows * D * FLOAT_BYTES,
        row_state_bytes=rows * (record_width(D, state, FLOAT_BYTES) - D) * FLOAT_BYTES,
        dense_bytes=0 if device_apart else (2 * parameters + dense_state) * FLOAT_BYTES,
        activation_bytes=0 if device_apart else activation_elements(config, max_samples) * FLOAT_BYTES,
        batch_bytes=max_samples * _batch_bytes_per_sample(config) if optimizer else 0,
        scratchpad_bytes=slots * (record_bytes + BOOKKEEPING_BYTES.get(name, 0)) + counts_bytes,
        staging_bytes=staging_bytes,
        shuffle_bytes=SHUFFLE_WINDOWS * shuffled_samples * (_dense_bytes(config) + ROW_BYTES * config.features),
        trains=optimizer is not None,
    )


def _dense_bytes(config: DlrmConfig) -> int:
    """Dense features and label of a sample."""
    return FLOAT_BYTES * (config.dense_features + 1)


def _batch_bytes_per_sample(config: DlrmConfig) -> int:
    """Of the batches in flight, dense features, label and a row and an offset a feature; and of one coalescing."""
    batch = _dense_bytes(config) + 2 * ROW_BYTES * config.features
    return BATCHES_IN_FLIGHT * batch + COALESCING_BYTES_PER_LOOKUP * config.features
