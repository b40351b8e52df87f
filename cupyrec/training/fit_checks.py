"""What is checked before Trainer.fit trains anything."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from cupyrec.config import DlrmConfig, check_at_least
from cupyrec.datasets.source import Source
from cupyrec.errors import ConfigError
from cupyrec.evaluation.evaluation import check_labelled, check_source_fits

Given = ParamSpec("Given")
Result = TypeVar("Result")


def one_at_a_time(
    method: Callable[Concatenate[Any, Given], Result],
) -> Callable[Concatenate[Any, Given], Result]:
    """A method that is refused (ConfigError) while such a method is at work on its object, which has a lock, `turn`."""

    @functools.wraps(method)
    def guarded(self: Any, /, *args: Given.args, **named: Given.kwargs) -> Result:
        if not self.turn.acquire(blocking=False):
            raise ConfigError("this trainer is training already; make another one, or wait until its fit has ended")
        try:
            return method(self, *args, **named)
        finally:
            self.turn.release()

    return guarded


def check_extent(*, epochs: int, max_steps: int | None, eval_every: int, patience: int) -> None:
    """Raise ConfigError on numbers that make no sense; see Trainer.fit."""
    check_at_least(1, epochs=epochs, max_steps=1 if max_steps is None else max_steps)
    check_at_least(0, eval_every=eval_every, patience=patience)
    if patience and not eval_every:
        raise ConfigError(f"patience is {patience}, but counts evaluations on the way: give eval_every")


def check_data(source: Source, valid: Source | None, eval_every: int, config: DlrmConfig, encoding: str | None) -> None:
    """Raise ConfigError where data are missing, have no labels or do not fit a model. encoding: of its data."""
    check_source_fits(source, config, encoding)
    check_labelled(source)
    if valid is not None:
        # The model has the encoding of the source by then, which may have grown.
        check_source_fits(valid, config, getattr(source, "encoding", None) or encoding)
        check_labelled(valid)
    if eval_every and valid is None:
        raise ConfigError(f"eval_every is {eval_every}, but there are no data to evaluate on: give them as valid")
