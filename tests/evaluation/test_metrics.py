"""BinaryMetrics against scikit-learn, and its edges."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from cupyrec.errors import DivergenceError
from cupyrec.evaluation.metrics import BinaryMetrics, MetricsResult


def sigmoid(logits):
    return 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))


def samples(rows, *, seed=0, positive_share=0.25, scale=1.5, step=None):
    """Logits (rows,) and labels (rows,), float32, with both classes. step: round logits to its multiples."""
    rng = np.random.default_rng(seed)
    logits = np.clip(rng.standard_normal(rows) * scale, -6, 6)
    labels = rng.random(rows) < positive_share * (1 + np.tanh(logits))
    labels[:2] = True, False
    if step is not None:
        logits = np.round(logits / step) * step
    return logits.astype(np.float32), labels.astype(np.float32)


def metrics_of(logits, labels, *, batch=1000, max_buffer_rows=2**16):
    with BinaryMetrics(max_buffer_rows) as metrics:
        for start in range(0, logits.size, batch):
            metrics.update(logits[start : start + batch], labels[start : start + batch])
        return metrics.result()


def assert_equal_to_scikit_learn(result, logits, labels):
    probabilities = sigmoid(logits)
    base_rate = labels.mean(dtype=np.float64)
    constant = log_loss(labels, np.full(labels.size, base_rate))
    assert result.samples == labels.size
    assert result.positives == np.count_nonzero(labels)
    expected = {
        "base_rate": base_rate,
        "auc": roc_auc_score(labels, probabilities),
        "log_loss": log_loss(labels, probabilities),
        "accuracy": accuracy_score(labels, probabilities > 0.5),
        "normalized_entropy": log_loss(labels, probabilities) / constant,
        "calibration": probabilities.mean() / base_rate,
        "constant_log_loss": constant,
    }
    for name, value in expected.items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("step", [None, 0.5, 4.0])
@pytest.mark.parametrize("max_buffer_rows", [501, 2**16])
def test_equal_to_scikit_learn(step, max_buffer_rows):
    logits, labels = samples(6000, step=step)
    result = metrics_of(logits, labels, max_buffer_rows=max_buffer_rows)
    assert_equal_to_scikit_learn(result, logits, labels)


@given(
    rows=st.integers(2, 60),
    seed=st.integers(0, 10_000),
    share=st.sampled_from([0.01, 0.2, 0.5]),
    step=st.sampled_from([2**-10, 0.25, 2.0, 100.0]),
    batch=st.integers(1, 60),
    max_buffer_rows=st.integers(1, 70),
)
@settings(max_examples=80, deadline=None)
def test_equal_to_scikit_learn_for_any_cut(rows, seed, share, step, batch, max_buffer_rows):
    logits, labels = samples(rows, seed=seed, positive_share=share, step=step)
    result = metrics_of(logits, labels, batch=batch, max_buffer_rows=max_buffer_rows)
    assert_equal_to_scikit_learn(result, logits, labels)


def test_a_batch_larger_than_one_slice_counts_every_sample():
    logits, labels = samples(150_000)
    assert_equal_to_scikit_learn(metrics_of(logits, labels, batch=150_000), logits, labels)


def test_any_order_gives_the_same_auc_and_counts():
    logits, labels = samples(4000, step=0.125)
    order = np.random.default_rng(9).permutation(4000)
    one = metrics_of(logits, labels, batch=4000)
    other = metrics_of(logits[order], labels[order], batch=77, max_buffer_rows=300)
    assert (one.auc, one.positives, one.accuracy) == (other.auc, other.positives, other.accuracy)
    assert one.log_loss == pytest.approx(other.log_loss, rel=1e-13)


def test_result_may_be_asked_between_updates():
    logits, labels = samples(3000)
    metrics = BinaryMetrics(max_buffer_rows=700)
    for stop in (1000, 2000, 3000):
        metrics.update(logits[stop - 1000 : stop], labels[stop - 1000 : stop])
        assert_equal_to_scikit_learn(metrics.result(), logits[:stop], labels[:stop])
        assert metrics.result() == metrics.result()


def test_a_logit_of_zero_predicts_a_negative():
    logits = np.array([0.0, -0.0, 0.0], np.float32)
    assert metrics_of(logits, np.array([1, 0, 0], np.float32)).accuracy == 2 / 3
    assert metrics_of(np.array([1e-7], np.float32), np.ones(1, np.float32)).accuracy == 1.0


@pytest.mark.parametrize(
    ("logit", "label", "loss"),
    [
        (100.0, 0.0, 100.0),
        (-100.0, 1.0, 100.0),
        (3.0e38, 0.0, float(np.float32(3.0e38))),
        (30.0, 1.0, math.log1p(math.exp(-30.0))),  # small and yet not lost beside the logit
        (-30.0, 0.0, math.log1p(math.exp(-30.0))),
        (3.0e38, 1.0, 0.0),
    ],
)
def test_extreme_logits_keep_their_loss(logit, label, loss):
    result = metrics_of(np.array([logit], np.float32), np.array([label], np.float32))
    assert result.log_loss == pytest.approx(loss, rel=1e-14, abs=0)


def test_no_samples_leave_everything_undefined():
    nothing = np.empty(0, np.float32)
    result = metrics_of(nothing, nothing, batch=1)
    metrics = BinaryMetrics(max_buffer_rows=8)
    metrics.update(nothing, nothing)
    expected = MetricsResult(0, 0, None, None, None, None, None, None, None)
    assert result == metrics.result() == expected


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_leaves_undefined_only_what_needs_two(label):
    logits = np.array([-1.0, 2.0, 0.5], np.float32)
    labels = np.full(3, label, np.float32)
    result = metrics_of(logits, labels)
    assert result.auc is None
    assert result.normalized_entropy is None
    assert result.base_rate == label
    assert result.constant_log_loss == 0.0
    assert result.accuracy == pytest.approx(2 / 3 if label else 1 / 3)
    assert result.log_loss == pytest.approx(log_loss(labels, sigmoid(logits), labels=[0, 1]), rel=1e-12)
    expected = pytest.approx(sigmoid(logits).mean(), rel=1e-12) if label else None
    assert result.calibration == expected


def test_as_dict_has_every_field_and_survives_json():
    result = metrics_of(np.array([1.0], np.float32), np.array([1.0], np.float32))
    values = result.as_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert list(values) == [field.name for field in dataclasses.fields(MetricsResult)]
    assert values["auc"] is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_prediction_that_is_no_number_is_divergence_and_adds_nothing(bad):
    logits, labels = samples(10)
    metrics = BinaryMetrics(max_buffer_rows=100)
    metrics.update(logits, labels)
    before = metrics.result()
    logits[[3, 7]] = bad
    with pytest.raises(DivergenceError, match="2 of 10 predictions are NaN or infinite"):
        metrics.update(logits, labels)
    assert metrics.result() == before


def test_wrong_inputs_are_refused():
    metrics = BinaryMetrics(max_buffer_rows=8)
    three = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"\(B,\), but are \(3,\) and \(2,\)"):
        metrics.update(three, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"\(B,\), but are \(3, 1\) and \(3, 1\)"):
        metrics.update(three[:, None], three[:, None])
    with pytest.raises(TypeError, match="logits must be float32, but are float64"):
        metrics.update(three.astype(np.float64), three)
    with pytest.raises(TypeError, match="labels must be float32, but are int64"):
        metrics.update(three, three.astype(np.int64))
    for label in (0.5, -1, np.nan):
        with pytest.raises(ValueError, match="labels must be 0 or 1"):
            metrics.update(three, np.array([0, 1, label], np.float32))
    assert metrics.result().samples == 0
