"""Orders of an epoch: windows of whole pieces, permuted; reproducible; the random bits as NumPy gives them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.datasets.prepared.shuffle import cut_at_blocks, order_of_epoch, random_permutation


@st.composite
def ranges_of_samples(draw):
    bounds = sorted(draw(st.sets(st.integers(0, 400), min_size=2, max_size=10)))
    return list(zip(bounds[::2], bounds[1::2], strict=False))


def epoch_samples(order) -> list[int]:
    """Every sample in the order of the epoch, the obvious way."""
    found = []
    for window in range(len(order.places) - 1):
        assert order.places[window] == len(found)
        own = [n for start, stop in order.window_pieces(window) for n in range(start, stop)]
        permutation = order.permutation(window)
        found += own if permutation is None else [own[i] for i in permutation]
    assert order.samples == len(found)
    return found


def samples_of(ranges) -> list[int]:
    return [n for start, stop in ranges for n in range(start, stop)]


@given(ranges=ranges_of_samples(), block=st.integers(1, 50))
def test_pieces_are_the_ranges_cut_at_blocks(ranges, block):
    pieces = cut_at_blocks(ranges, block).tolist()
    assert samples_of(pieces) == samples_of(ranges)
    assert all(start // block == (stop - 1) // block for start, stop in pieces)
    # No more cuts than there must be.
    assert all(
        before[1] % block == 0 or before[1] != after[0] or before[1] in dict(ranges)
        for before, after in pairwise(pieces)
    )


@given(ranges=ranges_of_samples(), block=st.integers(1, 50))
def test_without_shuffling_all_samples_come_in_order(ranges, block):
    order = order_of_epoch(ranges, block)
    assert epoch_samples(order) == samples_of(ranges)


@given(
    ranges=ranges_of_samples(),
    block=st.integers(1, 50),
    window=st.integers(1, 500),
    seed=st.integers(0, 2**64),
    epoch=st.integers(0, 5),
)
def test_shuffled_every_sample_comes_once_in_windows_of_whole_pieces(ranges, block, window, seed, epoch):
    order = order_of_epoch(ranges, block, shuffle_window=window, seed=seed, epoch=epoch)
    assert sorted(epoch_samples(order)) == samples_of(ranges)
    pieces = cut_at_blocks(ranges, block).tolist()
    assert sorted(order.pieces.tolist()) == pieces
    sizes = np.diff(order.places)
    for number, size in enumerate(sizes):
        own = np.diff(order.window_pieces(number))
        assert size == own.sum()
        assert size <= window or len(own) == 1
        if number + 1 < len(sizes):
            assert size + np.diff(order.window_pieces(number + 1))[0] > window
    for place in range(order.samples):
        assert order.places[order.window_of(place)] <= place < order.places[order.window_of(place) + 1]
    assert order.window_of(order.samples) == len(sizes)


def test_a_window_depends_on_seed_epoch_and_number_alone():
    def permutations(seed, epoch, ranges):
        order = order_of_epoch(ranges, 10, shuffle_window=40, seed=seed, epoch=epoch)
        return [order.permutation(window).tolist() for window in range(3)]

    few, many = [(0, 130)], [(0, 400)]
    assert permutations(1, 0, few) == permutations(1, 0, many)
    found = [
        tuple(each) for seed in (0, 1, 2**32, 2**32 + 1) for epoch in (0, 1) for each in permutations(seed, epoch, few)
    ]
    assert len(set(found)) == len(found) == 24


def test_one_window_shuffles_everything():
    """Each sample comes at each place about equally often."""
    places = np.zeros((8, 8))
    for epoch in range(2000):
        for place, sample in enumerate(epoch_samples(order_of_epoch([(0, 8)], 2, shuffle_window=8, epoch=epoch))):
            places[sample, place] += 1
    # 250 each; the standard deviation is 15.
    assert np.abs(places - 250).max() < 75


def test_all_orders_are_equally_likely():
    counts: dict[tuple, int] = {}
    for seed in range(2400):
        found = tuple(random_permutation(4, seed, 0).tolist())
        counts[found] = counts.get(found, 0) + 1
    assert len(counts) == 24
    assert max(abs(count - 100) for count in counts.values()) < 50


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_the_swaps_are_those_of_fisher_and_yates(count):
    """Again in Python's integers, so that the order stays the same in later versions."""
    bits = np.random.PCG64(np.random.SeedSequence(5, spawn_key=(2, 1, 7))).random_raw(count).tolist()
    items = list(range(count))
    for i in reversed(range(1, count)):
        j = ((bits[i] >> 32) * (i + 1)) >> 32
        items[i], items[j] = items[j], items[i]
    assert random_permutation(count, 5, 2, 1, 7).tolist() == items


def test_the_order_stays_what_it_was():
    """Checkpoints count on it; written down from the first version."""
    assert random_permutation(10, 1, 0, 1, 0).tolist() == [1, 5, 9, 2, 8, 7, 3, 0, 6, 4]
