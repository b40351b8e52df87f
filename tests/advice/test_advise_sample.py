"""The sample of rows: all of them while there are few, then those with a low hash, each with all its uses."""

import numpy as np
import pytest

from cupyrec.advice.sample import RowSample


def added(sample, batches):
    """Ids of each batch. batches: lists of lookups."""
    found = []
    for batch in batches:
        rows, counts = np.unique(np.array(batch, np.int64), return_counts=True)
        found.append(sample.add(rows, np.concatenate([[0], np.cumsum(counts)])))
    return found


def drawn(steps, rows, *, seed=0, size=200):
    random = np.random.default_rng(seed)
    return [(random.integers(0, rows, size) + 2**40).tolist() for _ in range(steps)]


def kept_rows(sample):
    """The rows of a sample, found by asking it for them."""
    numbers, of_id = sample.numbers(), sample._of_id[: sample.numbers().shape[0], 0]
    return of_id[np.argsort(numbers)][np.sum(numbers < 0) :]


def test_holds_every_row_while_there_are_few():
    batches, sample = drawn(30, 3000), RowSample()
    ids = added(sample, batches)
    rows, lookups = np.unique(np.concatenate(batches), return_counts=True)
    assert (sample.rate, sample.rows) == (1.0, rows.shape[0])
    assert sample.lookups().tolist() == lookups.tolist()
    for batch, found in zip(batches, ids, strict=True):
        assert rows[sample.numbers()[found]].tolist() == sorted(set(batch))


@pytest.mark.parametrize("limits", [{"most_rows": 500}, {"most_uses": 1500, "least_rows": 50}])
def test_is_halved_until_it_is_small_enough(limits):
    batches, sample = drawn(40, 4000), RowSample(**limits)
    ids = added(sample, batches)
    assert sample.rate < 1
    rows = kept_rows(sample)
    assert sample.rows == rows.shape[0] <= limits.get("most_rows", 4000)
    assert rows.tolist() == sorted(rows)
    # About as many as the rate says; four standard deviations of a binomial distribution.
    expected = 4000 * sample.rate
    assert abs(rows.shape[0] - expected) < 4 * expected**0.5
    # Each kept row has all its uses and lookups, no other has any.
    kept = set(rows.tolist())
    lookups = np.concatenate(batches)
    assert sample.lookups().tolist() == [np.count_nonzero(lookups == row) for row in rows]
    numbers = sample.numbers()
    for batch, found in zip(batches, ids, strict=True):
        of_batch = numbers[found]
        assert rows[of_batch[of_batch >= 0]].tolist() == sorted(kept & set(batch))
    if "most_uses" in limits:
        assert sum(len(kept & set(batch)) for batch in batches) <= 1500


def test_many_uses_alone_leave_a_sample_worth_its_name():
    sample = RowSample(most_uses=1000, least_rows=100)
    added(sample, drawn(100, 500))
    assert 100 <= sample.rows < 500
    small = RowSample(most_uses=1000, least_rows=100)
    added(small, drawn(100, 150))
    assert (small.rate, small.rows) == (1.0, 150)
