"""How long each stage works on each batch, for the figures of a step and for a trace."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from cupyrec.batch import Batch


@runtime_checkable
class TraceSink(Protocol):
    """Where the boxes of a trace go; called by several threads at once."""

    def box(self, stage: str, batch: int, begun_s: float, ended_s: float) -> None:
        """A stage worked on a batch between two times of time.perf_counter."""


class Interval:
    """A stretch of time; seconds: how long it was, once it has ended."""

    seconds = 0.0


class StageClock:
    """Takes times from any thread; each stage of each batch is told once."""

    def __init__(self, sink: TraceSink | None = None) -> None:
        self._sink = sink
        self._ms_of: dict[int, dict[str, float]] = {}

    @contextmanager
    def stage(self, name: str, batch: int) -> Iterator[None]:
        """Around the work of a stage on a batch."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.note(name, batch, begun, time.perf_counter())

    @contextmanager
    def measured(self) -> Iterator[Interval]:
        """How long the block takes; told to nobody else."""
        interval, begun = Interval(), time.perf_counter()
        try:
            yield interval
        finally:
            interval.seconds = time.perf_counter() - begun

    def note(self, name: str, batch: int, begun_s: float, ended_s: float) -> None:
        """The same, afterwards."""
        self._ms_of.setdefault(batch, {})[name] = (ended_s - begun_s) * 1e3
        if self._sink is not None:
            self._sink.box(name, batch, begun_s, ended_s)

    def forget(self) -> None:
        """Batches are counted from 0 again."""
        self._ms_of.clear()

    def take(self, batch: int) -> dict[str, float]:
        """Milliseconds by stage of a batch that has ended; they are then forgotten."""
        return self._ms_of.pop(batch, {})

    def each_loaded(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
        """The batches that have samples, each with the seconds that it was waited for; noted as the stage Load."""
        iterator, number, begun = iter(batches), 0, time.perf_counter()
        while (batch := next(iterator, None)) is not None:
            if batch.samples:
                ended = time.perf_counter()
                self.note("Load", number, begun, ended)
                yield batch, ended - begun
                number, begun = number + 1, time.perf_counter()
