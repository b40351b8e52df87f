"""How far to look ahead: from slots and unique rows, within memory, and no further than it helps."""

import numpy as np
import pytest

from cupyrec.batch import Batch
from cupyrec.errors import MemoryPlanError
from cupyrec.pipeline.lookahead import LEAST_WINDOW_BYTES, choose_lookahead, most_window_bytes, window_batch_bytes


def choose(wanted=None, **changed):
    usual = {"least": 2, "slots": 1000, "rows": 10_000, "unique": 90, "batch_bytes": 1000, "free_bytes": 10**9}
    return choose_lookahead(wanted, **(usual | changed))


def test_four_turnovers_rounded_up():
    assert choose().batches == 45
    assert choose(unique=100).batches == 40
    assert choose(unique=10**6).batches == 2
    assert choose(unique=0).batches == 4000
    assert not choose().limited


def test_what_the_user_wants_is_taken_as_it_is():
    assert (choose(7).batches, choose(7).window_bytes) == (7, 7000)
    assert choose(10**5).batches == 10**5
    with pytest.raises(MemoryPlanError, match=r"looking 1,000,001 .* 1 GB are available; look at most 1,000,000 ahead"):
        choose(10**6 + 1)
    assert choose(10**6 + 1, free_bytes=None).batches == 10**6 + 1


def test_memory_limits_the_choice():
    batch_bytes = LEAST_WINDOW_BYTES // 10
    chosen = choose(batch_bytes=batch_bytes, free_bytes=LEAST_WINDOW_BYTES)
    assert (chosen.batches, chosen.limited) == (10, True)
    # An eighth of what is free.
    chosen = choose(batch_bytes=batch_bytes, free_bytes=16 * LEAST_WINDOW_BYTES)
    assert (chosen.batches, chosen.limited) == (20, True)
    chosen = choose(batch_bytes=batch_bytes, free_bytes=80 * LEAST_WINDOW_BYTES)
    assert (chosen.batches, chosen.limited) == (45, False)
    assert choose(batch_bytes=batch_bytes, free_bytes=None).batches == 10
    with pytest.raises(MemoryPlanError, match="are available; take smaller batches"):
        choose(batch_bytes=batch_bytes, free_bytes=batch_bytes + 1)


def test_where_all_rows_fit_nothing_ever_leaves():
    assert choose(slots=10_000).batches == 2
    assert choose(slots=10_000, wanted=9).batches == 9


def test_what_a_batch_takes_in_the_window():
    """All its arrays, and 24 + 4 bytes a lookup and 108 + 28 + 8 a unique row beside them."""
    batch = Batch(np.zeros((5, 3), np.float32), np.zeros(20, np.int64), np.zeros(11, np.int64), np.zeros(5, np.float32))
    assert window_batch_bytes(batch, 7) == 60 + 160 + 88 + 20 + 20 * 28 + 7 * 144


@pytest.mark.parametrize("wanted", [None, 7])
@pytest.mark.parametrize("slots", [3, 1000, 10_000])
@pytest.mark.parametrize("free_bytes", [None, 10**8, 10**12])
def test_the_window_takes_no_more_than_was_said_before_a_batch_was_read(wanted, slots, free_bytes):
    largest = 50_000
    usual = {"least": 2, "slots": slots, "rows": 10_000, "free_bytes": free_bytes}
    said = most_window_bytes(wanted, batch_bytes=largest, **usual)
    taken = [
        choose_lookahead(wanted, unique=unique, batch_bytes=batch_bytes, **usual).window_bytes
        for unique in (1, 10, 300)
        for batch_bytes in (100, 4_999, largest)
    ]
    assert max(taken) <= said
    if wanted is not None or slots == 10_000:
        assert said == max(taken)
