"""The model that gives synthetic rows their labels, so that the best any learner can reach is known.

    logit = intercept + sum over integer columns j  of  a_j tanh(t_j) + b_j exp(-t_j**2)
                      + sum over category columns c of  effect[c, r_c]
                      + sum over INTERACTING pairs (c, d) of  latent[c, r_c] . latent[d, r_d]

t_j is log(1 + max(x, 0)), standardised; a blank or negative integer counts as 0, as readers of Criteo data
treat it. r_c is the rank of the category, 0 for a blank. Effects and latent vectors come from a hash of seed,
column and rank, and fade with rarity: a value too rare to be learned has next to no effect, so a good learner
comes close to the planted model. Each column's effects have popularity-weighted mean 0, and so have the
latent vectors: an interaction cannot be had from main effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cupyrec.datasets.synthetic_columns import (
    CALIBRATION_STREAM,
    CATEGORY_COLUMNS,
    INTEGER_COLUMNS,
    CategoryColumn,
    category_columns,
    draw_columns,
    draw_uniform,
    rank_probabilities,
)
from cupyrec.devices.kernel_cache import cached_njit
from cupyrec.errors import ConfigError

DEFAULT_CATEGORIES = 10_000_000
BASE_RATE = 0.25
RANKS = 4_096  # values beyond this rank are too rare for an effect
RARE_SHARE = 0.02  # a value of this share of the rows has half its effect
LATENT_DIM = 2
# Standard deviations of the three parts of the logit.
INTEGER_SPREAD, EFFECT_SPREAD, INTERACTION_SPREAD = 0.2, 1.15, 0.75
# Pairs of category columns (0-based) that interact: columns of few values, as each pair must occur often.
INTERACTING = ((4, 5), (5, 8), (8, 16), (16, 22), (22, 4), (4, 8))
CALIBRATION_ROWS = 16_384
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class PlantedModel:
    """seed: 0..LARGEST_SEED; categories and skew: as in category_columns.

    Raises ConfigError for any out of range.
    """

    seed: int
    categories: int = DEFAULT_CATEGORIES
    skew: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ConfigError(f"seed must lie between 0 and {LARGEST_SEED}, but is {self.seed}")
        category_columns(self.categories, self.skew)

    @cached_property
    def columns(self) -> tuple[CategoryColumn, ...]:
        """The category columns: (26,)."""
        return category_columns(self.categories, self.skew)

    @cached_property
    def effects(self) -> np.ndarray:
        """(26, 1 + RANKS) float64: the main effect of a blank and of each rank; 0 beyond a column's values."""
        tables = self._tables(depth=1)[:, :, 0]
        return tables * EFFECT_SPREAD / np.sqrt(len(CATEGORY_COLUMNS))

    @cached_property
    def latent(self) -> np.ndarray:
        """(26, 1 + RANKS, LATENT_DIM) float64: latent vectors; 0 in columns that do not interact."""
        tables = self._tables(depth=1 + LATENT_DIM)[:, :, 1:]
        # A dot product of two unit-variance vectors has variance LATENT_DIM; the pairs add theirs up.
        scale = (INTERACTION_SPREAD / np.sqrt(len(INTERACTING) * LATENT_DIM)) ** 0.5
        interacts = np.isin(np.arange(len(CATEGORY_COLUMNS)), np.array(INTERACTING))
        return tables * scale * interacts[:, None, None]

    @cached_property
    def curves(self) -> np.ndarray:
        """(13, 4) float64: centre and width of log(1 + x), a and b of each integer column."""
        integers, _ = self._calibration_rows
        logs = np.log1p(np.maximum(integers, 0))
        signs = _hashed_uniform(self.seed, np.uint64(1000), np.arange(len(INTEGER_COLUMNS)), 2)
        curves = np.empty((len(INTEGER_COLUMNS), 4))
        curves[:, 0], curves[:, 1] = logs.mean(axis=0), logs.std(axis=0)
        curves[:, 2:] = signs
        # One scale for all, so that together they have the standard deviation INTEGER_SPREAD.
        raw = self._logits(integers, np.zeros((len(integers), len(CATEGORY_COLUMNS)), np.int64), 0.0, curves)
        curves[:, 2:] *= INTEGER_SPREAD / raw.std()
        return curves.round(6)  # so that summation order on another processor makes no difference

    @cached_property
    def intercept(self) -> float:
        """Puts the mean click probability of the calibration rows at BASE_RATE."""
        logits = self._logits(*self._calibration_rows, 0.0, self.curves)
        low, high = -20.0, 20.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            if np.mean(1 / (1 + np.exp(-logits - middle))) < BASE_RATE:
                low = middle
            else:
                high = middle
        return round(low, 6)

    def logits(self, integers: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """The log-odds of a click: (B,) float64.

        integers: (B, 13) int64; ranks: (B, 26) int64, as draw_columns gives them.
        """
        return self._logits(integers, ranks, self.intercept, self.curves)

    @cached_property
    def _calibration_rows(self) -> tuple[np.ndarray, np.ndarray]:
        uniform = draw_uniform(self.seed, 0, CALIBRATION_ROWS, stream=CALIBRATION_STREAM)
        return draw_columns(uniform, self.columns)

    def _logits(self, integers, ranks, intercept, curves):
        out = np.empty(integers.shape[0])
        _score(integers, ranks, intercept, curves, self.effects, self.latent, np.array(INTERACTING), out)
        return out

    def _tables(self, depth: int) -> np.ndarray:
        """Hashed numbers of each column's blank and ranks, faded with rarity, popularity-weighted mean 0 and
        variance 1: (26, 1 + RANKS, depth)."""
        tables = np.zeros((len(CATEGORY_COLUMNS), 1 + RANKS, depth))
        for number, column in enumerate(self.columns):
            share = rank_probabilities(column, RANKS)[:, None]
            fade = share / (share + RARE_SHARE)
            table = fade * _hashed_uniform(self.seed, np.uint64(number), np.arange(len(share)), depth)
            # Subtract in proportion to `fade`, so that rare values stay without effect.
            table -= fade * ((share * table).sum(axis=0) / (share * fade).sum())
            table /= np.sqrt((share * table**2).sum(axis=0))
            tables[number, : len(share)] = table
        return tables


def _hashed_uniform(seed: int, column: np.uint64, ranks: np.ndarray, depth: int) -> np.ndarray:
    """Numbers in [-1, 1) that depend on all arguments but the shape: (ranks, depth) float64."""
    place = ranks.astype(np.uint64)[:, None] * np.uint64(64) + np.arange(depth, dtype=np.uint64)
    key = mix64(mix64(np.array([seed], dtype=np.uint64)) + column)
    return (mix64(mix64(place) ^ key) >> np.uint64(11)) * 2.0**-52 - 1.0


def mix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014) after one step of its sequence; any shape, uint64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@cached_njit()
def _score(integers, ranks, intercept, curves, effects, latent, pairs, out):
    last = effects.shape[1]
    for row in range(out.shape[0]):
        logit = intercept
        for column in range(integers.shape[1]):
            centre, width, a, b = curves[column]
            t = (np.log1p(float(max(integers[row, column], 0))) - centre) / width
            logit += a * np.tanh(t) + b * np.exp(-t * t)
        for column in range(ranks.shape[1]):
            rank = ranks[row, column]
            if rank < last:
                logit += effects[column, rank]
        for pair in range(pairs.shape[0]):
            first, second = pairs[pair]
            i, j = ranks[row, first], ranks[row, second]
            if i < last and j < last:
                for d in range(latent.shape[2]):
                    logit += latent[first, i, d] * latent[second, j, d]
        out[row] = logit
