"""Progress of evaluation: lines where nobody watches, a bar on a terminal."""

import io

from cupyrec.cli.share_progress import ShareProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_plain_line_at_every_tenth():
    stream = io.StringIO()
    with ShareProgress(stream) as progress:
        for share in (0.0, 0.05, 0.1, 0.12, 0.35, 1.0, 1.0):
            progress.show(share)
    assert stream.getvalue().splitlines() == ["10% done", "30% done", "100% done"]


def test_a_bar_on_a_terminal_that_ends_at_the_whole():
    stream = Terminal()
    with ShareProgress(stream) as progress:
        for share in (0.25, 1.0):
            progress.show(share)
    assert "100%" in stream.getvalue()
    assert "% done" not in stream.getvalue()
