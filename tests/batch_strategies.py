"""Batches with duplicates, empty bags and skew: drawn by hypothesis, or made from a seed."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from cupyrec.batch import Batch, table_offsets


def random_batch(random, table_rows, samples, *, dense_features=3, most_lookups=4, dtype=np.float32):
    """A valid batch whose bags have 0 to most_lookups lookups; half of them meet in few rows of their table.

    random: numpy Generator; table_rows: (F,); dtype: of the dense features and labels, float32 in real batches.
    """
    features = len(table_rows)
    lengths = random.integers(0, most_lookups, features * samples, endpoint=True)
    starts = table_offsets(table_rows)
    rows = [np.empty(0, dtype=np.int64)]
    for f, count in enumerate(lengths.reshape(features, samples).sum(axis=1).tolist()):
        any_row = random.integers(0, table_rows[f], count)
        hot_row = random.integers(0, min(3, table_rows[f]), count)
        rows.append(starts[f] + np.where(random.random(count) < 0.5, hot_row, any_row))
    return Batch(
        dense=random.standard_normal((samples, dense_features)).astype(dtype),
        rows=np.concatenate(rows),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=random.integers(0, 2, samples).astype(dtype),
    )


@st.composite
def lookups(draw: st.DrawFn, *, most_samples: int = 6) -> tuple[list[int], Batch]:
    """(table_rows, batch): tables from one row to far more than memory holds, bags of 0 to 5 lookups.

    A table's rows come from a few values, its ends and the digits of a radix sort among them, so that
    duplicates are common.
    """
    sizes = st.sampled_from([1, 2, 3, 1000, 2**11 - 1, 2**11, 2**11 + 1, 2**22, 2**22 + 1, 2**31 + 5, 2**40])
    table_rows = draw(st.lists(sizes, min_size=1, max_size=4))
    samples = draw(st.integers(1, most_samples))
    bags = []
    for rows in table_rows:
        ends = [at for at in (0, 1, 2**11 - 1, 2**11, 2**22, 2**31, rows - 1) if at < rows]
        ids = st.one_of(st.sampled_from(ends), st.integers(0, rows - 1))
        bags.append(draw(st.lists(st.lists(ids, max_size=5), min_size=samples, max_size=samples)))
    batch = Batch.from_bags(np.zeros((samples, 1)), bags, np.zeros(samples), table_rows)
    return table_rows, batch
