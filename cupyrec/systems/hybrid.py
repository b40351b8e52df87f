"""`hybrid`: rows live, are pooled and are updated in host memory; the device sees pooled vectors and gives gradients.

What crosses the link is (B, F, D) each way, whatever the lengths of the bags; the host does all work on rows, at the speed of
its memory. No row is ever on the device. The paper's name is hybrid CPU-GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from cupyrec.batch import Batch
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.host_table import HostTable
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.systems.step import StepResult, Traffic, ignore
from cupyrec.systems.train_stage import TrainStage


class HybridSystem:
    """Trains with all rows on the host."""

    name = "hybrid"

    def __init__(self, stage: TrainStage, table: HostTable, clock: StageClock | None = None) -> None:
        raise RuntimeError
