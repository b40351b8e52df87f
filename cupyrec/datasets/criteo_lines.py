"""A Numba kernel that parses lines of Criteo data, from their bytes to numbers in one pass.

A cell of a label is exactly `0` or `1`. One of an integer has an optional sign and 1 to 19 digits, whose value fits 64
bits; one of a category has up to 16 hexadecimal digits, in upper or lower case. Either of these may be blank.
"""

from __future__ import annotations

import numpy as np

from cupyrec.devices.kernel_cache import cached_njit
from cupyrec.devices.numba_kernel import load_word

LARGEST_INT64 = np.uint64(2**63 - 1)
# 19 digits always fit an unsigned 64-bit integer, and every 64-bit integer has at most so many.
MAX_INTEGER_DIGITS = 19
MAX_HEX_DIGITS = 16
TAB, LINE_FEED, CARRIAGE_RETURN = ord("\t"), ord("\n"), ord("\r")
WORD_BYTES = 8

NOT_HEX = 255
HEX_DIGITS = np.full(256, NOT_HEX, dtype=np.uint8)
for _digit in range(16):
    HEX_DIGITS[ord(f"{_digit:x}")] = HEX_DIGITS[ord(f"{_digit:X}")] = _digit

# A byte of each of these, eight times.
EACH_BYTE = np.uint64(0x0101010101010101)
TOP_BITS = np.uint64(0x80) * EACH_BYTE
LOW_NIBBLES = np.uint64(0x0F) * EACH_BYTE
LOWER_CASE = np.uint64(0x20) * EACH_BYTE
DIGIT_0, AFTER_DIGIT_9 = np.uint64(ord("0")) * EACH_BYTE, np.uint64(ord("9") + 1) * EACH_BYTE
LETTER_A, AFTER_LETTER_F = np.uint64(ord("a")) * EACH_BYTE, np.uint64(ord("f") + 1) * EACH_BYTE
PAIRS, QUADS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)


@cached_njit()
def parse_lines(text, labelled, labels, integers, missing, keys, bad_columns):
    """Parse n lines that end in LF or CRLF.

    text:        uint8, ends in LF; n is how many there are.
    labelled:    whether lines begin with a label; those without get 0.
    labels:      (n,) float32, 0 or 1. Modified.
    integers:    (13, n) int64, 0 for blank. Modified.
    missing:     (13, n) bool, where an integer is blank. Modified: what is not parsed stays as it is.
    keys:        (26, n) uint64, 0 for blank. Modified.
    bad_columns: (n,) uint8, of each line the 1-based column of the first cell that is bad or has another line end than
                 its place asks for, 0 where there is none. From that cell on nothing of the line is parsed. Modified.
    """
    at = 0
    for row in range(labels.shape[0]):
        at, bad_columns[row] = _parse_line(text, at, row, labelled, labels, integers, missing, keys)
        if bad_columns[row]:
            while text[at] != LINE_FEED:
                at += 1
            at += 1


@cached_njit()
def _parse_line(text, at, row, labelled, labels, integers, missing, keys):
    """Parse the line that begins at `at`: where the next one begins, and 0; or some place in this line and its column.

    What is read is text: every line ends in LF, which no cell goes beyond.
    """
    labels[row] = 0
    before = 1  # columns, and 1 as they count from there
    if labelled:
        digit = text[at] - ord("0")
        if (digit != 0 and digit != 1) or text[at + 1] != TAB:
            return at, 1
        labels[row] = digit
        at += 2
        before += 1
    for feature in range(integers.shape[0]):
        negative = text[at] == ord("-")
        has_sign = negative or text[at] == ord("+")
        if has_sign:
            at += 1
        start = at
        magnitude = np.uint64(0)
        digit = text[at] - ord("0")
        while 0 <= digit <= 9:
            magnitude = magnitude * np.uint64(10) + np.uint64(digit)
            at += 1
            digit = text[at] - ord("0")
        digits = at - start
        # 18 digits or less always fit; the negative numbers reach one further.
        is_long = digits >= MAX_INTEGER_DIGITS
        if is_long and (digits > MAX_INTEGER_DIGITS or magnitude > LARGEST_INT64 + np.uint64(negative)):
            return at, before + feature
        if text[at] != TAB or (digits == 0 and has_sign):
            return at, before + feature
        # Of -2**63 both conversions wrap around, to the right value.
        integers[feature, row] = -np.int64(magnitude) if negative else np.int64(magnitude)
        missing[feature, row] = digits == 0
        at += 1
    before += integers.shape[0]
    for feature in range(keys.shape[0]):
        end = TAB if feature < keys.shape[0] - 1 else LINE_FEED
        if at + WORD_BYTES < text.shape[0] and text[at + WORD_BYTES] == end:
            # The usual cell has 8 digits; a shorter one before such a place has the end of a cell within.
            key, is_hex = _hex_word(load_word(text, at))
            if is_hex:
                keys[feature, row] = key
                at += WORD_BYTES + 1
                continue
        start = at
        key = np.uint64(0)
        digit = HEX_DIGITS[text[at]]
        while digit != NOT_HEX:
            key = (key << np.uint64(4)) | np.uint64(digit)
            at += 1
            digit = HEX_DIGITS[text[at]]
        if at - start > MAX_HEX_DIGITS:
            return at, before + feature
        if text[at] == CARRIAGE_RETURN and end == LINE_FEED:
            at += 1
        if text[at] != end:
            return at, before + feature
        keys[feature, row] = key
        at += 1
    return at, 0


@cached_njit()
def _hex_word(word):
    """The number of 8 hexadecimal digits, the first in the lowest byte; and whether they are such digits."""
    lower = word | LOWER_CASE
    # In the top bit of each byte, of bytes below 128: is it at least so much? No byte borrows from the next.
    is_digit = ((word | TOP_BITS) - DIGIT_0) & ~((word | TOP_BITS) - AFTER_DIGIT_9)
    is_letter = ((lower | TOP_BITS) - LETTER_A) & ~((lower | TOP_BITS) - AFTER_LETTER_F)
    is_hex = (is_digit | is_letter) & ~word & TOP_BITS == TOP_BITS
    nibbles = (word & LOW_NIBBLES) + ((is_letter & TOP_BITS) >> np.uint64(7)) * np.uint64(9)
    pairs = ((nibbles << np.uint64(4)) | (nibbles >> np.uint64(8))) & PAIRS
    quads = ((pairs << np.uint64(8)) | (pairs >> np.uint64(16))) & QUADS
    return ((quads << np.uint64(16)) | (quads >> np.uint64(32))) & np.uint64(0xFFFFFFFF), is_hex
