"""The columns of synthetic Criteo data: how each is distributed, and the draw of their values.

Every row takes DRAWS random numbers, so row i starts at a known place of a counter-based generator and its
content depends on the seed and i alone. The columns are independent of each other.

Distributions: an integer is log-logistic (heavy tail, median and spread as given), rounded down and shifted.
A category is a rank r in 1..values with P(r) proportional to the integral of x**-exponent over [r, r + 1), a
bounded Zipf law that is drawn by inverting its distribution. Shapes, blank shares and numbers of values
follow the Kaggle set loosely; they are this project's own choice, not measurements. Small columns have
exponents about 1, large ones about 1.6: nearer to 1, so many values would occur a few times only that
a learner of a million rows would fall clearly behind the model that made the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cupyrec.devices.kernel_cache import cached_njit
from cupyrec.errors import ConfigError

BLANK_INTEGER = np.iinfo(np.int64).min  # stands for a blank among integers
BLANK_RANK = 0  # stands for a blank among ranks, which count from 1
LARGEST_INTEGER = 25_000_000.0
CALIBRATION_STREAM = 1  # random numbers of the rows that a planted model is calibrated on
FEWEST_CATEGORIES, MOST_CATEGORIES = 1_000, 1_000_000_000
SKEW_RANGE = (-1.0, 2.0)
SMALLEST_POWER = 1e-6  # an exponent of exactly 1 would need formulas of its own; this near to it does not


@dataclass(frozen=True)
class IntegerColumn:
    """blank: share of blanks; median and spread: of the log-logistic law, spread in natural logarithms;
    shift: added to every value, so that a negative one makes negative values."""

    blank: float
    median: float
    spread: float
    shift: int = 0


@dataclass(frozen=True)
class CategoryColumn:
    """values: how many there are; exponent: of the Zipf law; blank: share of blanks."""

    values: int
    exponent: float
    blank: float

    @property
    def power(self) -> float:
        """1 - exponent, never 0: the integral of x**-exponent is proportional to x**power."""
        power = 1.0 - self.exponent
        return power if abs(power) > SMALLEST_POWER else SMALLEST_POWER


INTEGER_COLUMNS = (
    IntegerColumn(blank=0.45, median=1.5, spread=0.7),
    IntegerColumn(blank=0.0, median=5.0, spread=1.1, shift=-2),
    IntegerColumn(blank=0.21, median=6.0, spread=0.8),
    IntegerColumn(blank=0.22, median=4.5, spread=0.6),
    IntegerColumn(blank=0.03, median=2_600.0, spread=1.2),
    IntegerColumn(blank=0.22, median=32.0, spread=1.0),
    IntegerColumn(blank=0.04, median=3.5, spread=0.9),
    IntegerColumn(blank=0.0, median=7.5, spread=0.7),
    IntegerColumn(blank=0.04, median=38.0, spread=0.9),
    IntegerColumn(blank=0.45, median=0.8, spread=0.3),
    IntegerColumn(blank=0.04, median=1.6, spread=0.5),
    IntegerColumn(blank=0.76, median=0.5, spread=0.7),
    IntegerColumn(blank=0.22, median=4.5, spread=0.6),
)

CATEGORY_COLUMNS = (
    CategoryColumn(values=1_500, exponent=1.75, blank=0.0),
    CategoryColumn(values=580, exponent=0.95, blank=0.0),
    CategoryColumn(values=10_000_000, exponent=1.58, blank=0.034),
    CategoryColumn(values=2_200_000, exponent=1.64, blank=0.034),
    CategoryColumn(values=305, exponent=1.35, blank=0.0),
    CategoryColumn(values=24, exponent=1.1, blank=0.12),
    CategoryColumn(values=12_500, exponent=1.5, blank=0.0),
    CategoryColumn(values=630, exponent=1.3, blank=0.0),
    CategoryColumn(values=3, exponent=1.6, blank=0.0),
    CategoryColumn(values=93_000, exponent=1.62, blank=0.0),
    CategoryColumn(values=5_700, exponent=1.52, blank=0.0),
    CategoryColumn(values=8_400_000, exponent=1.57, blank=0.034),
    CategoryColumn(values=3_200, exponent=1.55, blank=0.0),
    CategoryColumn(values=27, exponent=0.9, blank=0.0),
    CategoryColumn(values=15_000, exponent=1.54, blank=0.0),
    CategoryColumn(values=5_500_000, exponent=1.63, blank=0.034),
    CategoryColumn(values=10, exponent=0.8, blank=0.0),
    CategoryColumn(values=5_650, exponent=1.53, blank=0.0),
    CategoryColumn(values=2_200, exponent=1.8, blank=0.44),
    CategoryColumn(values=4, exponent=0.7, blank=0.44),
    CategoryColumn(values=7_000_000, exponent=1.61, blank=0.034),
    CategoryColumn(values=18, exponent=1.4, blank=0.76),
    CategoryColumn(values=15, exponent=0.85, blank=0.0),
    CategoryColumn(values=286_000, exponent=1.65, blank=0.034),
    CategoryColumn(values=105, exponent=0.95, blank=0.44),
    CategoryColumn(values=142_000, exponent=1.68, blank=0.44),
)

DRAWS = 1 + len(INTEGER_COLUMNS) + len(CATEGORY_COLUMNS)  # label, integers, categories: 40 a row
PHILOX_WIDTH = 4  # Philox gives four 64-bit numbers for each value of its counter; DRAWS is a multiple


def category_columns(categories: int, skew: float = 0.0) -> tuple[CategoryColumn, ...]:
    """CATEGORY_COLUMNS with the large ones scaled: (26,).

    categories: how many values the largest column has. Columns of more than FEWEST_CATEGORIES values change
                in proportion, but do not fall below FEWEST_CATEGORIES.
    skew:       added to the exponents of the same columns; -0.6 gives about 1.

    Raises ConfigError for categories outside FEWEST_CATEGORIES..MOST_CATEGORIES, skew outside SKEW_RANGE.
    """
    if not FEWEST_CATEGORIES <= categories <= MOST_CATEGORIES:
        raise ConfigError(f"categories must lie between {FEWEST_CATEGORIES} and {MOST_CATEGORIES}, but is {categories}")
    if not SKEW_RANGE[0] <= skew <= SKEW_RANGE[1]:
        raise ConfigError(f"skew must lie between {SKEW_RANGE[0]} and {SKEW_RANGE[1]}, but is {skew}")
    largest = max(column.values for column in CATEGORY_COLUMNS)
    return tuple(
        replace(
            column,
            values=max(FEWEST_CATEGORIES, column.values * categories // largest),
            exponent=column.exponent + skew,
        )
        if column.values > FEWEST_CATEGORIES
        else column
        for column in CATEGORY_COLUMNS
    )


def draw_uniform(seed: int, first_row: int, rows: int, *, stream: int = 0) -> np.ndarray:
    """The random numbers of rows first_row .. first_row + rows - 1: (rows, DRAWS) float64 in [0, 1).

    Philox-4x64 keyed by seed and stream, its counter set by the row: any division into blocks gives the same.
    """
    key = np.array([seed, stream], dtype=np.uint64)
    generator = np.random.Philox(key=key, counter=first_row * (DRAWS // PHILOX_WIDTH))
    raw = generator.random_raw(rows * DRAWS)
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(rows, DRAWS)


def draw_columns(uniform: np.ndarray, columns: Sequence[CategoryColumn]) -> tuple[np.ndarray, np.ndarray]:
    """Turn random numbers into values: integers (B, 13) int64 and ranks (B, 26) int64.

    uniform: (B, DRAWS) float64 of draw_uniform; column 0 belongs to the label and is left alone.
    columns: (26,) of category_columns.

    A blank is BLANK_INTEGER or BLANK_RANK.
    """
    integer_laws = np.array([(c.blank, c.median, c.spread, c.shift) for c in INTEGER_COLUMNS])
    category_laws = np.array([(c.blank, c.values, c.power) for c in columns])
    integers = np.empty((uniform.shape[0], len(integer_laws)), dtype=np.int64)
    ranks = np.empty((uniform.shape[0], len(category_laws)), dtype=np.int64)
    _draw(uniform, integer_laws, category_laws, integers, ranks)
    return integers, ranks


def rank_probabilities(column: CategoryColumn, ranks: int) -> np.ndarray:
    """Probabilities of a blank and of the first ranks: (1 + min(ranks, column.values),) float64."""
    values, power = column.values, column.power
    cumulative = np.arange(1, min(ranks, values) + 2, dtype=np.float64) ** power
    shares = np.diff(cumulative) / ((values + 1.0) ** power - 1.0)
    return np.concatenate([[column.blank], (1.0 - column.blank) * shares])


@cached_njit()
def _draw(uniform, integer_laws, category_laws, integers, ranks):
    below_one = 1.0 - 2.0**-53
    for column in range(integers.shape[1]):
        blank, median, spread, shift = integer_laws[column]
        for row in range(integers.shape[0]):
            u = uniform[row, 1 + column]
            if u < blank:
                integers[row, column] = BLANK_INTEGER
                continue
            # What remains of a number that is not blank is uniform again.
            u = min((u - blank) / (1.0 - blank), below_one)
            value = min(median * (u / (1.0 - u)) ** spread, LARGEST_INTEGER)
            integers[row, column] = np.int64(value) + np.int64(shift)
    for column in range(ranks.shape[1]):
        blank, values, power = category_laws[column]
        span = (values + 1.0) ** power - 1.0
        for row in range(ranks.shape[0]):
            u = uniform[row, 1 + integers.shape[1] + column]
            if u < blank:
                ranks[row, column] = BLANK_RANK
                continue
            u = (u - blank) / (1.0 - blank)
            rank = np.int64((1.0 + u * span) ** (1.0 / power))
            ranks[row, column] = max(np.int64(1), min(rank, np.int64(values)))
