import numpy as np
import pytest

from cupyrec.datasets.planted_model import (
    BASE_RATE,
    EFFECT_SPREAD,
    INTEGER_SPREAD,
    INTERACTING,
    INTERACTION_SPREAD,
    LARGEST_SEED,
    RANKS,
    PlantedModel,
)
from cupyrec.datasets.synthetic_columns import BLANK_INTEGER, draw_columns, draw_uniform
from cupyrec.errors import ConfigError

ROWS = 20_000


@pytest.fixture(scope="module")
def model():
    return PlantedModel(7, 10_000)


@pytest.fixture(scope="module")
def drawn(model):
    return draw_columns(draw_uniform(model.seed, 0, ROWS), model.columns)


def reference_logit(model, integers, ranks):
    """The formula of the module, for one row, with slow and obvious loops."""
    logit = model.intercept
    for x, (centre, width, a, b) in zip(integers, model.curves, strict=True):
        t = (np.log(1 + max(int(x), 0)) - centre) / width
        logit += a * np.tanh(t) + b * np.exp(-(t**2))
    for column, rank in enumerate(ranks):
        if rank <= RANKS:
            logit += model.effects[column, rank]
    for first, second in INTERACTING:
        if max(ranks[first], ranks[second]) <= RANKS:
            logit += model.latent[first, ranks[first]] @ model.latent[second, ranks[second]]
    return logit


def test_logits_follow_the_formula(model, drawn):
    integers, ranks = drawn[0][:200].copy(), drawn[1][:200].copy()
    ranks[::3] += RANKS - 2  # at and beyond the last rank that has an effect
    expected = [reference_logit(model, *row) for row in zip(integers, ranks, strict=True)]
    np.testing.assert_allclose(model.logits(integers, ranks), expected, rtol=1e-12)


def test_the_mean_probability_is_the_base_rate(model, drawn):
    probabilities = 1 / (1 + np.exp(-model.logits(*drawn)))
    assert probabilities.mean() == pytest.approx(BASE_RATE, abs=0.008)


def test_the_spread_of_the_logit_is_as_planned(model, drawn):
    planned = np.sqrt(INTEGER_SPREAD**2 + EFFECT_SPREAD**2 + INTERACTION_SPREAD**2)
    assert model.logits(*drawn).std() == pytest.approx(planned, rel=0.15)


def test_effects_have_popularity_weighted_mean_zero_and_fade_with_rarity(model, drawn):
    _, ranks = drawn
    for column in (2, 4, 24):
        effects = model.effects[column, np.minimum(ranks[:, column], RANKS)]
        assert abs(effects.mean()) < 5 * effects.std() / np.sqrt(ROWS)
    head, tail = np.abs(model.effects[2, 1:10]).max(), np.abs(model.effects[2, 1_000:]).max()
    assert tail < head / 50


def test_changing_one_column_alters_the_effect_of_another(model, drawn):
    """An interaction: the mixed second difference is not zero. Columns that are no pair have none."""
    integers, ranks = drawn[0][:1], drawn[1][:1]

    def mixed_difference(first, second):
        logits = {}
        for i in (1, 2):
            for j in (1, 2):
                changed = ranks.copy()
                changed[0, first], changed[0, second] = i, j
                logits[i, j] = model.logits(integers, changed)[0]
        return logits[2, 2] - logits[2, 1] - logits[1, 2] + logits[1, 1]

    for first, second in INTERACTING:
        assert abs(mixed_difference(first, second)) > 1e-3
    for first, second in ((0, 1), (4, 0), (5, 22)):
        assert mixed_difference(first, second) == pytest.approx(0, abs=1e-12)


def test_blank_and_negative_integers_count_as_zero(model, drawn):
    integers, ranks = drawn[0][:3].copy(), drawn[1][[0, 0, 0]]
    integers[:] = integers[0]
    integers[:, 1] = (BLANK_INTEGER, -2, 0)
    logits = model.logits(integers, ranks)
    assert logits[0] == logits[1] == logits[2]
    integers[2, 1] = 5
    assert model.logits(integers, ranks)[2] != logits[2]


def test_the_seed_makes_the_model(drawn):
    first, second, other = (PlantedModel(seed, 10_000).logits(*drawn) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, second)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.5


@pytest.mark.parametrize("seed", [-1, LARGEST_SEED + 1])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ConfigError, match="seed must lie between 0 and"):
        PlantedModel(seed)


def test_categories_out_of_range_are_refused_when_the_model_is_made():
    with pytest.raises(ConfigError, match="categories"):
        PlantedModel(1, 5)


def test_the_largest_seed_works(drawn):
    assert np.isfinite(PlantedModel(LARGEST_SEED, 10_000).logits(*drawn)).all()
