"""Batches in memory as a source."""

import numpy as np
import pytest

from cupyrec.batch import Batch
from cupyrec.datasets.source import BatchList, check_source, read_batches
from cupyrec.errors import ConfigError, DataError

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


def test_the_batch_that_does_not_fit_is_named():
    for wrong, message in (
        ([batch(0), batch(3, 5)], "batch 1, counted from 0: sample 0, feature 0: global row 3 is not in the table"),
        ([batch(0), None], "batch 1, counted from 0: a batch must be a cupyrec.Batch, but this is a NoneType"),
        (batch(0), "batches must be a list of batches, but is one"),
    ):
        with pytest.raises(DataError, match=message):
            BatchList(wrong, (3, 7), 2)
    with pytest.raises(DataError, match="table_rows must be the rows of each table"):
        BatchList([], 10, 2)


class Own:
    """A source of one's own, whose batches nobody has checked."""

    table_rows, dense_features = TABLE_ROWS, 2

    def __init__(self, *batches):
        self.given = batches

    def batches(self, batch_size, *, on_progress=None):
        for each in self.given:
            if isinstance(each, Exception):
                raise each
            yield each


OF_LISTS = Batch(dense=[[0, 0]], rows=[0], offsets=[0, 1, 1], labels=[1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "batch 2, counted from 0: a batch must be a cupyrec.Batch, but this is a NoneType; see Batch.from_bags"),
        ((1, 2), "batch 2, counted from 0: a batch must be a cupyrec.Batch, but this is a tuple; see Batch.from_bags"),
        (OF_LISTS, "batch 2, counted from 0: batch.dense must be a NumPy array of at least one axis, but is list; see"),
        (DataError("sample 0, feature 1: no"), "batch 2, counted from 0: sample 0, feature 1: no"),
        (DataError("spoilt", path="day_0", line=3), "day_0, line 3: spoilt"),
    ],
)
def test_what_is_wrong_with_a_batch_of_a_source_names_the_batch(wrong, message):
    reading = read_batches(Own(batch(0), batch(1), wrong), 8)
    assert [next(reading).rows.tolist(), next(reading).rows.tolist()] == [[0], [1]]
    with pytest.raises(DataError) as caught:
        next(reading)
    assert str(caught.value).startswith(message)


def test_numbers_of_batches_count_those_that_are_left_out():
    class Seekable(Own):
        seekable = True

        def batches(self, batch_size, *, on_progress=None, epoch, first_batch):
            return iter(self.given[first_batch:])

    for kind in (Own, Seekable):
        reading = read_batches(kind(batch(0), batch(1), batch(2), None), 8, first_batch=2)
        assert next(reading).rows.tolist() == [2]
        with pytest.raises(DataError, match="batch 3, counted from 0: "):
            next(reading)
    with pytest.raises(ConfigError, match="batch 1, counted from 0, has 2 samples, but there is memory for 1"):
        list(read_batches(Own(batch(0), two_samples()), 1))


def two_samples():
    return Batch.from_bags(np.zeros((2, 2)), [[[0], [0]], [[1], [1]]], np.zeros(2), TABLE_ROWS)


def test_a_source_that_gives_no_batches_at_all():
    class Silent(Own):
        def batches(self, batch_size, *, on_progress=None):
            pass

    with pytest.raises(DataError, match=r"Silent\.batches gave a NoneType, no batches: does it yield\?"):
        list(read_batches(Silent(), 8))


class NoProgress(Own):
    def batches(self, batch_size):
        return iter(())


class NoEpoch(Own):
    seekable = True


def with_members(table_rows, dense_features):
    source = Own()
    source.table_rows, source.dense_features = table_rows, dense_features
    return source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("file.tsv", "the data must be a source, such as cupyrec.CriteoFiles.*table_rows, .*batches, but are a str$"),
        ([batch(0)], "but are a list$"),
        (0.1, "but are a float$"),
        (Own, "but are the class Own$"),
        (with_members(1000, 2), r"Own: table_rows must be the rows of each table, such as \(1000, 50\), but is 1000$"),
        (with_members((3, 4), None), "Own: dense_features must be a whole number of at least 1, but is None$"),
        (with_members((3, 4), 0), "Own: dense_features must be a whole number of at least 1, but is 0$"),
        (NoProgress(), r"NoProgress\.batches must take \(batch_size, on_progress=\.\.\.\); it does not: "),
        (NoEpoch(), r"NoEpoch\.batches must take .*epoch=\.\.\., first_batch=\.\.\.\), as it says seekable = True; it"),
    ],
)
def test_what_is_no_source(source, message):
    with pytest.raises(ConfigError, match=message):
        check_source(source)


def test_sources():
    check_source(BatchList([], TABLE_ROWS, 2))
    check_source(Own())
