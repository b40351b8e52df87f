import gzip

import pytest
from criteo_files_for_tests import compress, write
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cupyrec.datasets import line_chunks as module
from cupyrec.datasets.line_chunks import MAGIC_NUMBERS, MAX_LINE_BYTES, LineCount, count_lines, line_chunks
from cupyrec.errors import DataError

SUFFIXES = ["", ".gz", ".zst"]


def read(path, **options):
    """All lines, after a check that the chunks know their place."""
    text = b""
    chunks = list(line_chunks(path, **options))
    for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
        assert chunk.data.endswith(b"\n")
        assert chunk.lines == chunk.data.count(b"\n") > 0
        assert 0 < chunk.bytes_read <= path.stat().st_size
        if following is not None:
            assert following.first_line == chunk.first_line + chunk.lines
            assert following.offset == chunk.offset + len(chunk.data)
            assert following.bytes_read >= chunk.bytes_read
        text += chunk.data
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lines")


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\0", b"").replace(b"\n", b"")), min_size=1),
    ends=st.booleans(),
    suffix=st.sampled_from(SUFFIXES),
    chunk_bytes=st.integers(1, 40),
    cut=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
@example(lines=[MAGIC_NUMBERS[".zst"]], ends=True, suffix=".gz", chunk_bytes=3, cut=(0, 0))
@example(lines=[b"a", b"\r", b"", b"b\r", b"\r", b""], ends=True, suffix="", chunk_bytes=1, cut=(0, 4))
@example(lines=[b"a", b"b\r"], ends=False, suffix="", chunk_bytes=3, cut=(0, 0))
def test_any_range_of_lines_comes_whole_whatever_the_chunks(folder, lines, ends, suffix, chunk_bytes, cut):
    content = b"\n".join(lines) + b"\n" * (ends or lines[-1] == b"")
    # Plain content that looks compressed is refused: a test below.
    assume(suffix or not content.startswith(tuple(MAGIC_NUMBERS.values())))
    path = write(folder / f"any{suffix}", content)
    while lines and lines[-1].strip(b"\r") == b"":
        lines.pop()
    if not lines:
        with pytest.raises(DataError, match="the file is empty"):
            read(path, chunk_bytes=chunk_bytes)
        return
    assert read(path, chunk_bytes=chunk_bytes) == b"".join(line + b"\n" for line in lines)
    assert count_lines(path, chunk_bytes=chunk_bytes).lines == len(lines)
    start, stop = min(cut), min(max(cut) + 1, len(lines))
    if start < stop:
        part = read(path, start_line=start, stop_line=stop, chunk_bytes=chunk_bytes)
        assert part == b"".join(line + b"\n" for line in lines[start:stop])
        assert next(line_chunks(path, start_line=start, chunk_bytes=chunk_bytes)).first_line == start


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_members_of_a_compressed_file_are_read_wholly(tmp_path, suffix):
    path = tmp_path / f"two{suffix}"
    path.write_bytes(compress(b"a\nb", suffix) + compress(b"", suffix) + compress(b"c\nd\n", suffix))
    assert read(path) == b"a\nbc\nd\n"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_has_been_read_is_told_in_bytes_as_stored(tmp_path, suffix):
    path = write(tmp_path / f"file{suffix}", b"0123456\n" * 30_000)
    positions = [chunk.bytes_read for chunk in line_chunks(path, chunk_bytes=1 << 16)]
    assert len(positions) == 4
    assert positions[-1] == path.stat().st_size


def test_counting_a_plain_file_leaves_marks_to_seek_to(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MARK_BYTES", 100)
    content = b"".join(b"line %d\n" % number for number in range(200))
    path = write(tmp_path / "plain", content)
    count = count_lines(path, chunk_bytes=40)
    assert count.lines == 200
    assert len(count.marks) > 5
    for line, offset in count.marks:
        assert content[offset:].startswith(b"line %d\n" % line)
    mark = count.mark_before(150)
    assert 100 < mark[0] <= 150
    # What lies before the mark is not looked at: this NUL byte would be refused.
    path.write_bytes(b"\0" + content[1:])
    part = read(path, start_line=150, stop_line=160, mark=mark, chunk_bytes=40)
    assert part == b"".join(b"line %d\n" % number for number in range(150, 160))


def test_the_mark_before_a_line_is_the_last_one():
    count = LineCount(100, ((10, 1000), (20, 2000)))
    assert [count.mark_before(line) for line in (0, 9, 10, 19, 20, 99)] == [
        *[(0, 0)] * 2,
        *[(10, 1000)] * 2,
        *[(20, 2000)] * 2,
    ]


def test_a_compressed_file_has_no_marks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MARK_BYTES", 10)
    assert count_lines(write(tmp_path / "a.gz", b"line\n" * 50), chunk_bytes=16) == LineCount(50)


@pytest.mark.parametrize("chunk_bytes", [3, 1000, 1 << 20])
@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"ab\0c\n", "it has NUL bytes"),
        (b"\0", "it has NUL bytes"),
        (b"x" * (MAX_LINE_BYTES + 1), f"a line is longer than {MAX_LINE_BYTES} bytes"),
    ],
)
def test_garbage_is_refused_with_its_line_after_the_lines_before_it(tmp_path, garbage, reason, chunk_bytes):
    if chunk_bytes == 3 and len(garbage) > 100:
        chunk_bytes = 300
    path = write(tmp_path / "file", b"one\ntwo\n" + garbage)
    seen = []
    lines = (seen.append(chunk.data) for chunk in line_chunks(path, chunk_bytes=chunk_bytes))
    with pytest.raises(DataError, match=f"does not look like Criteo TSV data: {reason}") as raised:
        list(lines)
    assert b"".join(seen) == b"one\ntwo\n"
    assert (raised.value.path, raised.value.line, raised.value.column) == (path, 3, None)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "halved", "overwritten"])
def test_a_damaged_compressed_file_is_said_to_be_damaged(tmp_path, suffix, damage):
    path = tmp_path / f"file{suffix}"
    whole = compress(b"".join(b"%x\n" % (number**9) for number in range(5000)), suffix)
    middle = len(whole) // 2
    path.write_bytes(
        {
            "truncated": whole[:-1],
            "halved": whole[:middle],
            "overwritten": whole[:4] + b"\xff" * 40 + whole[44:],
        }[damage]
    )
    with pytest.raises(DataError, match="file is truncated or damaged") as raised:
        read(path)
    assert raised.value.path == path
    assert "\n" not in str(raised.value)


def test_bytes_changed_inside_a_gzip_file_are_found_by_its_checksum(tmp_path):
    stored = bytearray(gzip.compress(b"0123456789\n" * 3, compresslevel=0))
    stored[20] ^= 1
    path = tmp_path / "file.gz"
    path.write_bytes(stored)
    with pytest.raises(DataError, match="truncated or damaged"):
        read(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_with_a_plain_name_is_told_apart(tmp_path, suffix):
    path = tmp_path / "day_0"
    path.write_bytes(compress(b"0\t1\n" * 10, suffix))
    with pytest.raises(DataError, match=f"is compressed, but its name does not end in {suffix}"):
        read(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_plain_file_with_a_compressed_name_is_told_apart(tmp_path, suffix):
    path = tmp_path / f"day_0{suffix}"
    path.write_bytes(b"0\t1\n" * 10)
    with pytest.raises(DataError, match=f"its name ends in {suffix}, but .*: rename it if it is not compressed"):
        read(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_blank_lines_count_unless_nothing_follows_them(tmp_path, suffix):
    blanks = b"\n" * (MAX_LINE_BYTES - 9)
    path = write(tmp_path / f"file{suffix}", b"1\n\n2\n" + blanks)
    assert (read(path), count_lines(path)) == (b"1\n\n2\n", LineCount(3))
    write(path, b"1\n" + blanks + b"2")
    assert (read(path, chunk_bytes=999), count_lines(path).lines) == (b"1\n" + blanks + b"2\n", len(blanks) + 2)
    # More than a line may have are not kept waiting.
    write(path, b"1\n" + blanks * 3)
    assert len(read(path, chunk_bytes=999)) > len(blanks)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_nothing_is_an_empty_file(tmp_path, suffix):
    path = write(tmp_path / f"file{suffix}", b"")
    with pytest.raises(DataError, match="the file is empty"):
        count_lines(path)


def test_a_file_that_is_gone_or_has_become_shorter_is_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "gone")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "gone.gz")
    path = write(tmp_path / "file", b"1\n2\n")
    with pytest.raises(DataError, match="has 2 lines, but had at least 3"):
        read(path, start_line=1, stop_line=3)


def test_an_error_without_a_text_is_told_all_the_same(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError

    monkeypatch.setattr(module.pa, "OSFile", fail)
    with pytest.raises(DataError, match=r"cannot be read: OSError\(\)"):
        read(write(tmp_path / "file", b"1\n"))


def test_closing_early_closes_the_file(tmp_path):
    path = write(tmp_path / "file.gz", b"1\n" * 100)
    chunks = line_chunks(path, chunk_bytes=10)
    assert next(chunks).lines == 5
    chunks.close()
    with pytest.raises(StopIteration):
        next(chunks)
