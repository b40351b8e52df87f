"""Gathering and scattering of whole row records."""

from __future__ import annotations

from functools import cache
from typing import Any

from cupyrec.devices.numba_kernel import CACHE_LINE_BYTES, PREFETCH_ROWS, cpu_kernel, prefetch
from cupyrec.devices.stream import Stream


def gather_records(stream: Stream, records: Any, places: Any, gathered: Any) -> None:
    """gathered[i] = records[places[i]].

    records: (rows or slots, record width) of one floating dtype; places: (n,) int32 or int64; gathered: (n, record
    width) of the same dtype, overwritten.
    """
    _move(stream, records, gathered, from_places=places)


def scatter_records(stream: Stream, gathered: Any, places: Any, records: Any) -> None:
    """records[places[i]] = gathered[i]. Shapes as above; the places differ from each other. records is modified."""
    _move(stream, gathered, records, to_places=places)


def copy_between(stream: Stream, source: Any, from_places: Any, target: Any, to_places: Any) -> None:
    """target[to_places[i]] = source[from_places[i]]. Shapes as above. target is modified."""
    _move(stream, source, target, from_places=from_places, to_places=to_places)


def gather_from_two(stream: Stream, pad: Any, slots: Any, records: Any, rows: Any, gathered: Any) -> None:
    """gathered[i] = pad[slots[i]], or records[rows[i]] where slots[i] is -1. Shapes as above."""
    kernel = _two_places_kernel(records.shape[1])
    stream.launch(kernel, rows.shape[0], pad, slots, records, rows, gathered)


def _move(stream: Stream, source: Any, target: Any, *, from_places: Any = None, to_places: Any = None) -> None:
    """target[to_places[i]] = source[from_places[i]]; either may be None, which is i itself, but not both."""
    kernel = _move_kernel(source.shape[1], source.dtype.itemsize, from_places is not None, to_places is not None)
    given = from_places if from_places is not None else to_places
    # A kernel does not look at places that are i itself; it only needs some.
    from_places = given if from_places is None else from_places
    to_places = given if to_places is None else to_places
    stream.launch(kernel, given.shape[0], source, from_places, target, to_places)


@cache
def _move_kernel(width: int, item_bytes: int, gathers: bool, scatters: bool) -> Any:
    W, line = width, CACHE_LINE_BYTES // item_bytes

    @cpu_kernel
    def move(start, stop, source, from_places, target, to_places):
        for i in range(start, stop):
            if i + PREFETCH_ROWS < stop:
                for d in range(0, W, line):
                    if gathers:
                        prefetch(source, (from_places[i + PREFETCH_ROWS], d))
                    if scatters:
                        prefetch(target, (to_places[i + PREFETCH_ROWS], d))
            place = from_places[i] if gathers else i
            to = to_places[i] if scatters else i
            for d in range(W):
                target[to, d] = source[place, d]

    return move


@cache
def _two_places_kernel(width: int) -> Any:
    W = width

    @cpu_kernel
    def gather(start, stop, pad, slots, records, rows, gathered):
        for i in range(start, stop):
            slot, row = slots[i], rows[i]
            for d in range(W):
                gathered[i, d] = records[row, d] if slot < 0 else pad[slot, d]

    return gather
