"""What must be made anew in a child that os.fork makes: locks that another thread may have held, counts of threads."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewed(Protocol):
    """What has a part that a child cannot use."""

    def after_fork(self) -> None:
        """Make it anew; called in the child, in which only the calling thread goes on."""


_renewed: WeakSet[Renewed] = WeakSet()


def renew_in_children(each: Renewed) -> None:
    """Let it be made anew in all children, as long as it lives."""
    _renewed.add(each)


def _renew() -> None:
    for each in list(_renewed):
        each.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
