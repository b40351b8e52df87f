"""New ids agree with sorting, also beyond 32 bits and in several groups, and take no more memory than is planned."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.datasets.preparing import value_order
from cupyrec.datasets.preparing.value_order import BYTES_PER_VALUE, ValueOrder
from cupyrec.datasets.preparing.vocabulary import Vocabulary


@pytest.fixture(autouse=True, scope="module")
def small_groups():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(value_order, "GROUP_VALUES", 3)
        yield


def counted(counts):
    """A vocabulary whose id i has the key 100 + i and the count counts[i - 1]."""
    vocabulary = Vocabulary()
    vocabulary.extend(np.arange(101, 101 + len(counts), dtype=np.uint64))
    vocabulary._records[1 : len(counts) + 1, 1] = counts
    return vocabulary


def check(counts, min_count, by_count, known=0):
    known = min(known, len(counts))
    order = ValueOrder(counted(counts), min_count, by_count=by_count, known=known)
    new = [old for old, count in enumerate(counts, start=1) if old > known and count >= min_count]
    if by_count:
        new.sort(key=lambda old: -counts[old - 1])
    expected = [*range(1, known + 1), *new]
    assert len(order) == len(expected)
    assert order.old_ids(slice(None)).tolist() == expected
    assert order.keys.shape == order.counts.shape == (len(expected),)
    assert order.keys[:].tolist() == [100 + old for old in expected]
    assert order.counts[:].tolist() == [counts[old - 1] for old in expected]
    assert order.counts[1:3].tolist() == [counts[old - 1] for old in expected[1:3]]
    new_ids = order.new_ids(np.dtype(np.uint16))
    assert new_ids.dtype == np.uint16
    assert new_ids.tolist() == [
        0,
        *(expected.index(old) + 1 if old in expected else 0 for old in range(1, len(counts) + 1)),
    ]


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(0, 5), st.booleans(), st.integers(0, 12))
def test_agrees_with_sorting(counts, min_count, by_count, known):
    check(counts, min_count, by_count)
    check(counts, min_count, by_count, known)


@given(
    st.lists(st.sampled_from([1, 2**32 - 2, 2**32 - 1, 2**32, 2**32 + 1, 2**40]), max_size=8),
    st.booleans(),
    st.integers(0, 3),
)
def test_counts_beyond_32_bits(counts, by_count, known):
    check(counts, 2, by_count, known)


def test_counts_of_keys_that_were_met():
    keys = [7, 5, 7, 9, 5, 7]
    vocabulary = Vocabulary()
    vocabulary.encode(np.array(keys, np.uint64), np.empty(6, np.uint32))
    order = ValueOrder(vocabulary, 1, by_count=True)
    assert dict(zip(order.keys[:].tolist(), order.counts[:].tolist(), strict=True)) == Counter(keys)
    assert order.keys[:].tolist() == [7, 5, 9]


@pytest.mark.parametrize("known", [0, 150_000])
@pytest.mark.parametrize("by_count", [False, True])
def test_takes_no_more_than_planned(monkeypatch, by_count, known):
    monkeypatch.setattr(value_order, "GROUP_VALUES", 1000)
    n = 200_000
    vocabulary = counted(np.random.default_rng(1).zipf(1.3, n).clip(1, 2**40))
    tracemalloc.start()
    try:
        order = ValueOrder(vocabulary, 1, by_count=by_count, known=known)
        order.new_ids(np.dtype(np.uint32))
        order.keys[:1000]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BYTES_PER_VALUE * n * 1.1
