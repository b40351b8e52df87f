"""Optimizers by name."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import TypeAlias

from cupyrec.errors import ConfigError
from cupyrec.optim.adagrad import Adagrad
from cupyrec.optim.rowwise_adagrad import RowwiseAdagrad
from cupyrec.optim.sgd import Sgd

Optimizer: TypeAlias = Sgd | Adagrad | RowwiseAdagrad
# What a trainer asks of one.
MEMBERS = ("name", "row_state_width", "dense_state_size", "update_rows", "update_dense")


def make_optimizer(name: str, *, eps: float) -> Optimizer:
    """name: sgd, adagrad or rowwise-adagrad. eps: of the last two. Raises ConfigError on another name."""
    if name == Sgd.name:
        return Sgd()
    if name == Adagrad.name:
        return Adagrad(eps)
    if name == RowwiseAdagrad.name:
        return RowwiseAdagrad(eps)
    raise ConfigError(f"unknown optimizer {name!r}; choose sgd, adagrad or rowwise-adagrad")


def check_optimizer(optimizer: object) -> None:
    """Raise ConfigError where an object is none that a trainer can work with.

    One of one's own does what Sgd does, on the CPU, and is a dataclass: its fields are kept in checkpoints.
    """
    if isinstance(optimizer, type):
        raise ConfigError(
            f"the optimizer must be an object, not the class {optimizer.__name__}: {optimizer.__name__}()"
        )
    missing = [name for name in MEMBERS if not hasattr(optimizer, name)]
    if missing or not is_dataclass(optimizer):
        lacks = f"has no {', '.join(missing)}" if missing else "is no dataclass"
        raise ConfigError(
            "the optimizer must be cupyrec.Sgd(), Adagrad() or RowwiseAdagrad(), a name of these, or an object of a "
            f"dataclass with the same members ({', '.join(MEMBERS)}), but a {type(optimizer).__name__} {lacks}"
        )
