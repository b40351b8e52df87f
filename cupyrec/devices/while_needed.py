"""What is set up when the first of several needs it, and undone when the last no longer does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import OpenBLASController, ThreadpoolController

from cupyrec.devices.after_fork import renew_in_children


class WhileNeeded:
    """Knows who needs it. Any thread may; one at a time sets up or undoes."""

    def __init__(self, begin: Callable[[], Callable[[], None]]) -> None:
        """begin: sets up, all of it or nothing, and gives what undoes it, which may be called twice."""
        self._begin = begin
        self._lock = threading.Lock()
        self._needed_by: set[object] = set()
        self._end: Callable[[], None] | None = None
        renew_in_children(self)

    @contextmanager
    def needed(self) -> Iterator[None]:
        """Within it, it is set up. May be nested. Raises what setting up raises. An interrupt undoes it as well."""
        who = object()
        try:
            with self._lock:
                self._needed_by.add(who)
                if self._end is None:
                    self._end = self._begin()
            yield
        finally:
            self._leave(who)

    def _leave(self, who: object) -> None:
        """Undo it when nobody is left; an interrupt waits for that."""
        interrupted: BaseException | None = None
        while True:
            try:
                with self._lock:
                    self._needed_by.discard(who)
                    if not self._needed_by and self._end is not None:
                        self._end()
                        self._end = None
                break
            except KeyboardInterrupt as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def after_fork(self) -> None:
        """See Renewed. What was set up by the parent is undone: its threads are not there."""
        self._lock, end = threading.Lock(), self._end
        self._needed_by, self._end = set(), None
        if end is not None:
            end()


@cache
def _libraries() -> ThreadpoolController:
    """Looked for once: that takes longer than to predict a small batch, and NumPy has loaded its own by now."""
    return ThreadpoolController()


def _hold_blas() -> Callable[[], None]:
    _let_this_thread_set()
    limits = _libraries().limit(limits=1, user_api="blas")

    def end() -> None:
        _let_this_thread_set()
        limits.restore_original_limits()

    return end


def _let_this_thread_set() -> None:
    """From 3.8 on threadpoolctl ignores all threads but the first that sets OpenBLAS; here one at a time does."""
    if clear := getattr(OpenBLASController, "clear_controlling_thread", None):
        clear(force=True)


# BLAS, held at one thread: a setting of the process.
blas_on_one_thread = WhileNeeded(_hold_blas)
