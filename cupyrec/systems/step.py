"""What every system reports of a step, and what the trainer asks of every system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from cupyrec.batch import Batch
from cupyrec.embedding.host_table import HostTable
from cupyrec.models.dlrm import Dlrm


@dataclass(frozen=True)
class StepResult:
    """One mini-batch trained.

    step: 1 for the first; samples: B; loss: the mean over the batch, before its update; learning_rate: as applied.
    """

    step: int
    samples: int
    loss: float
    learning_rate: float


class System(Protocol):
    """Where embeddings live and are trained. The trainer knows no more of a system than this."""

    name: str
    model: Dlrm
    table: HostTable
    steps_done: int

    def train(self, batches: Iterable[Batch]) -> Iterator[StepResult]:
        """Train the batches in order; after each, its result. Between two results predict may be called."""

    def predict(self, batch: Batch) -> Any:
        """Logits (B,), with the weights as of the last result. Changes no state."""

    def finish(self) -> None:
        """Bring every row's value to the host table."""
