"""Gathering, scattering and inserting of whole row records. Arrays of records may be page-locked host memory, as
`runtime.mapped` gives it.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from cupyrec.devices.cpu import CpuDevice, CpuStream
from cupyrec.devices.device import Stream
from cupyrec.devices.gpu import BLOCK_THREADS, GpuStream
from cupyrec.devices.numba_kernel import CACHE_LINE_BYTES, copy_items, cpu_kernel, prefetch, prefetched_rows
from cupyrec.functions.embedding_bag import kind_of, part_floats
from cupyrec.kernels import kernel

# Parts of a record that a GPU's thread has under way at once: IN_FLIGHT in move_rows.cu.
IN_FLIGHT = 4
# Blocks of a launch that moves records: 4 MB under way, enough for the bandwidth of device memory.
MOST_MOVE_BLOCKS = 256
# Blocks and their threads over a link, which is slow: 512 KB on their way in and 128 KB out, as writes would else take
# more than their half from reads. Blocks are small: beside one of 1,024 threads, which waits for the link, there are no
# registers left for a matrix product.
LINK_READ, LINK_WRITE = (32, 256), (8, 256)


def gather_records(stream: Stream, records: Any, places: Any, gathered: Any, *, over_link: bool = False) -> None:
    """gathered[i] = records[places[i]].

    records: (rows or slots, record width) of one floating dtype; places: (n,) int32 or int64; gathered: (n, record
    width) of the same dtype, overwritten. All are on the stream's device; over_link: records are host memory that a
    GPU reaches.
    """
    if isinstance(stream, GpuStream):
        _move_on_gpu(stream, f"gather_{kind_of(places)}", records, places, gathered, over_link=over_link)
        return
    _move(stream, records, gathered, from_places=places)


def scatter_records(stream: Stream, gathered: Any, places: Any, records: Any, *, over_link: bool = False) -> None:
    """records[places[i]] = gathered[i]. Arguments as above; the places differ from each other. records is modified."""
    if isinstance(stream, GpuStream):
        _move_on_gpu(stream, f"scatter_{kind_of(places)}", records, places, gathered, over_link=over_link)
        return
    _move(stream, gathered, records, to_places=places)


def insert_records(stream: Stream, gathered: Any, slots: Any, rows: Any, scratchpad: Any, slot_rows: Any) -> None:
    """scratchpad[slots[i]] = gathered[i]; slot_rows[slots[i]] = rows[i].

    gathered: (n, record width); slots: (n,) int32, which differ from each other; rows: (n,) int64. Modified:
    scratchpad, (S, record width), and slot_rows, (S,) int64, which row is in each slot. On a GPU it is one launch, so
    that an interrupt cannot come between.
    """
    if isinstance(stream, GpuStream):
        n, width = gathered.shape
        insert = kernel("move_rows", "insert_records", WIDTH=width)
        blocks = min(-(-n * (width // part_floats(width)) // (BLOCK_THREADS * IN_FLIGHT)), MOST_MOVE_BLOCKS)
        stream.launch(insert, blocks, BLOCK_THREADS, gathered, slots, rows, scratchpad, slot_rows, np.int32(n))
        return
    _move(stream, gathered, scratchpad, to_places=slots)
    slot_rows[slots] = rows


def copy_between(stream: CpuDevice | CpuStream, source: Any, from_places: Any, target: Any, to_places: Any) -> None:
    """target[to_places[i]] = source[from_places[i]], on the CPU. Arguments as above; source and target are two arrays,
    the places in target differ from each other. target is modified.
    """
    _move(stream, source, target, from_places=from_places, to_places=to_places)


def _move_on_gpu(stream: GpuStream, name: str, records: Any, places: Any, gathered: Any, *, over_link: bool) -> None:
    """Launch a kernel of move_rows.cu."""
    over = LINK_READ if name.startswith("gather") else LINK_WRITE
    most_blocks, threads = over if over_link else (MOST_MOVE_BLOCKS, BLOCK_THREADS)
    n, width = gathered.shape
    if places.shape[0] != n:
        raise ValueError(f"{places.shape[0]} places, but room for {n} records")
    blocks = min(-(-n * (width // part_floats(width)) // (threads * IN_FLIGHT)), most_blocks)
    stream.launch(kernel("move_rows", name, WIDTH=width), blocks, threads, records, places, gathered, np.int32(n))


def _move(stream: Any, source: Any, target: Any, *, from_places: Any = None, to_places: Any = None) -> None:
    """target[to_places[i]] = source[from_places[i]]; either may be None, which is i itself, but not both."""
    move = _move_kernel(source.shape[1], source.dtype.itemsize, from_places is not None, to_places is not None)
    given = from_places if from_places is not None else to_places
    # A kernel does not look at places that are i itself; it only needs some.
    from_places = given if from_places is None else from_places
    to_places = given if to_places is None else to_places
    floats = 2 * given.shape[0] * source.shape[1]
    stream.launch(move, given.shape[0], source, from_places, target, to_places, floats=floats)


@cache
def _move_kernel(width: int, item_bytes: int, gathers: bool, scatters: bool) -> Any:
    W, line = width, CACHE_LINE_BYTES // item_bytes
    rows_ahead = prefetched_rows(width * item_bytes)
    ends_in_another_line = crosses_a_line_more(width * item_bytes)

    @cpu_kernel
    def move(start, stop, source, from_places, target, to_places):
        for i in range(start, stop):
            if i + rows_ahead < stop:
                for d in range(0, W, line):
                    if gathers:
                        prefetch(source, (from_places[i + rows_ahead], d))
                    if scatters:
                        prefetch(target, (to_places[i + rows_ahead], d))
                if ends_in_another_line:
                    if gathers:
                        prefetch(source, (from_places[i + rows_ahead], W - 1))
                    if scatters:
                        prefetch(target, (to_places[i + rows_ahead], W - 1))
            place = from_places[i] if gathers else i
            to = to_places[i] if scatters else i
            copy_items(target, (to, 0), source, (place, 0), W)

    return move


def crosses_a_line_more(record_bytes: int) -> bool:
    """Whether a record may end in a cache line that none of its bytes 0, 64, 128 ... lies in; the first record begins
    a line.
    """
    after_the_last = (record_bytes - 1) % CACHE_LINE_BYTES + 1
    return after_the_last > math.gcd(record_bytes, CACHE_LINE_BYTES)
