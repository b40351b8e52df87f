"""The place of each lookup, from the places of the unique rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.batch import CoalescePlan, GpuCoalescePlan
from cupyrec.devices.device import Stream
from cupyrec.devices.gpu import GpuStream
from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.functions.embedding_bag import plan_of
from cupyrec.kernels import kernel


def place_lookups(stream: Stream, coalesced: CoalescePlan | GpuCoalescePlan, places: Any, lookup_places: Any) -> None:
    """lookup_places[l] = places[u] for every lookup l of unique row u.

    coalesced: a GpuCoalescePlan on a GPU, else a CoalescePlan; places: (U,) int32 or more, device; lookup_places: (N,)
    int32, device; overwritten. Raises TypeError.
    """
    if isinstance(stream, GpuStream):
        plan = plan_of(coalesced, GpuCoalescePlan)
        segments, N = (plan.segment_offsets, plan.segment_lookups), plan.lookups
        find = kernel("place_lookups", "place_lookups")
        stream.launch_over(find, N, *segments, places, plan.unique_count, lookup_places, np.int32(N))
        return
    cpu_plan = plan_of(coalesced, CoalescePlan)
    segments = cpu_plan.segment_offsets, cpu_plan.segment_lookups
    stream.launch(_place_lookups, cpu_plan.unique, *segments, places, lookup_places, floats=4 * lookup_places.shape[0])


@cpu_kernel
def _place_lookups(start, stop, segment_offsets, segment_lookups, places, lookup_places):
    for u in range(start, stop):
        for at in range(segment_offsets[u], segment_offsets[u + 1]):
            lookup_places[segment_lookups[at]] = places[u]
