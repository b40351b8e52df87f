"""Slow, obvious loops in float64: the oracle that every fast version is compared with.

B, F, D, N, U, R as in the rest of the project. Nothing here modifies its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def embedding_bag_forward(weights, rows, offsets, samples, features, *, mean):
    """weights: (R, D); returns Y (B, F, D): the sum or mean of each bag's rows, zeros for an empty one."""
    Y = np.zeros((samples, features, weights.shape[1]))
    for f in range(features):
        for b in range(samples):
            bag = rows[offsets[f * samples + b] : offsets[f * samples + b + 1]]
            for row in bag:
                Y[b, f] += weights[row].astype(np.float64)
            if mean and len(bag):
                Y[b, f] /= len(bag)
    return Y


def embedding_bag_backward(dY, rows, offsets, *, mean):
    """dY: (B, F, D); returns {row: (D,) gradient} for every row that is looked up."""
    samples, features, dimension = dY.shape
    gradients: dict[int, np.ndarray] = {}
    for f in range(features):
        for b in range(samples):
            bag = rows[offsets[f * samples + b] : offsets[f * samples + b + 1]]
            for row in bag:
                gradient = gradients.setdefault(int(row), np.zeros(dimension))
                gradient += dY[b, f].astype(np.float64) / (len(bag) if mean else 1)
    return gradients


def coalesce(rows, offsets):
    """(unique rows ascending, segment offsets, bags: segment after segment, in lookup order), as lists."""
    lookups_of: dict[int, list[int]] = {}
    for bag in range(len(offsets) - 1):
        for at in range(offsets[bag], offsets[bag + 1]):
            lookups_of.setdefault(int(rows[at]), []).append(bag)
    unique_rows, segment_offsets = sorted(lookups_of), [0]
    bags: list[int] = []
    for row in unique_rows:
        bags += lookups_of[row]
        segment_offsets.append(len(bags))
    return unique_rows, segment_offsets, bags


def interaction_pairs(vectors, *, self_interaction):
    """The pairs (i, j) in the order of the output: row by row of the lower triangle."""
    return [(i, j) for i in range(vectors) for j in range(i + 1 if self_interaction else i)]


def dot_interaction_forward(X, Y, *, self_interaction):
    """X: (B, D), Y: (B, F, D); returns R: X, then the product of each pair of the vectors X, Y[:, 0], ..."""
    R = []
    for x, y in zip(X.astype(np.float64), Y.astype(np.float64), strict=True):
        Z = [x, *y]
        pairs = interaction_pairs(len(Z), self_interaction=self_interaction)
        R.append([*x, *(sum(Z[i][d] * Z[j][d] for d in range(len(x))) for i, j in pairs)])
    width = X.shape[1] + len(interaction_pairs(Y.shape[1] + 1, self_interaction=self_interaction))
    return np.array(R, dtype=np.float64).reshape(X.shape[0], width)


def dot_interaction_backward(dR, X, Y, *, self_interaction):
    """Returns (dX, dY): each pair's gradient goes to both its vectors, twice to one that meets itself."""
    dX, dY = np.zeros(X.shape), np.zeros(Y.shape)
    D = X.shape[1]
    for s in range(X.shape[0]):
        Z = np.concatenate([X[s : s + 1], Y[s]]).astype(np.float64)
        dZ = np.zeros(Z.shape)
        dZ[0] = dR[s, :D]
        for pair, (i, j) in enumerate(interaction_pairs(len(Z), self_interaction=self_interaction)):
            dZ[i] += dR[s, D + pair] * Z[j]
            dZ[j] += dR[s, D + pair] * Z[i]
        dX[s], dY[s] = dZ[0], dZ[1:]
    return dX, dY


def linear_forward(X, W):
    """Y = X W^T. X: (B, in), W: (out, in); returns (B, out)."""
    Y = np.zeros((X.shape[0], W.shape[0]))
    for s in range(X.shape[0]):
        for o in range(W.shape[0]):
            Y[s, o] = sum(float(X[s, i]) * float(W[o, i]) for i in range(X.shape[1]))
    return Y


def mlp_forward(X, weights, biases, *, relu_last):
    """The outputs of all layers, the last one's last."""
    outputs = []
    for layer, (W, b) in enumerate(zip(weights, biases, strict=True)):
        X = linear_forward(X, W) + b.astype(np.float64)
        if relu_last or layer < len(weights) - 1:
            X = np.array([[value if value > 0 or math.isnan(value) else 0.0 for value in row] for row in X])
        outputs.append(X)
    return outputs


def mlp_backward(dY, X, outputs, weights, *, relu_last):
    """Returns (dX, weight gradients, bias gradients), the lists in the order of the layers."""
    weight_gradients: list[np.ndarray] = []
    bias_gradients: list[np.ndarray] = []
    for layer in reversed(range(len(weights))):
        if relu_last or layer < len(weights) - 1:
            dY = np.where(outputs[layer] > 0, dY, 0.0)
        below = outputs[layer - 1] if layer else X.astype(np.float64)
        weight_gradients.insert(0, linear_forward(dY.T, below.T))
        bias_gradients.insert(0, sum(dY, np.zeros(dY.shape[1])))
        dY = linear_forward(dY, weights[layer].T)
    return dY, weight_gradients, bias_gradients


def bce_with_logits(logits, labels):
    """Returns (sum of the losses, gradient of their mean), from the definition -y log p - (1 - y) log(1 - p)."""
    loss, gradient = 0.0, []
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        # log p and log(1 - p) = log p of the opposite logit, each without overflow.
        log_p = -math.log1p(math.exp(-z)) if z > -30 else z - math.exp(z)
        log_not_p = -math.log1p(math.exp(z)) if z < 30 else -z - math.exp(-z)
        loss -= y * log_p + (1 - y) * log_not_p
        gradient.append((math.exp(log_p) - y) / len(logits))
    return loss, np.array(gradient)


def sgd(w, g, h, *, learning_rate, eps=0.0):
    """One step for any shape; returns (w, h)."""
    return w - learning_rate * g, h


def adagrad(w, g, h, *, learning_rate, eps):
    """One step for any shape, h of w's shape; returns (w, h)."""
    h = h + g * g
    return w - learning_rate * g / (np.sqrt(h) + eps), h


def rowwise_adagrad(w, g, h, *, learning_rate, eps):
    """One step of one row w (D,), with h (1,) for all of it; returns (w, h)."""
    h = h + sum(value * value for value in g) / len(g)
    return w - learning_rate * g / (math.sqrt(h[0]) + eps), h


ROW_STEPS = {"sgd": sgd, "adagrad": adagrad, "rowwise-adagrad": rowwise_adagrad}
DENSE_STEPS = {"sgd": sgd, "adagrad": adagrad, "rowwise-adagrad": adagrad}


def update_rows(optimizer, records, dimension, state_width, gradients, *, learning_rate, eps):
    """New records (R, width) float64, after one step on the rows in gradients: {row: (D,)}."""
    records = records.astype(np.float64)
    for row, g in gradients.items():
        w, h = records[row, :dimension], records[row, dimension : dimension + state_width]
        w, h = ROW_STEPS[optimizer](w, g, h, learning_rate=learning_rate, eps=eps)
        records[row, :dimension], records[row, dimension : dimension + state_width] = w, h
    return records


def mix64(z: int) -> int:
    """The mixing function of splitmix64 in plain integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def initial_value(seed: int, table: int, row: int, d: int, dimension: int, bound: float) -> float:
    """The weight that a row begins with, rounded once."""
    key = mix64((mix64(seed % 2**64) + table) % 2**64)
    bits = mix64((key + (row * dimension + d + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 40
    return float(Fraction(bound) * (Fraction(2 * bits + 1, 2**24) - 1))


def table_offsets(table_rows: Sequence[int]) -> list[int]:
    """The first global row of each table, and after them the rows of all."""
    return [sum(table_rows[:f]) for f in range(len(table_rows) + 1)]
