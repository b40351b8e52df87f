"""Embedding bags: the rows of each bag pooled into one vector, for all tables in one launch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import numpy as np

from cupyrec.batch import LONG_SEGMENT, CoalescePlan, GpuCoalescePlan, most_chunks, most_long_segments
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import BLOCK_THREADS, GpuStream
from cupyrec.devices.numba_kernel import cpu_kernel, prefetched_rows
from cupyrec.devices.numba_vector import load_vector, prefetch_vector, store_vector, zero_vector
from cupyrec.kernels import kernel

# Lanes of a warp.
WARP = 32
# Blocks that fill any GPU a few times over; more would find nothing to do where segments are fewer than they might be.
MOST_SEGMENT_BLOCKS = 4096

AnyCoalescePlan = TypeVar("AnyCoalescePlan", CoalescePlan, GpuCoalescePlan)

INT64 = np.dtype(np.int64)
KINDS_OF_PLACES = {INT64: "rows", np.dtype(np.int32): "slots"}
FLOATS = frozenset((np.dtype(np.float32), np.dtype(np.float64)))


def embedding_bag_forward(device: Device, records: Any, places: Any, offsets: Any, Y: Any, *, mean: bool) -> None:
    """Y[b, f] = sum over the lookups l of bag (f, b), in order, of records[places[l], :D]; divided by their number
    where mean. An empty bag gives zeros.

    records: (places, record width) of one floating dtype, device; the first D columns are weights.
    places:  (N,) int32 or int64, device: the row of each lookup, or the slot of that row where records is a scratchpad.
    offsets: (F*B + 1,) int64, device: the batch's bags.
    Y: (B, F, D) of the same dtype as records, device; overwritten.

    All are C-contiguous; on a GPU floats are float32. Raises ValueError, and TypeError on dtypes. The values in
    places and offsets are not checked (Batch.validate does): one outside of records spoils memory or ends the process.
    """
    check_bags(Y, offsets, "Y")
    B, F, D = Y.shape
    if records.ndim != 2 or records.shape[1] < D or places.ndim != 1:
        raise ValueError(f"records must be (places, {D} or more), places (N,), but are {records.shape}, {places.shape}")
    if isinstance(device, GpuStream):
        pooled = kernel("embedding_bag", f"embedding_bag_of_{kind_of(places)}", **constants_of(D, mean))
        counts = np.int32(B), np.int32(F)
        device.launch_over(
            pooled, B * F * lanes_of(D), records, np.int32(records.shape[1]), places, offsets, Y, *counts
        )
        return
    kind_of(places)
    check_vectors(offsets, records=records, Y=Y)
    # Parts are samples, as in all that follows: what a thread pools, it also uses.
    pool, floats = _forward_kernel(D, records.dtype.itemsize, mean), (places.shape[0] + B * F) * D
    device.launch(pool, B, records, places, offsets, Y, floats=floats)


def embedding_bag_backward(
    device: Device,
    dY: Any,
    offsets: Any,
    plan: CoalescePlan | GpuCoalescePlan,
    dW: Any,
    *,
    mean: bool,
    partial_sums: Any = None,
) -> None:
    """dW[u] = sum over the lookups l of unique row u, in lookup order, of dY[bag(l)]; each divided by the length of
    its bag where mean.

    dY: (B, F, D), device; offsets: (F*B + 1,) int64, device; dW: (U, D) of the same dtype as dY, device, or more rows,
    which stay as they are; overwritten. plan: of the same batch, which is not checked. partial_sums: as in
    sum_segments, for a GPU alone. All are C-contiguous; on a GPU floats are float32. Raises ValueError, TypeError.
    The optimizers do this and their step in one pass; here for models that need the gradient itself.
    """
    check_bags(dY, offsets, "dY")
    if dW.ndim != 2 or dW.shape[1] != dY.shape[2]:
        raise ValueError(f"dW must be (U, {dY.shape[2]}), but is {dW.shape}")
    if isinstance(device, GpuStream):
        names = ("gradient_of_short", "gradient_of_chunks", "gradient_of_long")
        constants = constants_of(dY.shape[2], mean)
        sum_segments(device, "embedding_bag", names, constants, dY, offsets, plan, partial_sums, dW)
        return
    check_vectors(offsets, dY=dY, dW=dW)
    sums = _backward_kernel(dY.shape[2], dY.dtype.itemsize, mean)
    cpu_plan = plan_of(plan, CoalescePlan)
    if dW.shape[0] < cpu_plan.unique:
        raise ValueError(f"dW must have {cpu_plan.unique} rows, those of the plan, but is {dW.shape}")
    bounds = balanced_bounds(device, cpu_plan)
    segments = cpu_plan.segment_offsets, cpu_plan.segment_bags
    floats = (cpu_plan.segment_bags.shape[0] + cpu_plan.unique) * dY.shape[2]
    device.launch(sums, cpu_plan.unique, dY, offsets, *segments, dW, bounds=bounds, floats=floats)


def sum_segments(
    stream: GpuStream,
    file: str,
    names: tuple[str, str, str],
    constants: Mapping[str, int],
    dY: Any,
    offsets: Any,
    plan: CoalescePlan | GpuCoalescePlan,
    partial_sums: Any,
    *step: Any,
) -> None:
    """Queue the three kernels that sum the gradient of each unique row and do a step with it: see segments.cuh.

    file, names, constants: the kernels for segments that are not long, for chunks of the long ones, for long ones; the
    first and the last take `step` as their last arguments.
    dY: (B, F, D) float32, device; offsets: (F*B + 1,) int64, device; partial_sums: (most_chunks(N), D) float32 or
    more, device; overwritten. Raises TypeError, ValueError.
    """
    B, F, D = dY.shape
    gpu_plan = plan_of(plan, GpuCoalescePlan)
    N, chunks = gpu_plan.lookups, most_chunks(gpu_plan.lookups)
    if partial_sums is None or partial_sums.shape[0] < chunks or partial_sums.shape[1] != D:
        actual = "None" if partial_sums is None else partial_sums.shape
        raise ValueError(f"partial_sums must be ({chunks}, {D}) at least, but is {actual}")
    of_short, of_chunks, of_long = (kernel(file, name, **constants) for name in names)
    gradients = dY, offsets, gpu_plan.segment_bags, np.int32(B), np.int32(F), gpu_plan.segment_offsets
    long = gpu_plan.long_segments, gpu_plan.long_offsets, gpu_plan.long_counts
    groups = BLOCK_THREADS // lanes_of(D)
    if N:
        stream.launch(of_short, _blocks(N, groups), BLOCK_THREADS, *gradients, gpu_plan.unique_count, *step)
    if N > LONG_SEGMENT:
        stream.launch(of_chunks, _blocks(chunks, groups), BLOCK_THREADS, *gradients, *long, partial_sums)
        stream.launch(of_long, _blocks(most_long_segments(N), 1), BLOCK_THREADS, partial_sums, *long, *step)


def lanes_of(dimension: int) -> int:
    """How many lanes of a GPU's warp hold a vector together: LANES in row_parts.cuh."""
    return min(1 << (dimension // part_floats(dimension) - 1).bit_length(), WARP)


def part_floats(dimension: int) -> int:
    """How many elements of a vector a lane moves at once: PART_FLOATS in row_parts.cuh."""
    return 4 if dimension % 4 == 0 else 1


def constants_of(dimension: int, mean: bool) -> dict[str, int]:
    """What the kernels of bags and segments are compiled for."""
    return {"DIMENSION": dimension, "MEAN": int(mean), "LONG_SEGMENT": LONG_SEGMENT}


def check_bags(vectors: Any, offsets: Any, name: str) -> None:
    """Raise ValueError unless vectors are (B, F, D) and there is an offset for each. name: of the vectors."""
    shape = vectors.shape
    if len(shape) != 3 or offsets.shape != (shape[0] * shape[1] + 1,):
        raise ValueError(f"{name} must be (B, F, D), offsets (F*B + 1,), but are {shape}, {offsets.shape}")


def kind_of(places: Any) -> str:
    """What places are called in the names of kernels: rows are int64, slots int32. Raises TypeError."""
    # Not by name, which NumPy makes anew each time.
    kind = KINDS_OF_PLACES.get(places.dtype)
    if kind is None:
        raise TypeError(f"places must be int64 (rows) or int32 (slots), but are {places.dtype}")
    return kind


def plan_of(plan: Any, kind: type[AnyCoalescePlan]) -> AnyCoalescePlan:
    """The plan itself, which must be of the kind that the device can read. Raises TypeError."""
    if not isinstance(plan, kind):
        raise TypeError(f"this device needs a {kind.__name__}, but got a {type(plan).__name__}")
    return plan


def check_vectors(offsets: np.ndarray, **arrays: np.ndarray) -> None:
    """Raise unless these host arrays are what kernels take vectors of: C-contiguous, and of one dtype; a GPU's dtypes
    are checked where its kernels are launched. offsets: of the bags.
    """
    for name, array in arrays.items():
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} must be C-contiguous, but is {array.shape} with strides {array.strides}")
    dtypes = {array.dtype for array in arrays.values()}
    if len(dtypes) > 1 or dtypes - FLOATS:
        named = ", ".join(f"{name} {array.dtype}" for name, array in arrays.items())
        raise TypeError(f"one dtype is needed, float32 or float64, but there are {named}")
    if offsets.dtype != INT64:
        raise TypeError(f"offsets must be int64, but are {offsets.dtype}")


def _blocks(items: int, items_a_block: int) -> int:
    return min(-(-items // items_a_block), MOST_SEGMENT_BLOCKS)


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
def segment_gradient(zeros, dY, offsets, segment_bags, first, last, end, ahead, mean):
    """Sum of dY[bag] over segment_bags[first:last], in order; divided by bag length where mean.

    zeros: a vector of D. Gradients are asked for `ahead` lookups before they are summed, but for none from `end` on.
    """
    samples, g = dY.shape[0], zeros
    for at in range(first, last):
        if at + ahead < end:
            bag = segment_bags[at + ahead]
            f = bag // samples
            prefetch_vector(dY, (bag - f * samples, f, 0), zeros)
        bag = segment_bags[at]
        f = bag // samples
        each = load_vector(dY, (bag - f * samples, f, 0), zeros)
        if mean:
            g = g + each / dY.dtype.type(offsets[bag + 1] - offsets[bag])
        elif at == first:
            g = each
        else:
            g = g + each
    return g


@cache
def _forward_kernel(dimension: int, item_bytes: int, mean: bool) -> Any:
    D, rows_ahead = dimension, prefetched_rows(dimension * item_bytes)

    @cpu_kernel
    def forward(start, stop, records, places, offsets, Y):
        B, F = Y.shape[0], Y.shape[1]
        for f in range(F):
            first, last = offsets[f * B + start], offsets[f * B + stop]
            for at in range(first, min(last, first + rows_ahead)):
                prefetch_vector(records, (places[at], 0), D)
            for b in range(start, stop):
                first, end = offsets[f * B + b], offsets[f * B + b + 1]
                y = zero_vector(Y, D)
                for at in range(first, end):
                    if at + rows_ahead < last:
                        prefetch_vector(records, (places[at + rows_ahead], 0), D)
                    y = y + load_vector(records, (places[at], 0), D)
                if mean and end - first > 1:
                    y = y / Y.dtype.type(end - first)
                store_vector(Y, (b, f, 0), y)

    return forward


@cache
def _backward_kernel(dimension: int, item_bytes: int, mean: bool) -> Any:
    D, ahead = dimension, prefetched_rows(dimension * item_bytes)

    @cpu_kernel
    def backward(start, stop, dY, offsets, segments, bags, dW):
        zeros, end = zero_vector(dW, D), segments[stop]
        for u in range(start, stop):
            g = segment_gradient(zeros, dY, offsets, bags, segments[u], segments[u + 1], end, ahead, mean)
            store_vector(dW, (u, 0), g)

    return backward
