"""Optimizers by name."""

from __future__ import annotations

from typing import TypeAlias

from cupyrec.errors import ConfigError
from cupyrec.optim.adagrad import Adagrad
from cupyrec.optim.rowwise_adagrad import RowwiseAdagrad
from cupyrec.optim.sgd import Sgd

Optimizer: TypeAlias = Sgd | Adagrad | RowwiseAdagrad


def make_optimizer(name: str, *, eps: float) -> Optimizer:
    """name: sgd, adagrad or rowwise-adagrad. eps: of the last two. Raises ConfigError on another name."""
    if name == Sgd.name:
        return Sgd()
    if name == Adagrad.name:
        return Adagrad(eps)
    if name == RowwiseAdagrad.name:
        return RowwiseAdagrad(eps)
    raise ConfigError(f"unknown optimizer {name!r}; choose sgd, adagrad or rowwise-adagrad")
