"""A stable sort on the GPU, by as many bits of the keys as can differ; it neither allocates nor waits."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.devices.gpu import GpuStream
from cupyrec.kernels import kernel
from cupyrec.kernels.compaction import exclusive_scan

# As in kernels/radix_sort.cu.
MOST_DIGIT_BITS = 8
SORT_THREADS = 256
SORT_ITEMS = 8 * SORT_THREADS
# Keys and values between two passes, and where the digits of each tile go.
SORT_BYTES_PER_ITEM = 8 + 4 + 4 * (1 << MOST_DIGIT_BITS) / SORT_ITEMS


class RadixSort:
    """Sorts on one stream; what it needs beside keys and values is allocated here, once."""

    def __init__(self, stream: GpuStream, most_items: int) -> None:
        """Raises DeviceMemoryError."""
        self._stream, self.most_items = stream, most_items
        digits, items = 1 << MOST_DIGIT_BITS, max(most_items, 1)
        self._keys, self._values = stream.empty(items, np.int64), stream.empty(items, np.int32)
        self._tile_counts = stream.empty(digits * -(-items // SORT_ITEMS), np.int32)
        self._digit_totals = stream.empty(digits, np.int32)
        # Views of device arrays cost microseconds, and most sorts are of one size.
        self._views: dict[tuple[int, int], tuple[Any, Any]] = {}
        # -1: that all items are meant.
        self._all = stream.empty(1, np.int32)
        stream.fill(self._all, 0xFF)

    def sort(
        self, keys: Any, values: Any, sorted_keys: Any, sorted_values: Any, *, bits: int, count: Any = None
    ) -> None:
        """Queue a stable sort of keys and their values by the low bits of the keys, taken as unsigned numbers.

        keys:   (n,) int64, device.
        values: (n,) int32, device; None: 0 to n - 1.
        sorted_keys, sorted_values: as keys and values, and none of the arrays given; overwritten.
        bits:   1 to 64; 0 sorts nothing and copies.
        count:  (1,) int32, device: only the first so many items are meant, sorted and written; None: all.

        Raises ValueError.
        """
        n = keys.shape[0]
        for name, array in (("values", values), ("sorted_keys", sorted_keys), ("sorted_values", sorted_values)):
            if array is not None and array.shape != (n,):
                raise ValueError(f"{name} must be ({n},) as keys are, but is {array.shape}")
        if n > self.most_items or not 0 <= bits <= 64:
            raise ValueError(f"{n} items by {bits} bits, but at most {self.most_items} by 64 can be sorted")
        passes = max(-(-bits // MOST_DIGIT_BITS), 1)
        # As equal as can be: the fewer digits, the longer the runs that are written.
        digit_bits = -(-bits // passes)
        targets = ((self._keys, self._values), (sorted_keys, sorted_values))
        for digit in range(passes):
            shift = digit * digit_bits
            # The last pass ends in the caller's arrays.
            to_keys, to_values = targets[(passes - digit) % 2]
            self._pass(keys, values, to_keys, to_values, n, shift, 1 << max(min(digit_bits, bits - shift), 0), count)
            keys, values = to_keys, to_values

    def _pass(
        self, keys: Any, values: Any, to_keys: Any, to_values: Any, n: int, shift: int, digits: int, count: Any
    ) -> None:
        """Queue the pass of one digit. shift: of its lowest bit; digits: how many values it may have."""
        tiles, launch = -(-n // SORT_ITEMS), self._stream.launch
        if not tiles:
            return
        limit = self._all if count is None else count
        where = np.int32(n), limit, np.int32(shift), np.int32(digits)
        launch(kernel("radix_sort", "count_digits"), tiles, SORT_THREADS, keys, *where, self._tile_counts)
        if (digits, tiles) not in self._views:
            tile_counts = self._tile_counts[: digits * tiles].reshape(digits, tiles)
            self._views[digits, tiles] = tile_counts, self._digit_totals[:digits]
        tile_counts, totals = self._views[digits, tiles]
        exclusive_scan(self._stream, tile_counts, totals)
        given = values is not None
        launch(
            kernel("radix_sort", "move_by_digit"),
            tiles,
            SORT_THREADS,
            keys,
            values if given else to_values,
            np.int32(given),
            *where,
            tile_counts,
            self._digit_totals,
            to_keys,
            to_values,
        )
