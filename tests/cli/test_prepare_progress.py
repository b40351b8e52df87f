"""What `cupyrec prepare` shows when nobody watches a terminal."""

import io

import pytest

from cupyrec.cli.prepare_progress import PrepareProgress


@pytest.mark.parametrize(("shards", "text"), [(1, "1 shard"), (1234, "1,234 shards")])
def test_shards_that_are_read_again_are_a_line(shards, text):
    stream = io.StringIO()
    with PrepareProgress(stream, clock=iter(range(9)).__next__) as progress:
        progress.show_rebuild(shards)
        progress.show(0.55, 100)
        progress.show(0.6, 150)
    assert stream.getvalue() == f"reading {text} again, to go on\n60% done, 150 rows, 50 rows/s\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal_that_begins_when_it_is_known_how_much_is_done():
    stream = Terminal()
    with PrepareProgress(stream, clock=iter(range(9)).__next__) as progress:
        progress.show_rebuild(2)
        assert stream.getvalue() == "reading 2 shards again, to go on\n"
        progress.show(0.55, 100)
        progress.show(1.0, 150)
    assert "100% |" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("left  150 rows, 50 rows/s")
