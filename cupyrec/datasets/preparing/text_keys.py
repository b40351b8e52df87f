"""64-bit keys of texts: a hash of their UTF-8 bytes.

Two texts with the same key count as one value. Among 100 million different texts of a column the chance that there is
any such pair is about 1 in 3,700 (n**2 / 2**65).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute

from cupyrec.datasets.preparing.key_table import mix
from cupyrec.datasets.preparing.raw_rows import MISSING_KEY
from cupyrec.devices.kernel_cache import cached_njit

WORD_BYTES = 8
# Odd numbers without a pattern: the fractional digits of the golden ratio, and of the square root of 2.
LENGTH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
WORD_FACTOR = np.uint64(0x6A09E667F3BCC909)
ROTATION = np.uint64(29)
ROTATION_BACK = np.uint64(64 - 29)


def text_keys(texts: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The keys of n texts, and the texts themselves as large_string, null where they are missing.

    texts: string or large_string, (n,). An empty text counts as missing, as does null; the key of both is 0.

    The keys, (n,) uint64, depend on the text alone and are the same everywhere. A text that is not missing never has
    the key 0.
    """
    texts = texts.cast(pa.large_string())
    if texts.null_count:
        # A null may hide a text; afterwards none is longer than nothing.
        texts = pa.compute.fill_null(texts, "")
    _, offsets, data = texts.buffers()
    keys = np.empty(len(texts), dtype=np.uint64)
    if len(texts):
        offsets = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
        data = np.frombuffer(data if data is not None and data.size else b"\0", dtype=np.uint8)
        if _hash_texts(offsets, data, keys):
            present = pa.compute.greater(pa.compute.binary_length(texts), 0)
            texts = pa.compute.if_else(present, texts, pa.scalar(None, pa.large_string()))
    return keys, texts


@cached_njit()
def _hash_texts(offsets, data, keys):
    """keys[i] = hash of data[offsets[i] : offsets[i + 1]], 0 for an empty one. Returns how many are empty.

    Each full or last word of 8 bytes, little-endian and filled up with zeros, changes the state one to one: texts of
    the same length that differ in one word never have the same key.
    """
    empty = 0
    for index in range(keys.shape[0]):
        start, stop = offsets[index], offsets[index + 1]
        if start == stop:
            keys[index] = MISSING_KEY
            empty += 1
            continue
        state = np.uint64(stop - start) * LENGTH_FACTOR
        at = start
        while at + WORD_BYTES <= stop:
            state = _stir(state, _word(data, at, WORD_BYTES))
            at += WORD_BYTES
        if at < stop:
            state = _stir(state, _word(data, at, stop - at))
        key = mix(state)
        keys[index] = key if key != MISSING_KEY else LENGTH_FACTOR
    return empty


@cached_njit()
def _word(data, start, count):
    word = np.uint64(0)
    for byte in range(count):
        word |= np.uint64(data[start + byte]) << np.uint64(8 * byte)
    return word


@cached_njit()
def _stir(state, word):
    state = (state ^ mix(word)) * WORD_FACTOR
    return (state << ROTATION) | (state >> ROTATION_BACK)
