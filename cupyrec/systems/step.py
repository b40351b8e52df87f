"""What every system reports of a step, and what the trainer asks of every system."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, SupportsFloat

import numpy as np

from cupyrec.batch import Batch
from cupyrec.embedding.host_table import HostTable
from cupyrec.models.dlrm import Dlrm
from cupyrec.systems.train_stage import TrainStage


@dataclass(frozen=True)
class Traffic:
    """What one step moved between host and device, and why.

    hits, misses: unique rows of the batch that were, or were not, in device memory when it was planned; evictions: rows
    that made room for the misses. bytes_in, bytes_out: to and from the device, of rows and pooled vectors.
    bubbles: batches in flight that the step had to wait for, because the scratchpad was too small to go on without.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    bubbles: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True)
class StepResult:
    """One mini-batch trained.

    step: 1 for the first; samples: B; loss: the mean over the batch, before its update, for float(), which waits for it
    where it is still to come (see loss.is_known); learning_rate: as applied.
    waited_s: how long training stood still because the batch, or a row of it, was not there yet.
    traffic: None in systems that move nothing. stage_ms: how long each stage worked on the batch, by its name.
    """

    step: int
    samples: int
    loss: SupportsFloat
    learning_rate: float
    waited_s: float = 0.0
    traffic: Traffic | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)


def ignore(line: str) -> None:
    """Discard a message."""


class System(Protocol):
    """Where embeddings live and are trained. The trainer knows no more of a system than this."""

    model: Dlrm
    table: HostTable

    @property
    def host_table_rests(self) -> bool:
        """Whether training changes the host table in `finish` alone, and not before."""

    @property
    def name(self) -> str:
        """As `--system` has it."""

    @property
    def steps_done(self) -> int:
        """Batches trained so far."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the system was set to, or chose; JSON-safe, to be kept with a run."""

    def prepare(self, read: Callable[[], Iterable[Batch]], say: Callable[[str], None]) -> None:
        """Before training. read: the training batches, once through, for a system that must know them beforehand."""

    def train(self, batches: Iterable[Batch], *, say: Callable[[str], None] = ...) -> Generator[StepResult, None, None]:
        """Train the batches in order; after each, its result. Between two results predict and finish may be called.

        It may be closed at any time, which leaves the last step whole; then, as after its end, the host table holds
        every row's value. The batches are read in whatever thread suits, ahead of training. What reading raises is
        raised here, after all batches before it are trained. say: is told what the system chose.
        """

    def predict(self, batch: Batch) -> np.ndarray:
        """Logits (B,), host, with the weights as of the last result; valid until the next call. Changes no state."""

    def finish(self) -> None:
        """Bring every row's value to the host table."""

    def reload(self) -> None:
        """The host table was filled anew, while nothing trained: copies of its rows elsewhere are void."""


class SystemDefaults:
    """What most systems have in common."""

    _stage: TrainStage

    @property
    def steps_done(self) -> int:
        """See System.steps_done."""
        return self._stage.steps_done

    @property
    def facts(self) -> dict[str, Any]:
        """See System.facts: none."""
        return {}

    def prepare(self, read: Callable[[], Iterable[Batch]], say: Callable[[str], None]) -> None:
        """See System.prepare: nothing has to be known beforehand."""


class TrainsHostTable(SystemDefaults):
    """What is the same in systems whose rows come back to the host table at any time, and always when training ends."""

    host_table_rests = False

    def reload(self) -> None:
        """Copies of rows are made when training begins."""
