"""Tells of the steps of a run as soon as their losses are known, which on a GPU is some steps later."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable

from cupyrec.errors import DeviceError, DivergenceError
from cupyrec.systems.loss import is_known
from cupyrec.systems.step import StepResult

# That many steps may be under way before the first one's loss is waited for.
MOST_UNTOLD = 8

OnStep = Callable[[StepResult, float], None]


class StepReports:
    """Tells of every step, in order."""

    def __init__(self, on_step: OnStep | None) -> None:
        """on_step: is told each result, and the share, 0 to 1, of the work done when it was trained."""
        self._on_step = on_step
        self._untold: deque[tuple[StepResult, float]] = deque()
        self._is_telling = False

    def add(self, result: StepResult, fraction_done: float) -> None:
        """A step is trained, or queued; tell of those whose losses are known by now, and of all but the last few."""
        self._untold.append((result, fraction_done))
        while self._untold and (len(self._untold) > MOST_UNTOLD or is_known(self._untold[0][0].loss)):
            self._tell_first()

    def tell_all(self) -> None:
        """Tell of all that are left. Raises DivergenceError where a loss is not finite, as `add` does."""
        while self._untold:
            self._tell_first()

    def tell_before_error(self) -> None:
        """As tell_all, for the steps trained before a failure; tells of none if the GPU, or on_step itself, failed."""
        if self._is_telling:
            return
        with contextlib.suppress(DeviceError):
            self.tell_all()

    def _tell_first(self) -> None:
        result, fraction_done = self._untold.popleft()
        loss = float(result.loss)
        if not math.isfinite(loss):
            raise diverged(f"the loss is {loss} at step {result.step:,} (learning rate {result.learning_rate:g})")
        if self._on_step is not None:
            self._is_telling = True
            self._on_step(result, fraction_done)
            self._is_telling = False


def diverged(what: str) -> DivergenceError:
    """With the usual causes."""
    return DivergenceError(
        f"{what}; usual causes: a learning rate that is too high, no warm-up (--warmup-steps), "
        "or dense features that are far too large"
    )
