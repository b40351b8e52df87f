import pytest
from criteo_files_for_tests import write

from cupyrec.datasets import file_lines as module
from cupyrec.datasets.file_lines import FileLines
from cupyrec.errors import DataError


@pytest.fixture
def files(tmp_path):
    """Lines 0 to 19 in files of 8, 1, 6 and 5."""
    return [
        write(tmp_path / name, b"".join(b"%d\n" % number for number in numbers).removesuffix(b"\n"))
        for name, numbers in (
            ("a", range(8)),
            ("b.gz", range(8, 9)),
            ("c", range(9, 15)),
            ("d.zst", range(15, 20)),
        )
    ]


def numbers(lines):
    return [int(line) for _, chunk, _ in lines.chunks() for line in chunk.data.split()]


def test_all_lines_of_all_files_follow_each_other(files):
    lines = FileLines(files, chunk_bytes=5)
    assert numbers(lines) == list(range(20))
    assert lines.count() == 20
    assert list(dict.fromkeys(file for file, _, _ in lines.chunks())) == files


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1000])
def test_every_split_and_split_of_a_split_has_its_lines(files, chunk_bytes):
    lines = FileLines(files, chunk_bytes=chunk_bytes)
    for at in range(1, 20):
        head, tail = lines.split(at)
        assert (head.count(), tail.count()) == (at, 20 - at)
        assert (numbers(head), numbers(tail)) == (list(range(at)), list(range(at, 20)))
    head, tail = lines.split(5)[1].split(10)
    assert (numbers(head), numbers(tail)) == (list(range(5, 15)), list(range(15, 20)))


def test_files_are_counted_once_and_only_those_of_a_part_are_opened(files, monkeypatch):
    head, tail = FileLines(files).split(12)
    for file in files[:2]:
        file.unlink()
    assert numbers(tail) == list(range(12, 20))
    monkeypatch.setattr(module, "count_lines", None)
    assert head.split(3)[1].count() == 9


def test_a_part_begins_at_the_last_mark_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr("cupyrec.datasets.line_chunks.MARK_BYTES", 20)
    file = write(tmp_path / "plain", b"".join(b"%02d\n" % number for number in range(50)))
    _, tail = FileLines([file], chunk_bytes=9).split(40)
    # Were the start of the file read, its NUL byte would be refused.
    file.write_bytes(b"\0" + file.read_bytes()[1:])
    assert numbers(tail) == list(range(40, 50))


@pytest.mark.parametrize("split", [None, 13])
def test_the_share_read_rises_to_1(files, split):
    lines = FileLines(files, chunk_bytes=4)
    for part in (lines,) if split is None else lines.split(split):
        shares = [share for _, _, share in part.chunks()]
        assert shares == sorted(shares)
        assert shares[0] < 0.5
        assert shares[-1] == 1


def test_a_file_that_lost_lines_since_the_count_is_an_error(files):
    _, tail = FileLines(files).split(10)
    files[2].write_bytes(b"9\n10\n11\n")
    with pytest.raises(DataError, match="has 3 lines, but had at least 6 when they were counted"):
        numbers(tail)


def test_an_empty_file_among_others_is_an_error(files, tmp_path):
    nothing = write(tmp_path / "e.gz", b"")
    with pytest.raises(DataError, match=r"e\.gz: the file is empty"):
        numbers(FileLines([*files, nothing]))


def test_a_file_that_is_gone_is_an_error(files):
    lines = FileLines(files)
    assert len(numbers(lines)) == 20
    files[2].unlink()
    with pytest.raises(DataError, match=r"c: cannot be read: No such file"):
        numbers(lines)
