import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.datasets.dense_transforms import TRANSFORMS, domain, transform_column

INTEGERS = st.one_of(st.integers(-5, 2000), st.integers(-(2**63), 2**63 - 1))
FLOATS = st.one_of(st.floats(), st.integers(-5, 1030).map(float), st.sampled_from([-3.0, -2.9999, 0.5, 1e39, 1e300]))


def expected(name, value):
    """The result of one value, None when there is none; value None is missing."""
    try:
        if name == "none":
            result = np.float64(value or 0)
        elif name == "dlrm":
            result = math.log((0 if value is None or value < 0 else float(value)) + 1)
        elif value is None:
            result = math.log(3) if name == "torchrec" else 0
        else:
            result = math.log(float(value) + 3)
    except ValueError:
        return None
    with np.errstate(over="ignore"):
        result = np.float32(result)
    return result if np.isfinite(result) else None


def check(name, values, dtype):
    missing = np.array([value is None for value in values], np.bool_)
    numbers = np.array([0 if value is None else value for value in values], dtype)
    bad_columns, dense = np.zeros(len(values), np.uint8), np.full((len(values), 2), 7, np.float32)
    count = transform_column(name, numbers, missing, bad_columns, 5, dense[:, 1])
    wanted = [expected(name, value) for value in values]
    assert count == wanted.count(None)
    assert bad_columns.tolist() == [5 if value is None else 0 for value in wanted]
    for value, result in zip(wanted, dense[:, 1], strict=True):
        assert value is None or value.tobytes() == result.tobytes() or value == result == 0
    assert np.all(dense[:, 0] == 7)


@pytest.mark.parametrize("name", TRANSFORMS)
@given(st.lists(st.none() | INTEGERS, max_size=20))
def test_integers_agree_with_the_formula(name, values):
    check(name, values, np.int64)


@pytest.mark.parametrize("name", TRANSFORMS)
@given(st.lists(st.none() | FLOATS, max_size=20))
def test_floats_agree_with_the_formula(name, values):
    check(name, values, np.float64)


def test_the_numbers_of_the_formulas():
    """Written out, so that a test does not only repeat the code."""
    values, missing = np.array([-2, 0, 5, 9]), np.array([False, False, False, True])
    for name, wanted in {
        "dlrm": [0, 0, 1.791759, 0],
        "torchrec": [0, 1.098612, 2.079442, 1.098612],
        "nvidia": [0, 1.098612, 2.079442, 0],
        "none": [-2, 0, 5, 0],
    }.items():
        dense = np.empty(4, np.float32)
        assert transform_column(name, values, missing, np.zeros(4, np.uint8), 1, dense) == 0
        np.testing.assert_allclose(dense, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["torchrec", "nvidia"])
def test_there_is_no_logarithm_from_minus_3_down(name):
    marks, dense = np.array([0, 0, 2, 0], np.uint8), np.empty(4, np.float32)
    values = np.array([-3, -2, -(2**63), -4])
    assert transform_column(name, values, np.zeros(4, np.bool_), marks, 9, dense) == 3
    assert marks.tolist() == [9, 0, 2, 9]
    assert domain(name) == f"greater than -3 for --dense-transform {name} (none takes any)"


def test_no_earlier_bad_column_is_written_over():
    marks = np.array([0, 4, 5, 6], np.uint8)
    assert transform_column("nvidia", np.full(4, -3), np.zeros(4, np.bool_), marks, 5, np.empty(4, np.float32)) == 4
    assert marks.tolist() == [5, 4, 5, 5]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_small_and_large_values_have_the_same_formula(name):
    check(name, [*range(-2, 3000), *(7**power for power in range(22)), 2**63 - 1, None], np.int64)


def test_every_transform_is_described():
    assert list(TRANSFORMS) == ["dlrm", "torchrec", "nvidia", "none"]
    assert all(0 < len(text) < 80 for text in TRANSFORMS.values())
