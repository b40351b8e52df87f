"""Files spoilt at random, and what must come of them: they are read, or refused by an error of ours, in one line."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from cupyrec.errors import CupyrecError


@st.composite
def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with a piece gone, changed, doubled or put in, a few times."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.sampled_from([0, 1, 1, 2, 20, len(content)])))
        piece = content[start:stop]
        new = {
            "gone": b"",
            "flipped": bytes(byte ^ 1 for byte in piece),
            "doubled": piece * 2,
            "bytes": draw(st.binary(max_size=8)),
            "text": draw(st.sampled_from([b"-1", b"1e400", b"9" * 30, b"null", b"[]", b'"', b"\n", b"\t", b"\0"])),
        }
        content = content[:start] + new[draw(st.sampled_from(sorted(new)))] + content[stop:]
    return content


def check_read_or_refused(data: st.DataObject, whole: Path, file: str, read: Callable[[Path], object]) -> None:
    """Read a copy of a folder in which one file is spoilt, or not, and then it must be read. read: gets the folder."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "copy"
        shutil.copytree(whole, folder)
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(data.draw(st.one_of(st.just(content), spoilt(content))))
        refused = None
        try:
            read(folder)
        except CupyrecError as error:
            refused = str(error)
        if refused is not None:
            assert "\n" not in refused
            assert (folder / file).read_bytes() != content, refused
