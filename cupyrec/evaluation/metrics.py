"""How good predictions of a binary label are, over any number of samples, in bounded memory."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from cupyrec.errors import DivergenceError
from cupyrec.evaluation.exact_auc import ExactAuc

# Samples worked on at once: float64 intermediates of 0.5 MB each stay in the cache.
SLICE_ROWS = 2**16


@dataclass(frozen=True)
class MetricsResult:
    """Metrics of `samples` predictions. Whatever is undefined is None: all ratios when there are no samples,
    and what needs both classes when there is only one.

    samples, positives: counts.
    base_rate:          positives / samples.
    auc:                area under the ROC curve, exact, a tie counting half. None with one class.
    log_loss:           mean of -log(probability given to the true label), in nats.
    accuracy:           share of samples on the right side of probability 0.5. Exactly 0.5, a logit of 0,
                        counts as a negative prediction: it is scikit-learn's
                        accuracy_score(labels, probabilities > 0.5).
    normalized_entropy: log_loss / constant_log_loss: below 1 is better than a constant. None with one class.
                        Source: He et al., "Practical lessons from predicting clicks on ads" (2014).
    calibration:        mean probability predicted / base_rate: 1 is right on average. None without positives.
    constant_log_loss:  entropy of the base rate, in nats: what predicting the base rate each time scores.
    """

    samples: int
    positives: int
    base_rate: float | None
    auc: float | None
    log_loss: float | None
    accuracy: float | None
    normalized_entropy: float | None
    calibration: float | None
    constant_log_loss: float | None

    def as_dict(self) -> dict[str, int | float | None]:
        """All fields by name, ready for JSON: undefined is None, never NaN."""
        return dataclasses.asdict(self)


class BinaryMetrics:
    """Takes logits and labels batch by batch; `result` may be asked for at any time, and more may follow.

    max_buffer_rows: as in ExactAuc. Memory held is 4 * max_buffer_rows bytes (67 MB by default), whatever the number of
    samples; what goes beyond is in a temporary file, 4 bytes a sample.

    The AUC is the same for any order of updates. Sums are float64. Close it, or use it in a `with` statement,
    to delete the temporary file at once; it is deleted with the object in any case.
    """

    def __init__(self, max_buffer_rows: int = 2**24):
        self._auc = ExactAuc(max_buffer_rows)
        self._samples = self._positives = self._correct = 0
        self._loss_sum = self._probability_sum = 0.0

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add B samples. logits: (B,) float32; labels: (B,) float32, 0 or 1. Neither is modified.

        Raises DivergenceError when a logit is NaN or infinite, ValueError on shapes and labels, TypeError on
        dtypes; nothing is added then. Raises OutputError when the temporary file cannot be written.
        """
        _check(logits, labels)
        for start in range(0, logits.shape[0], SLICE_ROWS):
            self._add(logits[start : start + SLICE_ROWS], labels[start : start + SLICE_ROWS] == 1)

    def result(self) -> MetricsResult:
        """The metrics of all samples so far. Sorts what is in memory and counts it against what is not."""
        samples, positives = self._samples, self._positives
        if not samples:
            return MetricsResult(0, 0, None, None, None, None, None, None, None)
        base_rate = positives / samples
        log_loss = self._loss_sum / samples
        constant_log_loss = _entropy(positives, samples)
        return MetricsResult(
            samples=samples,
            positives=positives,
            base_rate=base_rate,
            auc=self._auc.value(),
            log_loss=log_loss,
            accuracy=self._correct / samples,
            normalized_entropy=log_loss / constant_log_loss if constant_log_loss else None,
            calibration=self._probability_sum / positives if positives else None,
            constant_log_loss=constant_log_loss,
        )

    def close(self) -> None:
        """Delete the temporary file, if there is one. No update and no result afterwards."""
        self._auc.close()

    def __enter__(self) -> BinaryMetrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, logits: np.ndarray, positive: np.ndarray) -> None:
        """logits: (n,) float32, finite; positive: (n,) bool."""
        self._auc.add(logits, positive)
        x = logits.astype(np.float64)
        # With e = exp(-|x|) nothing overflows: softplus(x) = max(x, 0) + log(1 + e), and sigmoid(x) is
        # 1 / (1 + e) for x >= 0, e / (1 + e) for x < 0. The loss is softplus(x), less x where the label is 1;
        # x is taken off before the logarithm is added, which would be lost beside it.
        e = np.exp(-np.abs(x))
        self._loss_sum += float(np.sum((np.maximum(x, 0.0) - np.where(positive, x, 0.0)) + np.log1p(e)))
        self._probability_sum += float(np.sum(np.where(x >= 0.0, 1.0, e) / (1.0 + e)))
        self._correct += int(np.count_nonzero((x > 0.0) == positive))
        self._positives += int(np.count_nonzero(positive))
        self._samples += logits.shape[0]


def _check(logits: np.ndarray, labels: np.ndarray) -> None:
    if logits.ndim != 1 or logits.shape != labels.shape:
        raise ValueError(f"logits and labels must both be (B,), but are {logits.shape} and {labels.shape}")
    for name, array in (("logits", logits), ("labels", labels)):
        if array.dtype != np.float32:
            raise TypeError(f"{name} must be float32, but are {array.dtype}")
    unusable = logits.shape[0] - int(np.count_nonzero(np.isfinite(logits)))
    if unusable:
        raise DivergenceError(
            f"{unusable} of {logits.shape[0]} predictions are NaN or infinite: "
            f"the model has diverged; train it with a lower learning rate"
        )
    if not np.all((labels == 0) | (labels == 1)):
        raise ValueError("labels must be 0 or 1, but some are not")


def _entropy(positives: int, samples: int) -> float:
    """Entropy of a label that is 1 in `positives` of `samples` cases, in nats; 0.0 with one class."""
    shares = (positives / samples, (samples - positives) / samples)
    return -sum(share * math.log(share) for share in shares if 0.0 < share < 1.0) or 0.0
