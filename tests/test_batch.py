"""The batch: what validation accepts and says; making one from bags; table offsets."""

import dataclasses

import numpy as np
import pytest
from batch_strategies import lookups, random_batch
from hypothesis import given

from cupyrec.batch import Batch, table_offsets
from cupyrec.errors import DataError

TABLE_ROWS = (3, 5)


@pytest.fixture
def batch():
    """B = 2, F = 2, N = 4: bags [1], [0, 2] of table 0 and [], [4] of table 1."""
    return Batch.from_bags(np.zeros((2, 1)), [[[1], [0, 2]], [[], [4]]], np.array([0, 1]), TABLE_ROWS)


def test_from_bags(batch):
    assert (batch.samples, batch.features, batch.lookups) == (2, 2, 4)
    assert batch.rows.tolist() == [1, 0, 2, 7]
    assert batch.offsets.tolist() == [0, 1, 3, 3, 4]
    assert batch.labels.tolist() == [0, 1]
    assert {name: str(getattr(batch, name).dtype) for name in ("dense", "rows", "offsets", "labels")} == {
        "dense": "float32",
        "rows": "int64",
        "offsets": "int64",
        "labels": "float32",
    }


def test_validate_returns_the_batch(batch):
    assert batch.validate(TABLE_ROWS, 1) is batch


def test_without_samples():
    empty = Batch.from_bags(np.zeros((0, 3)), [[], []], np.zeros(0), TABLE_ROWS)
    assert (empty.samples, empty.features, empty.lookups) == (0, 0, 0)
    assert empty.validate(TABLE_ROWS, 3) is empty


@given(drawn=lookups())
def test_what_from_bags_makes_is_valid_and_keeps_every_id(drawn):
    table_rows, batch = drawn
    assert batch.validate(table_rows, 1) is batch
    starts = table_offsets(table_rows)
    for bag in range(batch.features * batch.samples):
        rows = batch.rows[batch.offsets[bag] : batch.offsets[bag + 1]]
        table = bag // batch.samples
        assert ((rows >= starts[table]) & (rows < starts[table + 1])).all()


def test_random_batches_of_the_tests_are_valid():
    random = np.random.default_rng(1)
    for samples in (0, 1, 2, 20):
        assert random_batch(random, (7, 1, 30), samples).validate((7, 1, 30), 3).samples == samples


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dense": np.zeros((2, 2), np.float32)}, "batch.dense must be (2, 1) float32, but is (2, 2) float32"),
        ({"dense": np.zeros((3, 1), np.float32)}, "batch.dense must be (2, 1) float32, but is (3, 1) float32"),
        ({"dense": np.zeros((2, 1))}, "batch.dense must be (2, 1) float32, but is (2, 1) float64"),
        ({"rows": np.zeros(4, np.int32)}, "batch.rows must be (4,) int64, but is (4,) int32"),
        ({"rows": np.zeros((4, 1), np.int64)}, "batch.rows must be (4,) int64, but is (4, 1) int64"),
        ({"offsets": np.zeros(4, np.int64)}, "batch.offsets must be (5,) int64, but is (4,) int64"),
        ({"offsets": np.zeros(5, np.uint64)}, "batch.offsets must be (5,) int64, but is (5,) uint64"),
        ({"labels": np.zeros(2)}, "batch.labels must be (2,) float32, but is (2,) float64"),
        ({"labels": np.zeros((2, 1), np.float32)}, "batch.labels must be (2,) float32, but is (2, 1) float32"),
        ({"offsets": np.array([1, 1, 3, 3, 4])}, "batch.offsets must ascend from 0 to the number of lookups, 4"),
        ({"offsets": np.array([0, 1, 3, 3, 3])}, "batch.offsets must ascend from 0 to the number of lookups, 4"),
        ({"offsets": np.array([0, 3, 1, 3, 4])}, "batch.offsets must ascend from 0 to the number of lookups, 4"),
        (
            {"rows": np.array([1, 0, 3, 7])},
            "sample 1, feature 0: global row 3 is not in the table, which holds the global rows 0 to 2",
        ),
        (
            {"rows": np.array([1, -1, 2, 7])},
            "sample 1, feature 0: global row -1 is not in the table, which holds the global rows 0 to 2",
        ),
        (
            {"rows": np.array([1, 0, 2, 2])},
            "sample 1, feature 1: global row 2 is not in the table, which holds the global rows 3 to 7",
        ),
        (
            {"rows": np.array([1, 0, 2, 8])},
            "sample 1, feature 1: global row 8 is not in the table, which holds the global rows 3 to 7",
        ),
        (
            {"dense": [[0.0], [0.0]]},
            "batch.dense must be a NumPy array of at least one axis, but is list; see Batch.from_bags",
        ),
        (
            {"labels": [0, 1]},
            "batch.labels must be a NumPy array of at least one axis, but is list; see Batch.from_bags",
        ),
        (
            {"labels": np.array(1.0)},
            "batch.labels must be a NumPy array of at least one axis, but is () float64; see Batch.from_bags",
        ),
        ({"rows": None}, "batch.rows must be a NumPy array of at least one axis, but is NoneType; see Batch.from_bags"),
        ({"labels": np.array([0, 2], np.float32)}, "batch.labels must be 0 or 1, but that of sample 1 is 2.0"),
        ({"labels": np.array([-1, 1], np.float32)}, "batch.labels must be 0 or 1, but that of sample 0 is -1.0"),
        ({"labels": np.array([1, 0.5], np.float32)}, "batch.labels must be 0 or 1, but that of sample 1 is 0.5"),
        ({"labels": np.array([np.nan, 1], np.float32)}, "batch.labels must be 0 or 1, but that of sample 0 is nan"),
        (
            {"dense": np.array([[0], [np.nan]], np.float32)},
            "batch.dense must be finite, but column 0 of sample 1 is nan",
        ),
        (
            {"dense": np.array([[-np.inf], [0]], np.float32)},
            "batch.dense must be finite, but column 0 of sample 0 is -inf",
        ),
    ],
)
def test_validate_says_expected_and_actual(batch, changed, message):
    with pytest.raises(DataError) as caught:
        dataclasses.replace(batch, **changed).validate(TABLE_ROWS, 1)
    assert str(caught.value) == message


def test_more_bags_than_a_plan_can_hold_are_refused():
    samples = 2**31 // 8
    one_label = np.broadcast_to(np.float32(0), samples)
    batch = Batch(np.zeros((1, 1)), np.zeros(0, np.int64), np.zeros(1, np.int64), one_label)
    with pytest.raises(DataError) as caught:
        batch.validate((5,) * 8, 1)
    assert str(caught.value) == (
        "a batch holds at most 2147483647 bags, but 268435456 samples of 8 features are 2147483648; "
        "take smaller batches"
    )
    # One feature fewer is not too many: then the arrays are looked at.
    with pytest.raises(DataError, match=r"batch\.dense must be"):
        batch.validate((5,) * 7, 1)


DENSE, BAGS, LABELS = np.zeros((2, 1)), [[[1], [0, 2]], [[], [4]]], [0, 1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bags": [[[1], [0, 2]], [[], [5]]]}, "sample 1, feature 1: id 5 is not in the table, which has 5 rows"),
        ({"bags": [[[-1], [0]], [[], [4]]]}, "sample 0, feature 0: id -1 is not in the table, which has 3 rows"),
        ({"bags": [[[1], [2**63]], [[], [4]]]}, f"sample 1, feature 0: id {2**63} is not in the table"),
        ({"bags": [[[1], [0, 1.7]], [[], [4]]]}, "sample 1, feature 0: an id must be a whole number, but is 1.7"),
        ({"bags": [[[1], ["1"]], [[], [4]]]}, "sample 1, feature 0: an id must be a whole number, but is '1'"),
        ({"bags": [[[1], [0]], [[], [None]]]}, "sample 1, feature 1: an id must be a whole number, but is None"),
        ({"bags": [[[1], [0]], [[np.nan], []]]}, "sample 0, feature 1: an id must be a whole number, but is nan"),
        ({"bags": [[[1], [0]], [3, 4]]}, "sample 0, feature 1: a bag must be a list of ids, but is 3"),
        ({"bags": [1, 2]}, "bags must be a list for each feature, of a list of ids for each sample"),
        ({"bags": None}, "bags must be a list for each feature, of a list of ids for each sample"),
        ({"dense": np.zeros(2)}, "dense must be numbers (B, dense features), but is (2,) float64"),
        ({"dense": [["0"], ["1"]]}, "dense must be numbers (B, dense features), but is (2, 1) <U1"),
        ({"dense": [[0], [0, 1]]}, "dense must be numbers (B, dense features), but its rows differ in length"),
        ({"dense": [[None], [0]]}, "dense must be numbers (B, dense features), but is (2, 1) object"),
        ({"dense": [[1e300], [0]]}, "batch.dense must be finite, but column 0 of sample 0 is inf"),
        ({"dense": np.zeros((3, 1))}, "batch.dense must be (2, 1) float32, but is (3, 1) float32"),
        ({"labels": 1}, "labels must be numbers (B,), but is () int64"),
        ({"labels": ["0", "1"]}, "labels must be numbers (B,), but is (2,) <U1"),
        ({"table_rows": 10}, "table_rows must be the rows of each table, such as (1000, 50), but is 10"),
        ({"table_rows": (3, 5.5)}, "table_rows must be the rows of each table, such as (1000, 50), but is (3, 5.5)"),
    ],
)
def test_from_bags_says_what_is_wrong_and_where(changed, message):
    arguments = {"dense": DENSE, "bags": BAGS, "labels": LABELS, "table_rows": TABLE_ROWS} | changed
    with pytest.raises(DataError) as caught:
        Batch.from_bags(**arguments)
    assert str(caught.value).startswith(message)


def test_from_bags_takes_lists_and_arrays_of_any_whole_and_real_numbers(batch):
    bags = [[np.array([1], np.uint8), np.array([0, 2], np.int32)], [np.zeros(0), (4,)]]
    same = Batch.from_bags([[0], [0]], bags, [False, True], np.array(TABLE_ROWS, np.int32))
    for name in ("dense", "rows", "offsets", "labels"):
        assert getattr(same, name).dtype == getattr(batch, name).dtype
        assert getattr(same, name).tolist() == getattr(batch, name).tolist()


def test_from_bags_refuses_another_number_of_bags():
    with pytest.raises(DataError, match=" must be "):
        Batch.from_bags(np.zeros((2, 1)), [[[0], [0]], [[0]]], np.zeros(2), TABLE_ROWS)


@pytest.mark.parametrize("bags", [[[[0], [0], []], [[0]]], [[[0], [0]]]], ids=["three and one", "one feature"])
def test_from_bags_counts_features_and_the_bags_of_each(bags):
    with pytest.raises(DataError):
        Batch.from_bags(np.zeros((2, 1)), bags, np.zeros(2), TABLE_ROWS)


def test_table_offsets():
    assert table_offsets([3, 1, 2**40]).tolist() == [0, 3, 4, 4 + 2**40]
    assert table_offsets([3, 1]).dtype == table_offsets([]).dtype == np.int64
    assert table_offsets([]).tolist() == [0]
