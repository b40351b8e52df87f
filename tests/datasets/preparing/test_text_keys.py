import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.datasets.preparing.text_keys import text_keys

TEXTS = st.one_of(st.none(), st.text(max_size=20), st.sampled_from(["a", "b", "aaaaaaaa", "aaaaaaaaa", "a\0", "\0"]))
BITS = 2**64 - 1


def mix(key):
    key = key * 0xD6E8FEB86659FD93 & BITS
    key ^= key >> 32
    key = key * 0xA0761D6478BD642F & BITS
    return key ^ (key >> 32)


def slow_key(text):
    content = (text or "").encode()
    if not content:
        return 0
    state = len(content) * 0x9E3779B97F4A7C15 & BITS
    for start in range(0, len(content), 8):
        word = int.from_bytes(content[start : start + 8], "little")
        state = (state ^ mix(word)) * 0x6A09E667F3BCC909 & BITS
        state = (state << 29 | state >> 35) & BITS
    return mix(state)


@pytest.mark.parametrize("data_type", [pa.string(), pa.large_string()])
@given(st.lists(TEXTS, max_size=20), st.integers(0, 3))
def test_keys_agree_with_the_reference(data_type, texts, start):
    array = pa.array(texts, data_type)[start:]
    keys, found = text_keys(array)
    assert keys.dtype == np.uint64
    assert keys.tolist() == [slow_key(text) for text in texts[start:]]
    assert found.type == pa.large_string()
    assert found.to_pylist() == [text or None for text in texts[start:]]


def test_keys_are_the_same_everywhere():
    """They stand in vocabularies that are read elsewhere, and later."""
    assert text_keys(pa.array(["a", "click", "Grüße an alle"]))[0].tolist() == [
        0x86CD4580C85736BA,
        0x85E8726ADD1E0F2A,
        0x5C97421D4401366C,
    ]


def test_a_null_may_hide_a_text():
    bitmap = pa.py_buffer(bytes([0b101]))
    whole = pa.array(["a", "hidden", "b"])
    array = pa.StringArray.from_buffers(3, whole.buffers()[1], whole.buffers()[2], bitmap)
    keys, texts = text_keys(array)
    assert keys.tolist() == [slow_key("a"), 0, slow_key("b")]
    assert texts.to_pylist() == ["a", None, "b"]


def test_similar_texts_have_different_keys_that_look_random():
    texts = [f"{prefix}{number}" for prefix in ("", "item-", "a rather long prefix / ") for number in range(50_000)]
    keys, _ = text_keys(pa.array(texts))
    assert len(np.unique(keys)) == len(texts)
    # Every bit of the keys is set in half of them.
    for bit in range(64):
        share = float(np.mean((keys >> np.uint64(bit)) & np.uint64(1)))
        assert abs(share - 0.5) < 0.01
