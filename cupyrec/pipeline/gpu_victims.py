"""Which rows leave, on a GPU: from how many must leave of which lists to their slots, in order.

A pass over all slots costs 4 bytes each, and 8 more for those of a list that is left in part. There is one such pass;
where a list is left in part there are up to three, each MOST_DIGIT_BITS further down the numbers of its rows. Then as
many rows as leave, and at most 2 ** SPARE_BITS more, are sorted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cupyrec.devices.gpu import BLOCK_THREADS, GpuStream
from cupyrec.devices.repeated import Repeated
from cupyrec.embedding.radix_sort import RadixSort
from cupyrec.kernels import kernel
from cupyrec.pipeline.gpu_nodes import CHOSEN
from cupyrec.pipeline.known_batches import PLANNER_GROWTH
from cupyrec.pipeline.replacement import RANKS

# As in kernels/planner.cuh.
MOST_DIGIT_BITS = 12
# Fewer rows more to sort, or fewer passes over the slots.
SPARE_BITS = 16
# Blocks that each count into bins of their own: a few for each multiprocessor of a large GPU.
COUNTING_BLOCKS = 512
CUT_THREADS = 512
# Slots that a thread looks at before it writes down those that leave: SLOT_ROUNDS in kernels/victims.cu; and blocks at
# it, as many as a large GPU has room for.
SLOT_ROUNDS, CHOOSING_BLOCKS = 4, 2048


class GpuVictims:
    """What is known of the slots, and the choice among them.

    slot_list, slot_since, slot_node: (slots,) int32, uint64 and int32, device, and cut: (1,) uint64: see planner.cuh.
    """

    def __init__(self, stream: GpuStream, slots: int) -> None:
        """Raises DeviceMemoryError."""
        self._stream, self._slots, self._capacity = stream, slots, -1
        self.slot_list, self.slot_node = stream.empty(slots, np.int32), stream.empty(slots, np.int32)
        self.slot_since = stream.empty(slots, np.uint64)
        self.cut = stream.empty(1, np.uint64)
        stream.fill(self.slot_list, 0xFF)  # -1: in no list
        self._bins = stream.zeros(1 << MOST_DIGIT_BITS, np.int32)

    @property
    def spare(self) -> int:
        """So many rows more than leave may be chosen of the list that is left in part."""
        return 1 << SPARE_BITS

    def reserve(self, unique: int) -> None:
        """Make room for so many victims. Waits for the device where what is there is too small."""
        if self._capacity >= unique:
            return
        if self._capacity >= 0:
            self._stream.runtime.synchronize_all()
        unique = math.ceil(PLANNER_GROWTH * unique)
        self._capacity, n, empty = unique, min(unique + self.spare, self._slots), self._stream.empty
        self._keys, self._sorted_keys = empty(n, np.int64), empty(n, np.int64)
        self._chosen, self._victims = empty(n, np.int32), empty(n, np.int32)
        self._sort, self._repeated = RadixSort(self._stream, n), Repeated(self._stream)

    def queue(self, state: Any, unique: int, *, furthest: int, ahead: int, ring: int, since_end: int) -> Any:
        """Queue the choice that find_room has prepared in `state`. Returns the slots of the rows that leave, in order.

        state: device, modified, the same array each time; unique: at most so many leave; furthest: the last batch
        known, `ahead` batches after the planned one; ring: lists of batches; since_end: all numbers in slot_since are
        smaller. The result is (EVICTED,) int32 and more, device: good until the next choice.
        """
        stream = self._stream
        lists = self.slot_list, self.slot_since, np.int32(furthest), np.int32(ring)
        since_bits = since_end.bit_length()
        blocks = min(-(-self._slots // BLOCK_THREADS), COUNTING_BLOCKS)
        for shift, bits in digits_above(SPARE_BITS, since_bits):
            digit = np.int32(shift), np.int32(bits)
            stream.launch(
                kernel("victims", "count_since"), blocks, BLOCK_THREADS, *lists, *digit, state, self.cut, self._bins
            )
            stream.launch(kernel("victims", "move_cut"), 1, CUT_THREADS, *digit, self._bins, state, self.cut)
        blocks = min(-(-self._slots // (SLOT_ROUNDS * BLOCK_THREADS)), CHOOSING_BLOCKS)
        stream.launch(
            kernel("victims", "choose"), blocks, BLOCK_THREADS, *lists, np.int32(since_bits), np.int32(self.spare),
            self.cut, state, self._keys, self._chosen,
        )  # fmt: skip
        # Above them stands the order of the list: the ranks', then those of the batches known ahead.
        bits = since_bits + (RANKS + ahead).bit_length()
        # The same each time but for how many are meant, which stands on the device.
        self._repeated.queue((bits, id(state)), lambda: self._sort_chosen(bits, state))
        return self._victims

    def _sort_chosen(self, bits: int, state: Any) -> None:
        arrays = self._keys, self._chosen, self._sorted_keys, self._victims
        self._sort.sort(*arrays, bits=bits, count=state[CHOSEN : CHOSEN + 1])


def digits_above(low_bits: int, bits: int) -> list[tuple[int, int]]:
    """(lowest bit, width) of the digits of a number of so many bits without its low ones, the highest digit first.

    As few as can be, and as equal as can be.
    """
    digits, top = [], bits
    for left in range(-(-max(bits - low_bits, 0) // MOST_DIGIT_BITS), 0, -1):
        width = -(-(top - low_bits) // left)
        top -= width
        digits.append((top, width))
    return digits
