"""Dot interaction of DLRM: the inner products of all pairs of feature vectors."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.numba_kernel import cpu_dot_kernel, cpu_kernel

# The backward pass adds this many vectors at once: the sum is then loaded and stored an eighth as often.
UNROLL = 8


def interaction_width(features: int, dimension: int, *, self_interaction: bool = False) -> int:
    """Columns of R: D for X, then one for each pair of the features + 1 vectors."""
    vectors = features + 1
    return dimension + vectors * (vectors + (1 if self_interaction else -1)) // 2


def dot_interaction_forward(device: CpuDevice, X: Any, Y: Any, R: Any, *, self_interaction: bool = False) -> None:
    """R[s] = concat(X[s], (Z[i] . Z[j] for i in 0 .. F for j in 0 .. i-1)), with Z = (X[s], Y[s, 0], ..., Y[s, F-1]).

    The strict lower triangle is taken, row by row; with self_interaction the diagonal too (j in 0 .. i).
    X: (B, D), Y: (B, F, D), R: (B, interaction_width), of one floating dtype, device. R is overwritten.
    Source: Naumov et al. 2019, arXiv 1906.00091; the order of the pairs is that of its reference code.
    """
    kernel = _kernels(Y.shape[1], Y.shape[2], self_interaction)[0]
    device.launch(kernel, X.shape[0], X, Y, R)


def dot_interaction_backward(
    device: CpuDevice, dR: Any, X: Any, Y: Any, dX: Any, dY: Any, *, self_interaction: bool = False
) -> None:
    """dZ[i] = sum over j of S[i, j] Z[j], with S symmetric from the pairs' dR and twice theirs on the diagonal;
    dX = dR[:, :D] + dZ[0], dY[f] = dZ[f + 1].

    Shapes as in the forward pass. dX and dY are overwritten.
    """
    kernel = _kernels(Y.shape[1], Y.shape[2], self_interaction)[1]
    device.launch(kernel, X.shape[0], dR, X, Y, dX, dY)


@cache
def _kernels(features: int, dimension: int, self_interaction: bool) -> tuple[Any, Any]:
    """Both kernels with F and D known to the compiler."""
    F, D, G = features, dimension, features + 1
    padded = -(-G // UNROLL) * UNROLL
    diagonal = 1 if self_interaction else 0

    @cpu_dot_kernel
    def forward(start, stop, X, Y, R):
        zero = X.dtype.type(0)
        Z = np.zeros((padded, D), dtype=X.dtype)
        for s in range(start, stop):
            for d in range(D):
                Z[0, d] = X[s, d]
                R[s, d] = X[s, d]
            for f in range(F):
                for d in range(D):
                    Z[f + 1, d] = Y[s, f, d]
            at = D
            for i in range(1 - diagonal, G):
                pairs = i + diagonal
                # Four at once share the loads of Z[i] and hide the latency of the sums.
                for j in range(0, pairs - 3, 4):
                    dot0, dot1, dot2, dot3 = zero, zero, zero, zero
                    for d in range(D):
                        z = Z[i, d]
                        dot0 += z * Z[j, d]
                        dot1 += z * Z[j + 1, d]
                        dot2 += z * Z[j + 2, d]
                        dot3 += z * Z[j + 3, d]
                    R[s, at + j] = dot0
                    R[s, at + j + 1] = dot1
                    R[s, at + j + 2] = dot2
                    R[s, at + j + 3] = dot3
                for j in range(pairs // 4 * 4, pairs):
                    dot0 = zero
                    for d in range(D):
                        dot0 += Z[i, d] * Z[j, d]
                    R[s, at + j] = dot0
                at += pairs

    @cpu_kernel
    def backward(start, stop, dR, X, Y, dX, dY):
        # Padded with zeros to whole groups of UNROLL vectors.
        S = np.zeros((G, padded), dtype=X.dtype)
        Z = np.zeros((padded, D), dtype=X.dtype)
        dz = np.zeros(D, dtype=X.dtype)
        for s in range(start, stop):
            for d in range(D):
                Z[0, d] = X[s, d]
            for f in range(F):
                for d in range(D):
                    Z[f + 1, d] = Y[s, f, d]
            at = D
            for i in range(1 - diagonal, G):
                for j in range(i):
                    c = dR[s, at + j]
                    S[i, j] = c
                    S[j, i] = c
                if diagonal:
                    S[i, i] = dR[s, at + i] + dR[s, at + i]
                at += i + diagonal
            for i in range(G):
                for d in range(D):
                    dz[d] = 0
                for j in range(0, padded, UNROLL):
                    c0, c1, c2, c3 = S[i, j], S[i, j + 1], S[i, j + 2], S[i, j + 3]
                    c4, c5, c6, c7 = S[i, j + 4], S[i, j + 5], S[i, j + 6], S[i, j + 7]
                    for d in range(D):
                        low = (c0 * Z[j, d] + c1 * Z[j + 1, d]) + (c2 * Z[j + 2, d] + c3 * Z[j + 3, d])
                        high = (c4 * Z[j + 4, d] + c5 * Z[j + 5, d]) + (c6 * Z[j + 6, d] + c7 * Z[j + 7, d])
                        dz[d] += low + high
                if i == 0:
                    for d in range(D):
                        dX[s, d] = dR[s, d] + dz[d]
                else:
                    for d in range(D):
                        dY[s, i - 1, d] = dz[d]

    return forward, backward
