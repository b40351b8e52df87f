"""Work through an iterable in a background thread, a bounded number of items ahead of the consumer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")

# Of data: enough to bridge the making of a part of them or two, whatever the size of a batch.
READ_AHEAD_BATCHES = 4
READ_AHEAD_SAMPLES = 16_384


def batches_ahead(batch_size: int, samples: int = READ_AHEAD_SAMPLES) -> int:
    """How many batches may wait: those that hold so many samples, and a few in any case."""
    return max(READ_AHEAD_BATCHES, -(-samples // batch_size))


class _End:
    """The last thing in the queue: the iterable is exhausted, or has raised `error`."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


def read_ahead(iterable: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yield the items of `iterable`, in order, while a thread makes the next ones.

    depth: how many finished items may wait, at least 1; one more may be in the making.

    The thread starts with the first item asked for. An exception of the iterable is raised here, after the
    items before it. When this generator is closed, by close(), by an exception in the consumer's loop or as
    garbage, the iterable is closed too, in its thread, and the thread has ended before close() returns.
    Raises ValueError when depth is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, but is {depth}")
    return _read_ahead(iterable, depth)


def _read_ahead(iterable: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    ready: queue.Queue[Item | _End] = queue.Queue(maxsize=depth)
    stopping = threading.Event()

    def work() -> None:
        error = None
        try:
            iterator = iter(iterable)
            try:
                for item in iterator:
                    ready.put(item)
                    if stopping.is_set():
                        return
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
        except BaseException as raised:
            error = raised
        ready.put(_End(error))

    # A daemon, so that a consumer that dies without closing its generator can still leave the process.
    thread = threading.Thread(target=work, name="cupyrec-read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopping.set()
        # The thread may wait in put(). After this it puts at most one thing more, for which there is room.
        while not ready.empty():
            ready.get_nowait()
        thread.join()
