"""Embedding bags: the rows of each bag pooled into one vector, for all tables in one launch."""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from typing import Any

import numpy as np

from cupyrec.batch import Batch, CoalescePlan
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.numba_kernel import CACHE_LINE_BYTES, PREFETCH_ROWS, cpu_kernel, prefetch


def embedding_bag_forward(device: CpuDevice, records: Any, places: Any, offsets: Any, Y: Any, *, mean: bool) -> None:
    """Y[b, f] = sum over the lookups l of bag (f, b), in order, of records[places[l], :D]; divided by their number
    where mean. An empty bag gives zeros.

    records: (places, record width) of one floating dtype, device; the first D columns are weights.
    places:  (N,) int32 or int64, device: the row of each lookup, or the slot of that row where records is a scratchpad.
    offsets: (F*B + 1,) int64, device: the batch's bags.
    Y: (B, F, D) of the same dtype as records, device; overwritten.
    """
    B, _, D = Y.shape
    kernel = _forward_kernel(D, records.dtype.itemsize, mean)
    # Parts are samples, as in all that follows: what a thread pools, it also uses.
    device.launch(kernel, B, records, places, offsets, Y)


def embedding_bag_backward(
    device: CpuDevice, dY: Any, batch: Batch, plan: CoalescePlan, dW: Any, *, mean: bool
) -> None:
    """dW[u] = sum over the lookups l of unique row u, in lookup order, of dY[bag(l)]; each divided by the length of
    its bag where mean.

    dY: (B, F, D), device; dW: (U, D) of the same dtype, device; overwritten. The optimizers do this and their
    step in one pass; here for models that need the gradient itself.
    """
    kernel = _backward_kernel(dY.shape[2], mean)
    device.launch(
        kernel,
        plan.unique,
        dY,
        batch.offsets,
        plan.segment_offsets,
        plan.segment_bags,
        dW,
        bounds=balanced_bounds(device, plan),
    )


def balanced_bounds(device: CpuDevice, plan: CoalescePlan) -> np.ndarray:
    """Cut the unique rows into one part a thread with about as many lookups each: hot rows weigh what they cost.

    Returns (threads + 1,) int64. Every row is one part's, so the result does not depend on the cut.
    """
    parts = min(device.threads, max(plan.unique, 1))
    starts = plan.segment_offsets
    total = plan.unique + int(starts[-1])
    # A row costs its own read and write as well as its lookups. Searched, not computed: no array of U is made.
    cuts = range(plan.unique + 1)
    targets = [total * part // parts for part in range(parts + 1)]
    return np.array([bisect_left(cuts, target, key=lambda u: int(starts[u]) + u) for target in targets])


@cpu_kernel
def segment_gradient(g, dY, offsets, segment_bags, first, last, D, mean):
    """g[:D] = sum of dY[bag] over segment_bags[first:last], in order; divided by bag length where mean."""
    # Elements are indexed, no views taken: a view counts references, and two threads would contend for the count.
    samples = dY.shape[0]
    if mean:
        for d in range(D):
            g[d] = 0
    for at in range(first, last):
        bag = segment_bags[at]
        f = bag // samples
        b = bag - f * samples
        if mean:
            length = dY.dtype.type(offsets[bag + 1] - offsets[bag])
            for d in range(D):
                g[d] += dY[b, f, d] / length
        elif at == first:
            for d in range(D):
                g[d] = dY[b, f, d]
        else:
            for d in range(D):
                g[d] += dY[b, f, d]


@cache
def _forward_kernel(dimension: int, item_bytes: int, mean: bool) -> Any:
    D, line = dimension, CACHE_LINE_BYTES // item_bytes

    @cpu_kernel
    def forward(start, stop, records, places, offsets, Y):
        B, F = Y.shape[0], Y.shape[1]
        for f in range(F):
            first, last = offsets[f * B + start], offsets[f * B + stop]
            for at in range(first, min(last, first + PREFETCH_ROWS)):
                for d in range(0, D, line):
                    prefetch(records, (places[at], d))
            for b in range(start, stop):
                first, end = offsets[f * B + b], offsets[f * B + b + 1]
                for d in range(D):
                    Y[b, f, d] = 0
                for at in range(first, end):
                    if at + PREFETCH_ROWS < last:
                        for d in range(0, D, line):
                            prefetch(records, (places[at + PREFETCH_ROWS], d))
                    place = places[at]
                    for d in range(D):
                        Y[b, f, d] += records[place, d]
                if mean and end - first > 1:
                    length = Y.dtype.type(end - first)
                    for d in range(D):
                        Y[b, f, d] /= length

    return forward


@cache
def _backward_kernel(dimension: int, mean: bool) -> Any:
    D = dimension

    @cpu_kernel
    def backward(start, stop, dY, offsets, segment_offsets, segment_bags, dW):
        for u in range(start, stop):
            segment_gradient(dW[u], dY, offsets, segment_bags, segment_offsets[u], segment_offsets[u + 1], D, mean)

    return backward
