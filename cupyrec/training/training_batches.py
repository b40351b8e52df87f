"""The batches of a run: all epochs, up to the last step or a stop, and the share of the work that each is."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing

from cupyrec.batch import Batch
from cupyrec.datasets.source import Source, read_batches
from cupyrec.errors import DataError
from cupyrec.saving.training_state import BEGINNING, Position


class TrainingBatches:
    """The batches of all epochs, and how much of them has trained. They may be read in another thread, and ahead.

    position: in the data, after the batches that have trained.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        epochs: int,
        max_steps: int | None,
        stop_requested: Callable[[], bool],
        *,
        start: Position = BEGINNING,
        steps_done: int = 0,
        on_read: Callable[[Batch], None] | None = None,
    ) -> None:
        """start: where to begin, when so many steps of max_steps are done; on_read: is told each batch before it is
        handed out, in the thread that reads.
        """
        self._source, self._batch_size, self._epochs, self._max_steps = source, batch_size, epochs, max_steps
        self._stop_requested = stop_requested
        self.position, self._steps_done, self._on_read = start, steps_done, on_read
        self._fraction_read = 0.0
        # Of each batch that is read and has not trained: the share of the data used up with it, and the place after it.
        self._ahead: deque[tuple[float, Position]] = deque()

    def batches(self) -> Generator[Batch, None, None]:
        """Yield at most max_steps batches, those done before included, epoch after epoch.

        Raises DataError where an epoch has no samples.
        """
        left = math.inf if self._max_steps is None else self._max_steps - self._steps_done
        start = self.position
        for epoch in range(start.epoch, self._epochs):
            if left <= 0:
                return
            done = start.batches if epoch == start.epoch else 0
            # The others are read up to there, and stopped on the way.
            first = done if getattr(self._source, "seekable", False) else 0
            checked = read_batches(
                self._source, self._batch_size, on_progress=self._note(epoch), epoch=epoch, first_batch=first
            )
            is_empty = first == 0
            with closing(checked) as batches:
                for number, batch in enumerate(batches, start=first):
                    is_empty = False
                    if self._stop_requested():
                        return
                    if number < done:
                        continue
                    self._ahead.append((self._fraction_read, Position(epoch, number + 1)))
                    if self._on_read is not None:
                        self._on_read(batch)
                    yield batch
                    left -= 1
                    if left <= 0:
                        return
            if is_empty:
                raise DataError(
                    f"epoch {epoch + 1} of {self._epochs} has no samples: the batches of {type(self._source).__name__} "
                    "have none; does its method batches begin anew at each call, or give an iterator that is used up?"
                )

    def once_through(self) -> Generator[Batch, None, None]:
        """What an epoch trains on, or less where max_steps ends before; for systems that must see the data first."""
        with closing(read_batches(self._source, self._batch_size)) as batches:
            for batch in itertools.islice(batches, self._max_steps):
                if self._stop_requested():
                    return
                yield batch

    def trained(self, steps: int) -> float:
        """After each step: the share of the work done, of the data, or of the steps where those end first."""
        of_steps = 0.0 if self._max_steps is None else steps / self._max_steps
        of_data, self.position = self._ahead.popleft()
        return min(max(of_data, of_steps), 1.0)

    def _note(self, epoch: int) -> Callable[[float], None]:
        def note(fraction: float) -> None:
            self._fraction_read = (epoch + fraction) / self._epochs

        return note
