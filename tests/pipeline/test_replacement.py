"""Ranks of rows: monotone in the count, the same as the reference, within their range."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_planner import rank

from cupyrec.config import REPLACEMENTS
from cupyrec.errors import ConfigError
from cupyrec.pipeline.replacement import KIND_OF, RANKS, rank_of, replacement_kind


def test_the_options_name_the_policies():
    assert tuple(KIND_OF) == REPLACEMENTS


@given(
    replacement=st.sampled_from(REPLACEMENTS),
    row=st.integers(0, 2**62),
    count=st.one_of(st.integers(0, 200), st.integers(0, 2**31 - 1)),
    last_use=st.integers(0, 2**31 - 2),
    seed=st.integers(0, 2**32),
)
def test_equals_the_reference_and_lies_in_range(replacement, row, count, last_use, seed):
    got = rank_of(KIND_OF[replacement], row, count, last_use, seed)
    assert got == rank(replacement, row, count, last_use, seed)
    assert 0 <= got < RANKS


def test_who_is_used_more_is_never_ranked_lower():
    counts = np.unique(np.concatenate([np.arange(1000), np.geomspace(1000, 2**31 - 1, 4000).astype(np.int64)]))
    ranks = [rank_of(KIND_OF["lookahead"], 0, int(count), 0, 0) for count in counts]
    assert ranks == sorted(ranks)
    assert ranks[:64] == list(range(64))
    # An eighth of an octave: counts that share a rank differ by less than a seventh.
    for one, other, low, high in zip(ranks, ranks[1:], counts, counts[1:], strict=False):
        assert one != other or high <= low * 1.13


def test_chance_is_spread_over_all_ranks():
    ranks = [rank_of(KIND_OF["random"], row, 1, 7, 0) for row in range(20_000)]
    counts = np.bincount(ranks, minlength=RANKS)
    assert counts.min() > 10
    assert counts.max() < 80


def test_an_unknown_policy():
    with pytest.raises(ConfigError, match="unknown replacement 'fifo'; choose lookahead, lru, lfu, random"):
        replacement_kind("fifo")
