"""Systems by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from cupyrec.config import SystemConfig, option_name
from cupyrec.embedding.host_table import HostTable
from cupyrec.embedding.row_counts import read_row_counts
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.scratchpad_size import scratchpad_slots
from cupyrec.systems.hybrid import HybridSystem
from cupyrec.systems.resident import ResidentSystem
from cupyrec.systems.scratchpipe import ScratchpipeSystem
from cupyrec.systems.serial import SerialSystem
from cupyrec.systems.static import StaticSystem
from cupyrec.systems.step import System
from cupyrec.systems.train_stage import TrainStage

SYSTEMS_WITH_SCRATCHPAD = (StaticSystem.name, SerialSystem.name, ScratchpipeSystem.name)


def resolve_system(name: str) -> tuple[str, str]:
    """The system that a name stands for, and why, where it was `auto`."""
    if name == "auto":
        return ResidentSystem.name, "auto: the CPU trains the tables where they are, in host memory"
    return name, ""


def unused_options(config: SystemConfig) -> list[str]:
    """The options that are set to something and mean nothing to the system that is asked for."""
    name, _ = resolve_system(config.name)
    used = {
        StaticSystem.name: {"scratchpad", "row_counts"},
        SerialSystem.name: {"scratchpad", "row_counts", "lookahead", "replacement"},
        ScratchpipeSystem.name: {"scratchpad", "row_counts", "lookahead", "replacement"},
    }.get(name, set())
    plain = SystemConfig()
    return [
        f"--{option_name(each.name)}"
        for each in fields(config)
        if each.name not in {"name", *used} and getattr(config, each.name) != getattr(plain, each.name)
    ]


def make_system(
    config: SystemConfig, stage: TrainStage, table: HostTable, *, seed: int = 0, clock: StageClock | None = None
) -> System:
    """The system that a configuration asks for. Raises ConfigError."""
    name, _ = resolve_system(config.name)
    if name == ResidentSystem.name:
        return ResidentSystem(stage, table, clock)
    if name == HybridSystem.name:
        return HybridSystem(stage, table, clock)
    rows, width = table.records.shape
    slots = scratchpad_slots(config.scratchpad, rows, width * table.records.dtype.itemsize)
    counts: Any = None if config.row_counts is None else read_row_counts(config.row_counts, rows)
    if name == StaticSystem.name:
        return StaticSystem(stage, table, slots=slots, row_counts=counts, clock=clock)
    dynamic = SerialSystem if name == SerialSystem.name else ScratchpipeSystem
    return dynamic(
        stage,
        table,
        slots=slots,
        lookahead=config.lookahead,
        replacement=config.replacement,
        row_counts=counts,
        seed=seed,
        clock=clock,
    )
