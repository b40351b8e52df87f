"""What a planner on a GPU keeps from batch to batch: nodes, hit map and window in device memory, grown as needed.

The arrays are those that kernels/planner.cuh describes. How much of them is in use the host knows as an upper bound, so
that it need not wait to know whether there is room for one batch more.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.devices.gpu import GpuEvent, GpuStream
from cupyrec.kernels import kernel
from cupyrec.pipeline.known_batches import LEAST_NODES, LEAST_WINDOW, PLANNER_GROWTH
from cupyrec.pipeline.planner_kernels import NODE_FIELDS
from cupyrec.pipeline.told_array import ToldArray

# What a node takes: its fields, its row, its place on the stack of free ones, and places of 16 bytes in the hit map,
# which has two to four times as many. What a slot takes: its list, since when it is there, its node.
GPU_NODE_BYTES = 4 * NODE_FIELDS + 8 + 4 + 4 * 16
GPU_SLOT_BYTES = 4 + 8 + 4

# Indices of `state`, as in kernels/planner.cuh.
STATE_SIZE = 16
HANDED_OUT, FREE, FILLED, PLACES, IS_OK, MISSED, EVICTED, UNUSED = range(8)
CHOSEN = 13


class GpuNodes:
    """The arrays, and how much of them is in use at most.

    state, counts: (STATE_SIZE,) int32, device and page-locked: `state` as the host was told it last.
    """

    def __init__(self, stream: GpuStream) -> None:
        """Raises DeviceMemoryError."""
        self._stream = stream
        self.state = stream.zeros(STATE_SIZE, np.int32)
        self._told, self._counted = ToldArray(stream, np.int32), GpuEvent(stream.runtime)
        self.counts = np.zeros(STATE_SIZE, np.int32)
        self._nodes_in_use = self._places_in_use = 0
        self.capacity = 0
        self.nodes: Any = None
        self.node_rows: Any = None
        self.free_nodes: Any = None
        self._make_nodes(LEAST_NODES)
        self._make_cells(LEAST_NODES)
        self._window = stream.empty((LEAST_WINDOW, 2), np.int32)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """All that grows."""
        return self.nodes, self.node_rows, self.free_nodes, self.cells, self._window

    @property
    def window(self) -> tuple[Any, np.int32]:
        """The window and its size, as kernels take them."""
        return self._window, np.int32(self._window.shape[0])

    def queue_counts(self) -> None:
        """Queue the transfer of `state` to the host, into `counts`."""
        self.counts = self._told.tell(self._stream, self.state)
        self._stream.record(self._counted)

    def wait_for_counts(self) -> None:
        """Wait until `counts` are there."""
        self._counted.synchronize()

    def planned(self) -> None:
        """`counts` are those of a plan: know from them what is in use."""
        self._nodes_in_use = int(self.counts[HANDED_OUT] - self.counts[FREE] - self.counts[UNUSED])
        self._places_in_use = int(self.counts[PLACES])

    def reserve(self, unique: int, start: int, end: int) -> None:
        """Make room for a batch of so many unique rows, which is taken in next.

        start, end: what of the window is in use. Waits where something may be too small.
        """
        if end + unique - start > self._window.shape[0]:
            self._grow_window(start, end, end + unique - start)
        if self._is_short_for(unique):
            # The bounds may be too high by far. More memory would cost more than waiting does.
            self.queue_counts()
            self.wait_for_counts()
            self._nodes_in_use = int(self.counts[HANDED_OUT] - self.counts[FREE])
            self._places_in_use = int(self.counts[PLACES])
        needed = self._nodes_in_use + unique
        if needed > self.capacity:
            self._make_nodes(max(needed, int(PLANNER_GROWTH * self.capacity)))
        if 2 * needed > self._places:
            self._make_cells(needed)
            self._fill_cells()
        elif self._places_in_use + unique > self._most_places:
            self._fill_cells()
        self._nodes_in_use += unique
        self._places_in_use += unique

    def _is_short_for(self, unique: int) -> bool:
        needed = self._nodes_in_use + unique
        return needed > self.capacity or 2 * needed > self._places

    def _grow_window(self, start: int, end: int, needed: int) -> None:
        size = self._window.shape[0]
        while size < needed:
            size *= 2
        larger = self._stream.empty((size, 2), np.int32)
        self._stream.launch_over(
            kernel("known_batches", "move_window"), end - start, *self.window, np.int64(start), np.int64(end), larger,
            np.int32(size), self.nodes,
        )  # fmt: skip
        self._stream.runtime.synchronize_all()
        self._window = larger

    def _make_nodes(self, capacity: int) -> None:
        """Room for so many nodes; those that are there stay."""
        stream, before = self._stream, self.capacity
        nodes, node_rows = stream.empty((capacity, NODE_FIELDS), np.int32), stream.empty(capacity, np.int64)
        free_nodes = stream.empty(capacity, np.int32)
        stream.fill(node_rows, 0xFF)  # -1: no row
        if before:
            for old, new in ((self.nodes, nodes), (self.node_rows, node_rows), (self.free_nodes, free_nodes)):
                stream.copy(old, new[:before])
            stream.runtime.synchronize_all()
        self.nodes, self.node_rows, self.free_nodes, self.capacity = nodes, node_rows, free_nodes, capacity

    def _make_cells(self, entries: int) -> None:
        """A hit map for so many nodes, of at least twice as many places; empty."""
        self._stream.runtime.synchronize_all()
        bits = (2 * entries - 1).bit_length()
        self._places, self.shift = 1 << bits, np.int32(64 - bits)
        # So many may be in use, those that erased keys left included: searches stay short.
        self._most_places = self._places * 3 // 4
        self.cells = self._stream.empty(2 * self._places, np.int64)
        self._stream.fill(self.cells, 0xFF)

    def _fill_cells(self) -> None:
        """Put all nodes into the hit map anew, which sweeps out what erased keys left."""
        places = self.state[PLACES : PLACES + 1]
        self._stream.fill(self.cells, 0xFF)
        self._stream.fill(places, 0)
        self._stream.launch_over(
            kernel("hit_map", "insert_keys"), self.capacity, self.node_rows, np.int32(self.capacity), self.cells,
            self.shift, places,
        )  # fmt: skip
        self._places_in_use = self._nodes_in_use
