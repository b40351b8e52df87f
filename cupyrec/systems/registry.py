"""Systems by name."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from cupyrec.byte_sizes import format_bytes
from cupyrec.config import SystemConfig
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice
from cupyrec.embedding.host_table import HostTable
from cupyrec.embedding.row_counts import read_row_counts
from cupyrec.option_values import option_name
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.scratchpad_size import scratchpad_slots
from cupyrec.systems.hybrid import HybridSystem
from cupyrec.systems.resident import ResidentSystem
from cupyrec.systems.scratchpipe import ScratchpipeSystem
from cupyrec.systems.serial import SerialSystem
from cupyrec.systems.static import StaticSystem
from cupyrec.systems.step import System
from cupyrec.systems.train_stage import TrainStage

# Of free GPU memory, what `auto` lets the tables and all else take: libraries want some too.
RESIDENT_SHARE = 0.9
SYSTEMS_WITH_SCRATCHPAD = (StaticSystem.name, SerialSystem.name, ScratchpipeSystem.name)


def resolve_system(config: SystemConfig, device: Device, resident_bytes: int) -> tuple[SystemConfig, str]:
    """The configuration with a system in place of `auto`, and why; the same where one is named.

    resident_bytes: of device memory, what `resident` would take.
    """
    if config.name != "auto":
        return config, ""
    if not isinstance(device, GpuDevice):
        return (
            replace(config, name=ResidentSystem.name),
            "auto: the CPU trains the tables where they are, in host memory",
        )
    free_bytes, _ = device.runtime.memory_bytes()
    there = f"{format_bytes(free_bytes)} of GPU memory are free"
    if resident_bytes <= RESIDENT_SHARE * free_bytes:
        return replace(config, name=ResidentSystem.name), f"auto: it takes {format_bytes(resident_bytes)}, and {there}"
    return (
        replace(config, name=ScratchpipeSystem.name),
        f"auto: resident would take {format_bytes(resident_bytes)}, but {there}",
    )


def unused_options(config: SystemConfig, device: Device) -> list[str]:
    """The options that are set to something and mean nothing to a system, on a device. config: resolved.

    Not those that mean nothing on the CPU, whatever the system.
    """
    link = {"exchange", "host_memory"}
    used = {
        StaticSystem.name: {"scratchpad", "row_counts"},
        SerialSystem.name: {"scratchpad", "row_counts", "lookahead", "replacement"} | link,
        ScratchpipeSystem.name: {"scratchpad", "row_counts", "lookahead", "replacement"} | link,
    }.get(config.name, set())
    plain = SystemConfig()
    if not isinstance(device, GpuDevice):
        used = used | link
    return [
        f"--{option_name(each.name)}"
        for each in fields(config)
        if each.name not in {"name", *used} and getattr(config, each.name) != getattr(plain, each.name)
    ]


def make_system(
    config: SystemConfig, stage: TrainStage, table: HostTable, *, seed: int = 0, clock: StageClock | None = None
) -> System:
    """The system that a configuration asks for; `auto`, which resolve_system replaces, is `resident` here.

    Raises ConfigError.
    """
    name = config.name
    if name in ("auto", ResidentSystem.name):
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
        exchange=config.exchange,
        clock=clock,
    )
