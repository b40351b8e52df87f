"""Dot interaction of DLRM: the inner products of all pairs of feature vectors."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from cupyrec.devices.cuda_kernel import CudaKernel
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import BLOCK_THREADS, GpuStream
from cupyrec.devices.numba_kernel import cpu_dot_kernel, cpu_kernel
from cupyrec.kernels import kernel

# Products added at once: the sum is then loaded and stored an eighth as often.
UNROLL = 8
# Up to here a product is cheaper with one pair a lane (measured: 16 twice as fast so, 128 five times slower).
SHORT_VECTOR = 32
# One AVX-512 register of float32, two of AVX2.
PAIR_LANES = 16
# A GPU makes TILE x TILE products, or TILE vectors of the gradient, at once; LANES threads share a tile of products.
TILE, LANES = 4, 8
# Coefficients of the backward pass in a block's shared memory: 32 of its 48 KiB.
MOST_COEFFICIENTS = 8192


def interaction_width(features: int, dimension: int, *, self_interaction: bool = False) -> int:
    """Columns of R: D for X, then one for each pair of the features + 1 vectors."""
    return dimension + _pairs(features + 1, self_interaction=self_interaction)


def dot_interaction_forward(device: Device, X: Any, Y: Any, R: Any, *, self_interaction: bool = False) -> None:
    """R[s] = concat(X[s], (Z[i] . Z[j] for i in 0 .. F for j in 0 .. i-1)), with Z = (X[s], Y[s, 0], ..., Y[s, F-1]).

    The strict lower triangle is taken, row by row; with self_interaction the diagonal too (j in 0 .. i).
    X: (B, D), Y: (B, F, D), R: (B, interaction_width), of one floating dtype, device; on a GPU float32, and X
    and Y 16-byte aligned where D % 4 == 0. R is overwritten. The order of each sum depends on F and D alone. Raises
    ValueError on shapes.
    Source: Naumov et al. 2019, arXiv 1906.00091; the order of the pairs is that of its reference code.
    """
    _check_shapes(X, Y, R, self_interaction)
    samples, F, D = Y.shape
    if isinstance(device, GpuStream):
        tiles = _pairs(-(-(F + 1) // TILE), self_interaction=True)
        forward = _gpu_kernel("dot_interaction_forward", F, D, self_interaction)
        device.launch(forward, -(-samples * tiles * LANES // BLOCK_THREADS), BLOCK_THREADS, X, Y, R, np.int64(samples))
        return
    floats = samples * (F + 1) ** 2 * D // 2
    device.launch(_forward_kernel(F, D, self_interaction), samples, X, Y, R, floats=floats)


def dot_interaction_backward(
    device: Device, dR: Any, X: Any, Y: Any, dX: Any, dY: Any, *, self_interaction: bool = False
) -> None:
    """dZ[i] = sum over j of S[i, j] Z[j], with S symmetric from the pairs' dR and twice theirs on the diagonal;
    dX = dR[:, :D] + dZ[0], dY[f] = dZ[f + 1].

    Shapes as in the forward pass, and alignment, of dX and dY too. dX and dY are overwritten. Raises ValueError on
    shapes.
    """
    _check_shapes(X, Y, dR, self_interaction)
    if dX.shape != X.shape or dY.shape != Y.shape:
        raise ValueError(f"dX and dY must be {X.shape} and {Y.shape}, but they are {dX.shape} and {dY.shape}")
    samples, F, D = Y.shape
    if isinstance(device, GpuStream):
        rows, block_samples, threads = _backward_block(F, D)
        backward = _gpu_kernel("dot_interaction_backward", F, D, self_interaction)
        grid = -(-samples // block_samples), -(-(F + 1) // rows)
        device.launch(backward, grid, threads, dR, X, Y, dX, dY, np.int64(samples))
        return
    floats = samples * (F + 1) ** 2 * D
    device.launch(_backward_kernel(F, D, self_interaction), samples, dR, X, Y, dX, dY, floats=floats)


def _check_shapes(X: Any, Y: Any, R: Any, self_interaction: bool) -> None:
    if Y.ndim != 3 or X.shape != (Y.shape[0], Y.shape[2]):
        raise ValueError(f"X must be (B, D) and Y (B, F, D), but they are {X.shape} and {Y.shape}")
    expected = Y.shape[0], interaction_width(Y.shape[1], Y.shape[2], self_interaction=self_interaction)
    if R.shape != expected:
        raise ValueError(f"R and its gradient must be {expected}, but are {R.shape}")


def _pairs(vectors: int, *, self_interaction: bool) -> int:
    return vectors * (vectors + (1 if self_interaction else -1)) // 2


def _gpu_kernel(name: str, features: int, dimension: int, self_interaction: bool) -> CudaKernel:
    rows, samples, _ = _backward_block(features, dimension)
    return kernel(
        "dot_interaction",
        name,
        FEATURES=features,
        DIMENSION=dimension,
        SELF_INTERACTION=int(self_interaction),
        ROWS=rows,
        SAMPLES=samples,
    )


def _backward_block(features: int, dimension: int) -> tuple[int, int, int]:
    """What a block of the GPU's backward pass makes: (rows, samples, threads); see dot_interaction.cu."""
    vectors = features + 1
    rows = min(-(-vectors // TILE), MOST_COEFFICIENTS // (TILE * vectors)) * TILE
    if rows == 0:
        raise ValueError(f"a GPU can do at most {MOST_COEFFICIENTS // TILE - 1} features, not {features}")
    threads = rows // TILE * (dimension // 4 if dimension % 4 == 0 else dimension)
    samples = max(1, min(BLOCK_THREADS // threads, MOST_COEFFICIENTS // (vectors * (rows + TILE))))
    # Whole warps.
    return rows, samples, min(-(-samples * threads // 32) * 32, BLOCK_THREADS)


def _forward_kernel(features: int, dimension: int, self_interaction: bool) -> Any:
    make = _forward_short if dimension <= SHORT_VECTOR else _forward_long
    return make(features, dimension, self_interaction)


@cache
def _forward_short(features: int, dimension: int, self_interaction: bool) -> Any:
    """For vectors of a register or two: the lanes are the pairs of one vector, and nothing is added across them."""
    F, D, G = features, dimension, features + 1
    padded, lanes = -(-D // UNROLL) * UNROLL, -(-G // PAIR_LANES) * PAIR_LANES
    diagonal = 1 if self_interaction else 0

    @cpu_kernel
    def forward(start, stop, X, Y, R):
        # Z transposed, padded with zeros.
        Zt = np.zeros((padded, lanes), dtype=X.dtype)
        dots = np.zeros(lanes, dtype=X.dtype)
        for s in range(start, stop):
            for d in range(D):
                Zt[d, 0] = X[s, d]
                R[s, d] = X[s, d]
            for f in range(F):
                for d in range(D):
                    Zt[d, f + 1] = Y[s, f, d]
            at = D
            for i in range(1 - diagonal, G):
                for j in range(lanes):
                    dots[j] = 0
                for d in range(0, padded, UNROLL):
                    z0, z1, z2, z3 = Zt[d, i], Zt[d + 1, i], Zt[d + 2, i], Zt[d + 3, i]
                    z4, z5, z6, z7 = Zt[d + 4, i], Zt[d + 5, i], Zt[d + 6, i], Zt[d + 7, i]
                    for j in range(lanes):
                        low = (z0 * Zt[d, j] + z1 * Zt[d + 1, j]) + (z2 * Zt[d + 2, j] + z3 * Zt[d + 3, j])
                        high = (z4 * Zt[d + 4, j] + z5 * Zt[d + 5, j]) + (z6 * Zt[d + 6, j] + z7 * Zt[d + 7, j])
                        dots[j] += low + high
                for j in range(i + diagonal):
                    R[s, at + j] = dots[j]
                at += i + diagonal

    return forward


@cache
def _forward_long(features: int, dimension: int, self_interaction: bool) -> Any:
    """For longer vectors: the lanes are elements of the two vectors, added across at the end of each product."""
    F, D, G = features, dimension, features + 1
    diagonal = 1 if self_interaction else 0

    @cpu_dot_kernel
    def forward(start, stop, X, Y, R):
        zero = X.dtype.type(0)
        Z = np.zeros((G, D), dtype=X.dtype)
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

    return forward


@cache
def _backward_kernel(features: int, dimension: int, self_interaction: bool) -> Any:
    F, D, G = features, dimension, features + 1
    padded = -(-G // UNROLL) * UNROLL
    diagonal = 1 if self_interaction else 0

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

    return backward
