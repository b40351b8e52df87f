"""The batches of a run: all epochs, up to the last step or a stop, and the share of the work that each is."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing

from cupyrec.batch import Batch
from cupyrec.datasets.source import Source, read_batches


class TrainingBatches:
    """The batches of all epochs, and how much of them has trained. They may be read in another thread, and ahead."""

    def __init__(
        self,
        source: Source,
        batch_size: int,
        epochs: int,
        max_steps: int | None,
        stop_requested: Callable[[], bool],
    ) -> None:
        self._source, self._batch_size, self._epochs, self._max_steps = source, batch_size, epochs, max_steps
        self._stop_requested = stop_requested
        self._fraction_read = 0.0
        # The share of the data that is used up with each batch that is read and has not trained.
        self._fractions: deque[float] = deque()

    def batches(self) -> Generator[Batch, None, None]:
        """Yield at most max_steps batches, epoch after epoch."""
        left = math.inf if self._max_steps is None else self._max_steps
        for epoch in range(self._epochs):
            checked = read_batches(self._source, self._batch_size, on_progress=self._note(epoch))
            with closing(checked) as batches:
                for batch in batches:
                    if self._stop_requested():
                        return
                    self._fractions.append(self._fraction_read)
                    yield batch
                    left -= 1
                    if left <= 0:
                        return

    def once_through(self) -> Generator[Batch, None, None]:
        """What an epoch trains on, or, where max_steps ends before it, that; for who must know the data beforehand."""
        with closing(read_batches(self._source, self._batch_size)) as batches:
            for batch in itertools.islice(batches, self._max_steps):
                if self._stop_requested():
                    return
                yield batch

    def fraction_done(self, steps: int) -> float:
        """After each step: the share of the work done, of the data, or of the steps where those end first."""
        of_steps = 0.0 if self._max_steps is None else steps / self._max_steps
        of_data = self._fractions.popleft()
        return min(max(of_data, of_steps), 1.0)

    def _note(self, epoch: int) -> Callable[[float], None]:
        def note(fraction: float) -> None:
            self._fraction_read = (epoch + fraction) / self._epochs

        return note
