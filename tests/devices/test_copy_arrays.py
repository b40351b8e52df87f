"""Arrays of every size are copied whole, and nothing beside them is touched."""

import numpy as np
import pytest

from cupyrec.devices.copy_arrays import copy_four

DTYPES = np.float32, np.int64, np.int64, np.float32


@pytest.mark.parametrize("items", [(0, 0, 0, 0), (1, 0, 2, 3), (5, 131_071, 0, 0), (100, 300_007, 51, 999)])
def test_all_is_copied_and_no_more(items):
    numbers = np.random.default_rng(0)
    sources = [numbers.integers(1, 2**20, n).astype(dtype) for n, dtype in zip(items, DTYPES, strict=True)]
    around = [np.full(n + 2, 7, dtype) for n, dtype in zip(items, DTYPES, strict=True)]
    before = [source.copy() for source in sources]
    copy_four([(source, target[1:-1]) for source, target in zip(sources, around, strict=True)])
    for source, target, expected in zip(sources, around, before, strict=True):
        assert source.tobytes() == expected.tobytes()
        assert target[1:-1].tobytes() == expected.tobytes()
        assert (target[[0, -1]] == 7).all()
