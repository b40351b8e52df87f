"""Batches in memory as a source."""

import numpy as np
import pytest

from cupyrec.batch import Batch
from cupyrec.datasets.source import BatchList
from cupyrec.errors import DataError

TABLE_ROWS = (4, 6)


def batch(*ids, labels=(1,)):
    return Batch.from_bags(np.zeros((1, 2)), [[[ids[0]]], [list(ids[1:])]], np.array(labels), TABLE_ROWS)


def test_yields_the_batches_as_they_are_and_again():
    batches = [batch(3, 0, 5), batch(0)]
    source = BatchList(batches, list(TABLE_ROWS), 2)
    assert (source.table_rows, source.dense_features) == (TABLE_ROWS, 2)
    for _ in range(2):
        assert all(one is other for one, other in zip(source.batches(8), batches, strict=True))


def test_tells_the_share_that_is_used_up_with_each_batch():
    shares = []
    source = BatchList([batch(0)] * 4, TABLE_ROWS, 2)
    for number, _ in enumerate(source.batches(8, on_progress=shares.append), start=1):
        assert shares[-1] == number / 4
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_may_be_empty_and_may_be_closed_early():
    assert list(BatchList([], TABLE_ROWS, 2).batches(8)) == []
    batches = BatchList([batch(0), batch(1)], TABLE_ROWS, 2).batches(8)
    next(batches)
    batches.close()
    assert list(batches) == []


def test_keeps_its_batches_when_the_list_changes():
    batches = [batch(0)]
    source = BatchList(batches, TABLE_ROWS, 2)
    batches.clear()
    assert len(list(source.batches(8))) == 1


def test_a_batch_that_does_not_fit_is_refused_at_once():
    good = batch(3, 5)
    for table_rows, dense_features, message in (
        ((3, 7), 2, "feature 0"),
        ((4, 5), 2, "feature 1"),
        ((4, 6, 1), 2, "offsets"),
        (TABLE_ROWS, 3, "dense"),
    ):
        with pytest.raises(DataError, match=message):
            BatchList([good], table_rows, dense_features)
