"""Gathering and scattering of whole row records, and the note of which row is in each slot.

On a GPU a record is a multiple of 4 floats wide, and arrays of records may be page-locked host memory, by
`runtime.mapped`. There `count` may be a (1,) int32 device array: only the first *count of the places are meant.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from cupyrec.devices.cpu import CpuDevice, CpuStream
from cupyrec.devices.device import Stream
from cupyrec.devices.gpu import BLOCK_THREADS, GpuStream
from cupyrec.devices.numba_kernel import CACHE_LINE_BYTES, PREFETCH_ROWS, cpu_kernel, prefetch
from cupyrec.functions.embedding_bag import kind_of, part_floats
from cupyrec.kernels import kernel

# Parts of a record that a GPU's thread has under way at once: IN_FLIGHT in move_rows.cu.
IN_FLIGHT = 4
# Blocks of a launch that moves records: 4 MB under way, enough for the bandwidth of device memory. Over a link as few
# as keep it busy, 512 KB under way: blocks that wait for the link keep training off the GPU.
MOST_MOVE_BLOCKS, MOST_LINK_BLOCKS = 256, 32


def gather_records(
    stream: Stream, records: Any, places: Any, gathered: Any, *, count: Any = None, over_link: bool = False
) -> None:
    """gathered[i] = records[places[i]].

    records: (rows or slots, record width) of one floating dtype; places: (n,) int32 or int64; gathered: (n, record
    width) of the same dtype, overwritten. count: see above. All are on the stream's device; over_link: records are
    host memory that a GPU reaches.
    """
    if isinstance(stream, GpuStream):
        arrays = records, places, gathered
        name, most = f"gather_{kind_of(places)}", places.shape[0]
        _move_on_gpu(stream, name, records.shape[1], most, count, *arrays, over_link=over_link)
        return
    _move(stream, records, gathered, from_places=_meant(places, count))


def scatter_records(
    stream: Stream, gathered: Any, places: Any, records: Any, *, count: Any = None, over_link: bool = False
) -> None:
    """records[places[i]] = gathered[i]. Arguments as above; the places differ from each other. records is modified."""
    if isinstance(stream, GpuStream):
        arrays = gathered, records, places
        name, most = f"scatter_{kind_of(places)}", places.shape[0]
        _move_on_gpu(stream, name, records.shape[1], most, count, *arrays, over_link=over_link)
        return
    _move(stream, gathered, records, to_places=_meant(places, count))


def copy_between(stream: CpuDevice | CpuStream, source: Any, from_places: Any, target: Any, to_places: Any) -> None:
    """target[to_places[i]] = source[from_places[i]], on the CPU. Arguments as above; source and target are two arrays,
    the places in target differ from each other. target is modified.
    """
    _move(stream, source, target, from_places=from_places, to_places=to_places)


def mark_rows(stream: Stream, slot_rows: Any, slots: Any, rows: Any, *, count: Any = None) -> None:
    """slot_rows[slots[i]] = rows[i], or -1, which is no row, where rows is None.

    slot_rows: (S,) int64, which row is in each slot; modified. slots: (n,) int32, which differ from each other; rows:
    (n,) int64. count: see above. All are on the stream's device.
    """
    if isinstance(stream, GpuStream):
        name, given = ("mark_empty", (slots,)) if rows is None else ("mark_rows", (slots, rows))
        mark = kernel("mark_rows", name, COUNTED=int(count is not None))
        most = slots.shape[0]
        count = stream.nothing(np.int32) if count is None else count
        stream.launch_over(mark, most, slot_rows, *given, count, np.int32(most))
        return
    slots = _meant(slots, count)
    slot_rows[slots] = -1 if rows is None else rows[: slots.shape[0]]


def _move_on_gpu(
    stream: GpuStream, name: str, width: int, most: int, count: Any, *arrays: Any, over_link: bool = False
) -> None:
    """Launch a kernel of move_rows.cu. most: the number of places."""
    move = kernel("move_rows", name, WIDTH=width, COUNTED=int(count is not None))
    threads = most * (width // part_floats(width))
    blocks = min(-(-threads // (BLOCK_THREADS * IN_FLIGHT)), MOST_LINK_BLOCKS if over_link else MOST_MOVE_BLOCKS)
    count = stream.nothing(np.int32) if count is None else count
    stream.launch(move, blocks, BLOCK_THREADS, *arrays, count, np.int32(most))


def _meant(places: Any, count: Any) -> Any:
    """The places that are meant, on the CPU."""
    return places if count is None else places[: int(count[0])]


def _move(stream: Any, source: Any, target: Any, *, from_places: Any = None, to_places: Any = None) -> None:
    """target[to_places[i]] = source[from_places[i]]; either may be None, which is i itself, but not both."""
    move = _move_kernel(source.shape[1], source.dtype.itemsize, from_places is not None, to_places is not None)
    given = from_places if from_places is not None else to_places
    # A kernel does not look at places that are i itself; it only needs some.
    from_places = given if from_places is None else from_places
    to_places = given if to_places is None else to_places
    stream.launch(move, given.shape[0], source, from_places, target, to_places)


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
