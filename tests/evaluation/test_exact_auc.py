"""ExactAuc against scikit-learn and against counting every pair."""

import gc
import os
import tempfile
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from sklearn.metrics import roc_auc_score

from cupyrec.evaluation.exact_auc import ExactAuc, order_preserving_keys, twice_wins

finite_float32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
few_scores = st.sampled_from([-1.5, -0.0, 0.0, 1e-45, -1e-45, 0.25, 3.0e38, -3.0e38])


def auc_of_every_pair(scores, positive):
    """The definition, pair by pair, as an exact fraction."""
    wins = sum(
        Fraction(1) if p > n else Fraction(1, 2) if p == n else 0 for p in scores[positive] for n in scores[~positive]
    )
    return float(wins / (int(positive.sum()) * int((~positive).sum())))


def auc_in_pieces(scores, positive, pieces, max_buffer_rows):
    auc = ExactAuc(max_buffer_rows)
    for piece in pieces:
        auc.add(scores[piece], positive[piece])
    return auc.value()


@pytest.mark.parametrize("max_buffer_rows", [1, 2, 7, 1000, 10_000])
@pytest.mark.parametrize("levels", [1, 2, 5, 300, 2**20])
def test_equal_to_scikit_learn_with_and_without_ties(max_buffer_rows, levels):
    rng = np.random.default_rng(3)
    rows = 60 if max_buffer_rows < 7 else 3000
    scores = (rng.integers(-levels, levels, rows) / np.float32(16)).astype(np.float32)
    positive = rng.random(rows) < 0.2 + 0.1 * (scores > 0)
    auc = auc_in_pieces(scores, positive, np.array_split(np.arange(rows), 9), max_buffer_rows)
    assert auc == pytest.approx(roc_auc_score(positive, scores), rel=1e-12)


@given(
    scores=st_numpy.arrays(np.float32, st.integers(2, 25), elements=st.one_of(finite_float32, few_scores)),
    seed=st.integers(0, 2**32 - 1),
    max_buffer_rows=st.integers(1, 30),
)
@settings(max_examples=150, deadline=None)
def test_equal_to_the_definition_in_any_order(scores, seed, max_buffer_rows):
    rng = np.random.default_rng(seed)
    positive = rng.random(scores.size) < 0.5
    positive[:2] = True, False
    order = rng.permutation(scores.size)
    cuts = np.sort(rng.integers(0, scores.size + 1, 3))
    expected = auc_of_every_pair(scores, positive)
    assert auc_in_pieces(scores, positive, np.split(order, cuts), max_buffer_rows) == expected
    assert auc_in_pieces(scores, positive, [np.arange(scores.size)], max_buffer_rows) == expected


def test_perfect_reversed_and_equal_scores():
    positive = np.arange(100) >= 70
    scores = np.arange(100, dtype=np.float32)
    everything = [np.arange(100)]
    for max_buffer_rows in (8, 1000):
        assert auc_in_pieces(scores, positive, everything, max_buffer_rows) == 1.0
        assert auc_in_pieces(-scores, positive, everything, max_buffer_rows) == 0.0
        assert auc_in_pieces(np.zeros_like(scores), positive, everything, max_buffer_rows) == 0.5


@pytest.mark.parametrize("label", [True, False])
def test_one_class_has_no_auc_even_in_the_file(label):
    auc = ExactAuc(max_buffer_rows=4)
    assert auc.value() is None
    auc.add(np.arange(11, dtype=np.float32), np.full(11, label))
    assert auc.value() is None
    auc.add(np.array([100], np.float32), np.array([not label]))
    assert auc.value() == (0.0 if label else 1.0)


def test_value_may_be_asked_between_additions():
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 40, 500).astype(np.float32)
    positive = rng.random(500) < 0.3
    auc = ExactAuc(max_buffer_rows=64)
    for start in range(0, 500, 50):
        auc.add(scores[start : start + 50], positive[start : start + 50])
        so_far = slice(0, start + 50)
        assert auc.value() == auc.value() == auc_of_every_pair(scores[so_far], positive[so_far])


def test_inputs_are_not_modified_and_may_be_strided():
    scores = np.arange(40, dtype=np.float32)[::-2]
    positive = (np.arange(40) % 3 == 0)[::2]
    before = scores.copy(), positive.copy()
    assert auc_in_pieces(scores, positive, [slice(None)], 6) == auc_of_every_pair(scores, positive)
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(positive, before[1])


@given(st_numpy.arrays(np.float32, 30, elements=st.one_of(finite_float32, few_scores)))
def test_keys_compare_as_scores_do(scores):
    keys = order_preserving_keys(scores)
    assert keys.dtype == np.uint32
    np.testing.assert_array_equal(keys[:, None] < keys, scores[:, None] < scores)
    np.testing.assert_array_equal(keys[:, None] == keys, scores[:, None] == scores)


def test_counts_go_beyond_32_bits():
    positives = np.full(1000, 7, np.uint32)
    negatives = np.zeros(3_000_000, np.uint32)
    for keys in (positives, negatives):
        keys.flags.writeable = False  # as ExactAuc passes them
    assert twice_wins(positives, negatives) == 2 * 1000 * 3_000_000


def test_memory_held_does_not_grow_with_rows():
    """After many times the buffer's rows, what is held is the buffer and small change."""
    max_buffer_rows = 20_000
    scores = np.random.default_rng(0).standard_normal(max_buffer_rows).astype(np.float32)
    positive = scores > 0.5
    auc = ExactAuc(max_buffer_rows)
    auc.add(scores, positive)
    auc.add(scores, positive)  # the file is there and twice_wins is compiled
    tracemalloc.start()
    try:
        for start in range(0, 20 * max_buffer_rows, 1000):
            piece = slice(start % max_buffer_rows, start % max_buffer_rows + 1000)
            auc.add(scores[piece], positive[piece])
        held_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 0.1 * 4 * max_buffer_rows  # of 20 buffers added
    assert peak_bytes < 4 * max_buffer_rows  # and what an addition needs for a moment
    assert auc.positives + auc.negatives == 22 * max_buffer_rows


def open_files_in(folder):
    """Targets in `folder` of this process's open file descriptors, deleted ones included."""
    targets = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # the descriptor of the listing itself
            continue
        targets += [target] if target.startswith(str(folder)) else []
    return targets


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="lists open files by /proc")
@pytest.mark.parametrize("how", ["close", "collect"])
def test_the_temporary_file_goes_with_the_object(tmp_path, monkeypatch, how):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    auc = ExactAuc(max_buffer_rows=4)
    auc.add(np.arange(4, dtype=np.float32), np.array([True, False] * 2))
    assert open_files_in(tmp_path) == []  # nothing is written before it must be
    auc.add(np.arange(9, dtype=np.float32), np.arange(9) % 2 == 0)
    auc.value()
    assert len(open_files_in(tmp_path)) == 1
    if how == "close":
        auc.close()
    else:
        del auc
        gc.collect()
    assert open_files_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_closed_one_says_so():
    auc = ExactAuc(max_buffer_rows=4)
    auc.add(np.arange(9, dtype=np.float32), np.arange(9) % 2 == 0)
    auc.close()
    auc.close()
    with pytest.raises(ValueError, match="closed"):
        auc.value()


def test_a_buffer_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="max_buffer_rows must be at least 1, but is 0"):
        ExactAuc(max_buffer_rows=0)
