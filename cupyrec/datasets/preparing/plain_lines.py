"""A Numba kernel that parses lines of Criteo data as they nearly always are, from their bytes to numbers in one pass.

It knows nothing of what makes a line bad: where a line is not plainly good it gives up, and the text is for criteo_rows
to parse, which takes twice as long and says what is wrong. What it does parse has the same numbers there.
"""

from __future__ import annotations

import numpy as np

from cupyrec.datasets.parse_cells import HEX_DIGITS, MAX_HEX_DIGITS, NOT_HEX
from cupyrec.devices.kernel_cache import cached_njit
from cupyrec.devices.numba_kernel import load_word

# Of fewer digits than these all integers fit 64 bits.
MAX_PLAIN_DIGITS = 18
TAB, LINE_FEED, CARRIAGE_RETURN = ord("\t"), ord("\n"), ord("\r")
WORD_BYTES = 8

# A byte of each of these, eight times.
EACH_BYTE = np.uint64(0x0101010101010101)
TOP_BITS = np.uint64(0x80) * EACH_BYTE
LOW_NIBBLES = np.uint64(0x0F) * EACH_BYTE
LOWER_CASE = np.uint64(0x20) * EACH_BYTE
DIGIT_0, AFTER_DIGIT_9 = np.uint64(ord("0")) * EACH_BYTE, np.uint64(ord("9") + 1) * EACH_BYTE
LETTER_A, AFTER_LETTER_F = np.uint64(ord("a")) * EACH_BYTE, np.uint64(ord("f") + 1) * EACH_BYTE
PAIRS, QUADS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)


@cached_njit()
def parse_plain_lines(text, labels, integers, missing, keys):
    """Parse lines that end in LF or CRLF, unless one of them is not plainly good.

    text:     uint8, ends in LF.
    labels:   (n,) float32, where n is the number of lines; integers: (13, n) int64; missing: (13, n) bool, where an
              integer is blank, and 0; keys: (26, n) uint64, 0 for blank. Modified.

    Returns whether all is parsed; where it is not, what has been written means nothing.
    """
    at = 0
    for row in range(labels.shape[0]):
        # Every line ends in LF, which no cell goes beyond: so what is read here is text.
        digit = text[at] - ord("0")
        if (digit != 0 and digit != 1) or text[at + 1] != TAB:
            return False
        labels[row] = digit
        at += 2
        for column in range(integers.shape[0]):
            negative = text[at] == ord("-")
            if negative or text[at] == ord("+"):
                at += 1
            start = at
            value = np.int64(0)
            digit = text[at] - ord("0")
            while 0 <= digit <= 9:
                value = value * 10 + digit
                at += 1
                digit = text[at] - ord("0")
            if text[at] != TAB or at - start > MAX_PLAIN_DIGITS:
                return False
            is_blank = at == start
            if is_blank and (negative or text[at - 1] == ord("+")):
                return False
            integers[column, row] = -value if negative else value
            missing[column, row] = is_blank
            at += 1
        for column in range(keys.shape[0]):
            end = TAB if column < keys.shape[0] - 1 else LINE_FEED
            if at + WORD_BYTES < text.shape[0] and text[at + WORD_BYTES] == end:
                # The usual cell has 8 digits; a shorter one before such a place has the end of a cell within.
                key, is_hex = _hex_word(load_word(text, at))
                if is_hex:
                    keys[column, row] = key
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
                return False
            if text[at] == CARRIAGE_RETURN and end == LINE_FEED:
                at += 1
            if text[at] != end:
                return False
            keys[column, row] = key
            at += 1
    return at == text.shape[0]


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
