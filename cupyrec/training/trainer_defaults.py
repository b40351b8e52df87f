"""What a trainer takes where its caller gave a name, a number or nothing: what `cupyrec train` does by default."""

from __future__ import annotations

from cupyrec.optim.registry import Optimizer, check_optimizer, make_optimizer
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.run_config import RunConfig


def optimizer_of(given: Optimizer | str | None) -> Optimizer:
    """The optimizer itself. Raises ConfigError on an unknown name, and on what is none."""
    if given is None or isinstance(given, str):
        given = make_optimizer(given or RunConfig.optimizer, eps=RunConfig.eps)
    check_optimizer(given)
    return given


def schedule_of(given: WarmupPolynomialDecay | float | None) -> WarmupPolynomialDecay:
    """The learning rate as a schedule; a number is constant. Raises ConfigError."""
    if given is None:
        return WarmupPolynomialDecay(RunConfig.learning_rate, RunConfig.warmup_steps)
    return given if isinstance(given, WarmupPolynomialDecay) else WarmupPolynomialDecay(given)
