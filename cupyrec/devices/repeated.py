"""Work that a stream of a GPU does again and again, as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cupyrec.devices.gpu import GpuStream


class Repeated:
    """Work that is queued on a stream again and again, from the second time on as one CUDA graph.

    It is named by a key: the same key means the same work on the same arrays, which must not be given back meanwhile.
    """

    def __init__(self, stream: GpuStream) -> None:
        self._stream, self._key, self._graph = stream, None, None
        self._times = 0
        self._graph_before: Any = None

    def queue(self, key: Any, work: Callable[[], None]) -> None:
        """Queue work(), whose key this is."""
        if key != self._key:
            # The device may still be at it: it is kept until the key changes again.
            self._graph_before = self._graph or self._graph_before
            self._key, self._graph, self._times = key, None, 0
        if not self._stream.graphs or self._times == 0:
            self._times += 1
            work()
            return
        if self._graph is None:
            self._graph = self._stream.capture(work)
        self._stream.replay(self._graph)
