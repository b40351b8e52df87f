"""Numba kernels that parse one column of cells where they lie, in the buffers of an Arrow binary column.

Cell i of a column is data[offsets[i] : offsets[i + 1]]. What every kernel shares:

    offsets:     (n + 1,) int32, ascending; read only.
    data:        (at least offsets[n],) uint8; read only.
    bad_columns: (n,) uint8, the 1-based column of the first bad cell of each row, 0 while there is none.
                 Modified: a bad cell writes `column` where no earlier column has been marked.
    column:      1-based number of the column that is parsed.

A kernel returns how many bad cells it met and writes some value, without meaning, in their place.
"""

from __future__ import annotations

import math

import numpy as np

from cupyrec.devices.kernel_cache import cached_njit

LARGEST_INT64 = np.uint64(2**63 - 1)
# 19 digits always fit an unsigned 64-bit integer, and every 64-bit integer has at most so many.
MAX_INTEGER_DIGITS = 19
MAX_HEX_DIGITS = 16

NOT_HEX = 255
HEX_DIGITS = np.full(256, NOT_HEX, dtype=np.uint8)
for _digit in range(16):
    HEX_DIGITS[ord(f"{_digit:x}")] = HEX_DIGITS[ord(f"{_digit:X}")] = _digit

# Most counts are small: their logarithms come from a table that fits the innermost cache.
SMALL_COUNTS = 1024
LOG_OF_SMALL_COUNT = np.log(np.arange(SMALL_COUNTS) + 1.0).astype(np.float32)


@cached_njit()
def parse_labels(offsets, data, bad_columns, column, labels):
    """Parse cells that are exactly `0` or `1`.

    labels: (n,) float32, 0 or 1. Modified. The other parameters: see the module.
    """
    bad = 0
    for row in range(labels.shape[0]):
        start = offsets[row]
        digit = data[start] - ord("0") if offsets[row + 1] - start == 1 else -1
        if digit != 0 and digit != 1:
            bad += 1
            if bad_columns[row] == 0:
                bad_columns[row] = column
        labels[row] = digit
    return bad


@cached_njit()
def parse_counts(offsets, data, bad_columns, column, dense):
    """Parse integers: an optional sign and 1 to 19 digits that fit int64; blank and negative count as 0.

        dense[i] = log(max(integer, 0) + 1)

    dense: (n,) float32, of any stride. Modified. The other parameters: see the module.
    Source: the transform of the DLRM reference (Naumov et al., arXiv 1906.00091), rounded once, at the end.
    """
    bad = 0
    for row in range(dense.shape[0]):
        position, stop = offsets[row], offsets[row + 1]
        if position == stop:
            dense[row] = 0.0
            continue
        negative = data[position] == ord("-")
        if negative or data[position] == ord("+"):
            position += 1
        magnitude = np.uint64(0)
        good = 1 <= stop - position <= MAX_INTEGER_DIGITS
        if good:
            for at in range(position, stop):
                digit = data[at] - ord("0")
                if digit < 0 or digit > 9:
                    good = False
                magnitude = magnitude * np.uint64(10) + np.uint64(digit)
            # The negative numbers reach one further.
            good = good and magnitude <= LARGEST_INT64 + np.uint64(negative)
        if not good:
            bad += 1
            if bad_columns[row] == 0:
                bad_columns[row] = column
        if negative:
            dense[row] = 0.0
        elif magnitude < np.uint64(SMALL_COUNTS):
            dense[row] = LOG_OF_SMALL_COUNT[magnitude]
        else:
            dense[row] = math.log(np.float64(magnitude) + 1.0)
    return bad


@cached_njit()
def parse_categories(offsets, data, bad_columns, column, first_row, table_rows, rows):
    """Parse up to 16 hexadecimal digits, in upper or lower case; blank counts as 0.

        rows[i] = first_row + value mod table_rows

    first_row:  int64, the first global row of the column's table.
    table_rows: uint64, rows of that table, at least 1.
    rows:       (n,) int64, global rows. Modified. The other parameters: see the module.
    """
    bad = 0
    for row in range(rows.shape[0]):
        position, stop = offsets[row], offsets[row + 1]
        value = np.uint64(0)
        seen = np.uint8(0)
        good = stop - position <= MAX_HEX_DIGITS
        if good:
            for at in range(position, stop):
                digit = HEX_DIGITS[data[at]]
                seen |= digit
                value = (value << np.uint64(4)) | np.uint64(digit)
            good = seen != NOT_HEX
        if not good:
            bad += 1
            if bad_columns[row] == 0:
                bad_columns[row] = column
        rows[row] = first_row + np.int64(value % table_rows)
    return bad


@cached_njit()
def parse_integers(offsets, data, bad_columns, column, values, missing):
    """Parse the cells of parse_counts into the integers themselves.

    values:  (n,) int64, 0 for blank and for bad cells. Modified.
    missing: (n,) bool, whether a cell is blank. Modified. The other parameters: see the module.
    """
    bad = 0
    for row in range(values.shape[0]):
        position, stop = offsets[row], offsets[row + 1]
        missing[row] = position == stop
        values[row] = 0
        if position == stop:
            continue
        negative = data[position] == ord("-")
        if negative or data[position] == ord("+"):
            position += 1
        magnitude = np.uint64(0)
        good = 1 <= stop - position <= MAX_INTEGER_DIGITS
        if good:
            for at in range(position, stop):
                digit = data[at] - ord("0")
                if digit < 0 or digit > 9:
                    good = False
                magnitude = magnitude * np.uint64(10) + np.uint64(digit)
            good = good and magnitude <= LARGEST_INT64 + np.uint64(negative)
        if good:
            # Of -2**63 both conversions wrap around, to the right value.
            values[row] = -np.int64(magnitude) if negative else np.int64(magnitude)
        else:
            bad += 1
            if bad_columns[row] == 0:
                bad_columns[row] = column
    return bad


@cached_njit()
def parse_hex(offsets, data, bad_columns, column, values):
    """Parse the cells of parse_categories into the values themselves.

    values: (n,) uint64, 0 for blank cells. Modified. The other parameters: see the module.
    """
    bad = 0
    for row in range(values.shape[0]):
        position, stop = offsets[row], offsets[row + 1]
        value = np.uint64(0)
        seen = np.uint8(0)
        good = stop - position <= MAX_HEX_DIGITS
        if good:
            for at in range(position, stop):
                digit = HEX_DIGITS[data[at]]
                seen |= digit
                value = (value << np.uint64(4)) | np.uint64(digit)
            good = seen != NOT_HEX
        if not good:
            bad += 1
            if bad_columns[row] == 0:
                bad_columns[row] = column
        values[row] = value
    return bad
