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
    kernel = _gather_kernel(records.shape[1], records.dtype.itemsize)
    stream.launch(kernel, places.shape[0], records, places, gathered)


def scatter_records(stream: Stream, gathered: Any, places: Any, records: Any) -> None:
    """records[places[i]] = gathered[i]. Shapes as above; the places differ from each other. records is modified."""
    kernel = _scatter_kernel(records.shape[1], records.dtype.itemsize)
    stream.launch(kernel, places.shape[0], gathered, places, records)


def copy_between(stream: Stream, source: Any, from_places: Any, target: Any, to_places: Any) -> None:
    """target[to_places[i]] = source[from_places[i]]. Shapes as above. target is modified."""
    kernel = _copy_kernel(source.shape[1], source.dtype.itemsize)
    stream.launch(kernel, from_places.shape[0], source, from_places, target, to_places)


def gather_from_two(stream: Stream, pad: Any, slots: Any, records: Any, rows: Any, gathered: Any) -> None:
    """gathered[i] = pad[slots[i]], or records[rows[i]] where slots[i] is -1. Shapes as above."""
    kernel = _two_places_kernel(records.shape[1])
    stream.launch(kernel, rows.shape[0], pad, slots, records, rows, gathered)


@cache
def _gather_kernel(width: int, item_bytes: int) -> Any:
    W, line = width, CACHE_LINE_BYTES // item_bytes

    @cpu_kernel
    def gather(start, stop, records, places, gathered):
        for i in range(start, stop):
            if i + PREFETCH_ROWS < stop:
                for d in range(0, W, line):
                    prefetch(records, (places[i + PREFETCH_ROWS], d))
            place = places[i]
            for d in range(W):
                gathered[i, d] = records[place, d]

    return gather


@cache
def _scatter_kernel(width: int, item_bytes: int) -> Any:
    W, line = width, CACHE_LINE_BYTES // item_bytes

    @cpu_kernel
    def scatter(start, stop, gathered, places, records):
        for i in range(start, stop):
            if i + PREFETCH_ROWS < stop:
                for d in range(0, W, line):
                    prefetch(records, (places[i + PREFETCH_ROWS], d))
            place = places[i]
            for d in range(W):
                records[place, d] = gathered[i, d]

    return scatter


@cache
def _copy_kernel(width: int, item_bytes: int) -> Any:
    W, line = width, CACHE_LINE_BYTES // item_bytes

    @cpu_kernel
    def copy(start, stop, source, from_places, target, to_places):
        for i in range(start, stop):
            if i + PREFETCH_ROWS < stop:
                for d in range(0, W, line):
                    prefetch(source, (from_places[i + PREFETCH_ROWS], d))
                    prefetch(target, (to_places[i + PREFETCH_ROWS], d))
            place, to = from_places[i], to_places[i]
            for d in range(W):
                target[to, d] = source[place, d]

    return copy


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
