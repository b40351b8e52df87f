"""Rows on disk and back, each with its next use; and disks that are full."""

import errno
import os
import tempfile
from contextlib import nullcontext

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


def test_leaves_no_file(tmp_path):
    with UsageSpool(tmp_path) as spool:
        spool.append(np.arange(5, dtype=np.int32))
        spool.link(np.arange(5, dtype=np.int32), 5)
        # Without a name already while they are used.
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


class FullDisk:
    """A file that takes so many bytes, a few at a time."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, content):
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.file.write(content[: min(7, self.room)])
        self.room -= written
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


@pytest.mark.parametrize(("room", "fails_at"), [(30, "append"), (60, "link"), (400, None)])
def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch, room, fails_at):
    made = []

    def temporary_file(**how):
        made.append(FullDisk(original(**how), room))
        return made[-1]

    original = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)
    with UsageSpool(tmp_path) as spool:
        stage = "append"
        with pytest.raises(OutputError, match="No space left") if fails_at else nullcontext() as failed:
            for _ in range(3):
                spool.append(np.arange(4, dtype=np.int32))
            stage = "link"
            spool.link(np.arange(4, dtype=np.int32), 4)
            stage = None
        assert stage == fails_at
        if failed is not None:
            assert str(tmp_path) in str(failed.value)
            assert "TMPDIR" in str(failed.value)
            assert all(each.file.closed for each in made)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match="none: cannot write the temporary file"):
        UsageSpool(tmp_path / "none")
