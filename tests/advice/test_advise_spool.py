"""Rows on disk and back, each with its next use."""

import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.advice.spool import UsageSpool
from cupyrec.errors import OutputError
from cupyrec.pipeline.offline_optimum import next_uses_of


@given(batches=st.lists(st.lists(st.integers(0, 9), unique=True, max_size=6), max_size=12), dropped=st.integers(-1, 9))
def test_gives_back_what_is_kept_with_its_next_use(batches, dropped):
    # Ids are met in any order; row numbers are their places among those that are kept, here from the last id down.
    kept = [each for each in reversed(range(10)) if each != dropped]
    numbers = np.array([kept.index(each) if each in kept else -1 for each in range(10)], np.int32)
    renumbered = [np.array([kept.index(each) for each in batch if each in kept], np.int64) for batch in batches]
    with UsageSpool() as spool:
        for batch in batches:
            spool.append(np.array(batch, np.int32))
        spool.link(numbers, len(kept))
        for _ in range(2):
            found = list(spool.batches())
            assert [rows.tolist() for rows, _ in found] == [rows.tolist() for rows in renumbered]
            next_uses = next_uses_of(renumbered, len(kept))
            assert [uses.tolist() for _, uses in found] == [uses.tolist() for uses in next_uses]
            assert all(each.dtype == np.int64 for pair in found for each in pair)
        assert spool.batches_taken == len(batches)
        assert spool.most_unique == max(map(len, renumbered), default=0)


def test_leaves_no_file_open(tmp_path, monkeypatch):
    made, original = [], tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **how: made.append(original(**how)) or made[-1])
    with UsageSpool() as spool:
        spool.append(np.arange(5, dtype=np.int32))
        spool.link(np.arange(5, dtype=np.int32), 5)
    assert [file.closed for file in made] == [True, True]


def test_where_it_cannot_be_written_it_says_what_else_can_be_done(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(
        OutputError,
        match=r"none: cannot write the temporary file of row numbers .* TMPDIR, or read fewer steps \(--max-steps\)",
    ):
        UsageSpool()
