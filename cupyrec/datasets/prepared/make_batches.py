"""Make mini-batches of blocks, window after window of an epoch.

A window is worked on column by column: the ids of a column, in 8 to 32 bits, stay in a core's cache while they are
taken out in random order, which blocks that are taken apart sample by sample do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from cupyrec.batch import MOST_BAGS, Batch
from cupyrec.datasets.assemble_batches import one_lookup_offsets
from cupyrec.datasets.prepared.block_reader import BlockReader
from cupyrec.datasets.prepared.shard_reader import Block, IdColumn
from cupyrec.datasets.prepared.shuffle import EpochOrder
from cupyrec.devices.kernel_cache import cached_njit
from cupyrec.errors import DataError

# Some samples of a window: from the first to before the last, or their numbers, (n,) uint32.
Take = tuple[int, int] | np.ndarray


def make_batches(
    order: EpochOrder, reader: BlockReader, batch_size: int, first_batch: int, first_rows: np.ndarray
) -> Iterator[Batch]:
    """Yield the batches of an epoch from first_batch on; windows before that one's are not read.

    first_rows: (F + 1,) int64, see table_offsets.
    A batch views no mapped file, which may be cut off before the batch is used; offsets may be shared and read-only.
    """
    begin, parts, filled = first_batch * batch_size, list[Batch](), 0
    if begin >= order.samples:
        return
    for window in range(order.window_of(begin), len(order.places) - 1):
        first, end = int(order.places[window]), int(order.places[window + 1])
        blocks = [reader.samples(start, stop) for start, stop in order.window_pieces(window).tolist()]
        start = max(begin, first)
        cuts = [start, *range(start // batch_size * batch_size + batch_size, end, batch_size), end]
        for part in _take_parts(blocks, order.permutation(window), [cut - first for cut in cuts], first_rows):
            parts.append(part)
            filled += part.samples
            if filled == batch_size:
                yield _join(parts)
                parts, filled = [], 0
    if parts:
        yield _join(parts)


def _take_parts(
    blocks: Sequence[Block], permutation: np.ndarray | None, cuts: Sequence[int], first_rows: np.ndarray
) -> Iterator[Batch]:
    """The samples of a window between each two cuts, as batches.

    permutation: (samples of the window,) uint32; None, of one block: all stay in order.
    """
    F = len(first_rows) - 1
    spans = list(pairwise(cuts))
    takes: Sequence[Take] = spans if permutation is None else [permutation[start:stop] for start, stop in spans]
    offsets = _offsets(blocks, takes, [stop - start for start, stop in spans], F)
    rows = [np.empty(each[-1], dtype=np.int64) for each in offsets]
    for feature in range(F):
        column = _join_columns([block.columns[feature] for block in blocks])
        for take, bounds, out in zip(takes, offsets, rows, strict=True):
            samples = (len(bounds) - 1) // F
            part = out[bounds[feature * samples] : bounds[(feature + 1) * samples]]
            _take_rows(column, take, first_rows[feature], part)
    # Copies, of one block too.
    dense, labels = np.concatenate([b.dense for b in blocks]), np.concatenate([b.labels for b in blocks])
    # Each is dropped here when it is handed out: the window need not stay until its last batch is done with.
    for number, take in enumerate(takes):
        yield Batch(_take(dense, take), rows[number], offsets[number], _take(labels, take))
        rows[number] = offsets[number] = None  # type: ignore[call-overload]


def _offsets(blocks: Sequence[Block], takes: Sequence[Take], sizes: Sequence[int], F: int) -> list[np.ndarray]:
    """Where the bags of each part begin: (F * samples + 1,) int64. Raises DataError for more than a plan can hold."""
    if all(column.offsets is None for column in blocks[0].columns):
        shared = one_lookup_offsets(F * max(sizes))
        return [shared[: F * samples + 1] for samples in sizes]
    lengths = [np.ones((F, samples), dtype=np.int64) for samples in sizes]
    for feature in range(F):
        bounds = [b.columns[feature].offsets for b in blocks]
        of_lists = [np.diff(each) for each in bounds if each is not None]
        if of_lists:
            of_window = _join_arrays(of_lists)
            for part, take in zip(lengths, takes, strict=True):
                part[feature] = _take(of_window, take)
    return [_ends(part.reshape(-1)) for part in lengths]


def _ends(lengths: np.ndarray) -> np.ndarray:
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    if offsets[-1] > MOST_BAGS:
        raise DataError(f"a batch holds at most {MOST_BAGS} lookups, but has {offsets[-1]}; take smaller batches")
    return offsets


def _join_columns(columns: Sequence[IdColumn]) -> IdColumn:
    """One column of several; of shards whose ids have different widths, in the widest."""
    if len(columns) == 1:
        return columns[0]
    if columns[0].offsets is None:
        return IdColumn(np.concatenate([column.ids for column in columns]))
    bounds = [column.offsets for column in columns if column.offsets is not None]
    # A piece from the middle of a block begins after that block's first id.
    ids = np.concatenate([c.ids[b[0] : b[-1]] for c, b in zip(columns, bounds, strict=True)])
    lengths = np.concatenate([np.diff(each) for each in bounds])
    return IdColumn(ids, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)]))


def _join_arrays(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _take(values: np.ndarray, take: Take) -> np.ndarray:
    """The values of some samples: a view of a span, or a copy in the order of their numbers."""
    if isinstance(take, tuple):
        return values[slice(*take)]
    if values.ndim == 1:
        return values[take]
    out = np.empty((len(take), values.shape[1]), dtype=values.dtype)
    _copy_in_order(values, take, out)
    return out


def _take_rows(column: IdColumn, take: Take, first_row: int, out: np.ndarray) -> None:
    """Write the global rows of some samples to out."""
    if isinstance(take, tuple):
        start, stop = take if column.offsets is None else column.offsets[list(take)]
        _rows_of_span(column.ids[start:stop], first_row, out)
    elif column.offsets is None:
        _rows_in_order(column.ids, take, first_row, out)
    else:
        _rows_of_bags(column.ids, column.offsets, take, first_row, out)


def _join(parts: Sequence[Batch]) -> Batch:
    """One batch of several, sample after sample. Raises DataError for more lookups than a plan can hold."""
    if len(parts) == 1:
        return parts[0]
    F = parts[0].features
    bounds = [part.offsets[:: part.samples] for part in parts]
    lengths = [np.diff(part.offsets).reshape(F, part.samples) for part in parts]
    return Batch(
        np.concatenate([part.dense for part in parts]),
        np.concatenate([p.rows[b[f] : b[f + 1]] for f in range(F) for p, b in zip(parts, bounds, strict=True)]),
        _ends(np.concatenate(lengths, axis=1).reshape(-1)),
        np.concatenate([part.labels for part in parts]),
    )


# An index that may be negative would count from the end, and the loop not be vectorised: see devices.numba_kernel.
@cached_njit()
def _rows_of_span(ids, first_row, out):
    for i in range(np.uint64(ids.shape[0])):
        out[i] = np.int64(ids[i]) + first_row


@cached_njit()
def _rows_in_order(ids, numbers, first_row, out):
    for i in range(np.uint64(numbers.shape[0])):
        out[i] = np.int64(ids[numbers[i]]) + first_row


@cached_njit()
def _rows_of_bags(ids, offsets, numbers, first_row, out):
    to = 0
    for i in range(numbers.shape[0]):
        sample = np.uint64(numbers[i])
        for lookup in range(offsets[sample], offsets[sample + np.uint64(1)]):
            out[to] = np.int64(ids[lookup]) + first_row
            to += 1


@cached_njit()
def _copy_in_order(values, numbers, out):
    for i in range(np.uint64(numbers.shape[0])):
        for column in range(np.uint64(values.shape[1])):
            out[i, column] = values[numbers[i], column]
