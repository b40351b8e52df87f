"""Rows as Criteo text: label, 13 integers and 26 categories, tab between, newline after, blanks empty."""

from __future__ import annotations

import numpy as np

from cupyrec.datasets.synthetic_columns import BLANK_INTEGER, BLANK_RANK
from cupyrec.devices.kernel_cache import cached_njit

LONGEST_INTEGER = 20  # characters of the longest int64, with its sign
CATEGORY_DIGITS = 8


def format_rows(labels: np.ndarray, integers: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The text of B rows: (length,) uint8.

    labels: (B,) float32, 0 or 1; integers: (B, 13) int64, BLANK_INTEGER for a blank;
    ranks:  (B, 26) int64 in 0..2**32 - 1, BLANK_RANK for a blank.

    A category is written as a hash of its column and rank, 8 lower-case hexadecimal digits; two ranks of one
    column never have the same.
    """
    longest = 2 + integers.shape[1] * (LONGEST_INTEGER + 1) + ranks.shape[1] * (CATEGORY_DIGITS + 1)
    text = np.empty(labels.shape[0] * longest, dtype=np.uint8)
    return text[: _format(labels, integers, ranks, text)]


@cached_njit()
def category_hash(column, rank):
    """A 32-bit hash of column (0-based) and rank, a bijection of the rank.

    The mixing steps are those of MurmurHash3's 32-bit finaliser (Appleby), each invertible.
    """
    mask = np.uint64(0xFFFFFFFF)
    x = (np.uint64(rank) ^ (np.uint64(column + 1) * np.uint64(0x9E3779B1))) & mask
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x85EBCA6B)) & mask
    x = ((x ^ (x >> np.uint64(13))) * np.uint64(0xC2B2AE35)) & mask
    return x ^ (x >> np.uint64(16))


@cached_njit()
def _format(labels, integers, ranks, text):
    """Write the rows into text and return their length."""
    zero, tab, newline, minus = np.uint8(48), np.uint8(9), np.uint8(10), np.uint8(45)
    letters = np.uint8(97 - 10)
    at = 0
    for row in range(labels.shape[0]):
        text[at] = zero + np.uint8(labels[row])
        at += 1
        for column in range(integers.shape[1]):
            text[at] = tab
            at += 1
            value = integers[row, column]
            if value == BLANK_INTEGER:
                continue
            if value < 0:
                text[at] = minus
                at += 1
                value = -value
            digits, rest = 1, value // 10
            while rest > 0:
                digits += 1
                rest //= 10
            for place in range(at + digits - 1, at - 1, -1):
                text[place] = zero + np.uint8(value % 10)
                value //= 10
            at += digits
        for column in range(ranks.shape[1]):
            text[at] = tab
            at += 1
            if ranks[row, column] == BLANK_RANK:
                continue
            x = category_hash(column, ranks[row, column])
            for place in range(at + CATEGORY_DIGITS - 1, at - 1, -1):
                digit = np.uint8(x & np.uint64(15))
                text[place] = digit + (zero if digit < 10 else letters)
                x >>= np.uint64(4)
            at += CATEGORY_DIGITS
        text[at] = newline
        at += 1
    return at
