import numpy as np
import pytest

from cupyrec.datasets.synthetic_columns import (
    BLANK_INTEGER,
    BLANK_RANK,
    CATEGORY_COLUMNS,
    DRAWS,
    FEWEST_CATEGORIES,
    INTEGER_COLUMNS,
    MOST_CATEGORIES,
    PHILOX_WIDTH,
    SKEW_RANGE,
    CategoryColumn,
    category_columns,
    draw_columns,
    draw_uniform,
    rank_probabilities,
)
from cupyrec.errors import ConfigError

ROWS = 40_000


@pytest.fixture(scope="module")
def drawn():
    return draw_columns(draw_uniform(3, 0, ROWS), category_columns(100_000))


def test_the_random_numbers_of_a_row_do_not_depend_on_where_the_draw_begins():
    assert DRAWS % PHILOX_WIDTH == 0
    whole = draw_uniform(5, 0, 100)
    np.testing.assert_array_equal(draw_uniform(5, 37, 20), whole[37:57])
    assert whole.min() >= 0
    assert whole.max() < 1


def test_seed_and_stream_change_the_random_numbers():
    numbers = [draw_uniform(1, 0, 10), draw_uniform(2, 0, 10), draw_uniform(1, 0, 10, stream=1)]
    assert len(np.unique(np.stack(numbers))) == 3 * 10 * DRAWS


def test_each_column_has_its_share_of_blanks(drawn):
    integers, ranks = drawn
    for values, blank, columns in (
        (integers, BLANK_INTEGER, INTEGER_COLUMNS),
        (ranks, BLANK_RANK, CATEGORY_COLUMNS),
    ):
        shares = (values == blank).mean(axis=0)
        np.testing.assert_allclose(shares, [column.blank for column in columns], atol=0.012)
        assert [share > 0 for share in shares] == [column.blank > 0 for column in columns]


def test_only_the_second_integer_column_is_negative_and_all_have_their_median(drawn):
    integers, _ = drawn
    for number, column in enumerate(INTEGER_COLUMNS):
        values = integers[:, number][integers[:, number] != BLANK_INTEGER]
        assert values.min() == column.shift or column.median > 100
        exact = column.median + column.shift
        assert abs(np.median(values) - exact) <= max(1, 0.05 * exact)
    assert 0.15 < (integers[:, 1] < 0).mean() < 0.35


def test_integers_have_heavy_tails(drawn):
    values = drawn[0][:, 4]
    values = values[values != BLANK_INTEGER]
    assert np.quantile(values, 0.999) > 500 * np.median(values)


@pytest.mark.parametrize("number", [2, 9, 12, 25])
@pytest.mark.parametrize("skew", [-0.6, 0.0])
def test_popularity_falls_as_a_power_of_the_rank(number, skew):
    columns = category_columns(100_000, skew)
    _, ranks = draw_columns(draw_uniform(3, 0, ROWS), columns)
    counts = np.bincount(ranks[:, number])[1:]
    head = np.arange(3, 31)  # the first ranks of the integral law are below the straight line
    slope = np.polyfit(np.log(head), np.log(counts[head - 1] + 0.5), 1)[0]
    assert abs(slope + columns[number].exponent) < 0.15


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.3])
def test_ranks_occur_with_their_probabilities_and_reach_the_last(exponent):
    column = CategoryColumn(values=5, exponent=exponent, blank=0.2)
    _, ranks = draw_columns(draw_uniform(3, 0, ROWS), [column] * len(CATEGORY_COLUMNS))
    expected = rank_probabilities(column, 10)
    assert expected.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.bincount(ranks[:, 0]) / ROWS, expected, atol=0.01)


def test_large_columns_scale_and_small_ones_stay():
    small = category_columns(20_000)
    for ours, original in zip(small, CATEGORY_COLUMNS, strict=True):
        if original.values <= FEWEST_CATEGORIES:
            assert ours == original
        else:
            assert ours.values == max(FEWEST_CATEGORIES, original.values // 500)
    assert max(column.values for column in small) == 20_000
    assert category_columns(10_000_000) == CATEGORY_COLUMNS


def test_skew_moves_the_exponents_of_large_columns_only():
    for ours, original in zip(category_columns(10_000_000, -0.6), CATEGORY_COLUMNS, strict=True):
        change = -0.6 if original.values > FEWEST_CATEGORIES else 0.0
        assert ours.exponent == pytest.approx(original.exponent + change)


@pytest.mark.parametrize("categories", [FEWEST_CATEGORIES - 1, MOST_CATEGORIES + 1, -1])
def test_categories_out_of_range_are_refused(categories):
    with pytest.raises(ConfigError, match=f"categories must lie between .* but is {categories}"):
        category_columns(categories)


@pytest.mark.parametrize("skew", [SKEW_RANGE[0] - 0.1, SKEW_RANGE[1] + 0.1, float("nan")])
def test_skew_out_of_range_is_refused(skew):
    with pytest.raises(ConfigError, match="skew must lie between"):
        category_columns(FEWEST_CATEGORIES, skew)
