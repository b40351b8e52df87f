"""Batches with segments of given lengths, and the plans of batches in a GPU's memory, made by NumPy."""

import dataclasses

import numpy as np

from cupyrec.batch import LONG_SEGMENT, Batch, CoalescePlan, GpuCoalescePlan, most_chunks, most_long_segments

# What nothing may read, in arrays longer than what is meant of them.
UNMEANT = -(2**30)


def batch_of_segments(random, lengths, samples, features, *, rows=None):
    """A batch in which the lookups of a row number each of `lengths`, spread over bags of any length.

    rows: how many rows there are; None: as many as segments. Its rows know no tables, and it has no dense features.
    """
    lengths = np.asarray(lengths, np.int64)
    used = np.sort(random.permutation(rows or len(lengths))[: len(lengths)])
    N = int(lengths.sum())
    cuts = np.sort(random.integers(0, N, samples * features - 1, endpoint=True))
    return Batch(
        dense=np.zeros((samples, 0), np.float32),
        rows=random.permutation(np.repeat(used, lengths)),
        offsets=np.concatenate([[0], cuts, [N]]).astype(np.int64),
        labels=np.zeros(samples, np.float32),
    )


def cpu_plan(batch):
    """The CoalescePlan of a batch."""
    lookups = np.argsort(batch.rows, kind="stable").astype(np.int32)
    unique_rows, lengths = np.unique(batch.rows, return_counts=True)
    bags = np.repeat(np.arange(batch.offsets.shape[0] - 1), np.diff(batch.offsets)).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return CoalescePlan(unique_rows.astype(np.int64), offsets, lookups, bags[lookups])


def device_plan(device, batch):
    """The GpuCoalescePlan of a batch; what is not meant in it is UNMEANT."""
    plan, N = cpu_plan(batch), batch.lookups
    lengths = np.diff(plan.segment_offsets)
    long_segments = np.flatnonzero(lengths > LONG_SEGMENT)
    long_offsets = np.concatenate([[0], np.cumsum(-(-lengths[long_segments] // LONG_SEGMENT))])
    arrays = GpuCoalescePlan(
        lookups=N,
        unique_rows=padded(plan.unique_rows, N, np.int64),
        segment_offsets=padded(plan.segment_offsets, N + 1, np.int64),
        segment_lookups=plan.segment_lookups,
        segment_bags=plan.segment_bags,
        unique_count=np.array([plan.unique], np.int32),
        long_segments=padded(long_segments, most_long_segments(N), np.int32),
        long_offsets=padded(long_offsets, most_long_segments(N) + 1, np.int32),
        long_counts=np.array([len(long_segments), long_offsets[-1]], np.int32),
    )
    uploaded = {
        field.name: device.upload(array)
        for field in dataclasses.fields(arrays)
        if isinstance(array := getattr(arrays, field.name), np.ndarray)
    }
    return dataclasses.replace(arrays, **uploaded)


def padded(array, size, dtype):
    """The array, followed by what is not meant."""
    result = np.full(size, UNMEANT, dtype)
    result[: array.shape[0]] = array
    return result


def room_for_sums(device, batch, dimension):
    """partial_sums for a batch; not a number until they are written."""
    return device.upload(np.full((most_chunks(batch.lookups), dimension), np.nan, np.float32))


def gradient_as_on_a_gpu(dY, batch, lanes, *, mean):
    """(U, D) float32: the gradient of each unique row, added in just the order that segments.cuh promises."""
    plan, (samples, _, dimension) = cpu_plan(batch), dY.shape
    bags = plan.segment_bags
    terms = dY[bags % samples, bags // samples]
    if mean:
        terms = terms / np.diff(batch.offsets)[bags][:, None].astype(np.float32)
    gradients = np.zeros((plan.unique, dimension), np.float32)
    for u in range(plan.unique):
        segment = terms[plan.segment_offsets[u] : plan.segment_offsets[u + 1]]
        if len(segment) > LONG_SEGMENT:
            groups = 256 // lanes
            chunks = [add_in_order(segment[at : at + LONG_SEGMENT]) for at in range(0, len(segment), LONG_SEGMENT)]
            run = -(-len(chunks) // groups)
            segment = [add_in_order(chunks[at : at + run]) for at in range(0, len(chunks), run)]
        gradients[u] = add_in_order(segment)
    return gradients


def add_in_order(terms):
    total = np.zeros(terms[0].shape, np.float32)
    for term in terms:
        total += term
    return total
