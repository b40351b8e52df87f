from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.datasets.bad_rows import BadRowLog, _Lines, check_log_file
from cupyrec.datasets.criteo_rows import BadLine
from cupyrec.errors import ConfigError, OutputError

A, B = Path("day_0"), Path("day_1")


def bad(line, text=b"a\tb"):
    return BadLine(line, None, "two cells", text)


def test_writes_file_line_reason_and_text_of_each_bad_row(tmp_path):
    log = BadRowLog(tmp_path / "bad.tsv")
    log.report(A, 0, 10, [bad(0), bad(4, b"\xff\r\tx")])
    log.report(B, 100, 10, [bad(7, b"")])
    assert log.count == 3
    assert (tmp_path / "bad.tsv").read_bytes() == (
        b"day_0\t1\ttwo cells\ta\tb\nday_0\t5\ttwo cells\t\xff\r\tx\nday_1\t108\ttwo cells\t\n"
    )


def test_the_file_is_made_with_the_first_bad_row_and_replaces_an_older_one(tmp_path):
    path = tmp_path / "bad.tsv"
    log = BadRowLog(path)
    log.report(A, 0, 10, [])
    assert not path.exists()
    path.write_text("of an earlier run\n")
    log.report(A, 10, 10, [bad(0)])
    assert path.read_bytes() == b"day_0\t11\ttwo cells\ta\tb\n"


def test_a_row_met_again_is_neither_counted_nor_written(tmp_path):
    log = BadRowLog(tmp_path / "bad.tsv")
    for _ in range(2):
        log.report(A, 0, 5, [bad(1), bad(4)])
        log.report(A, 5, 5, [bad(1)])
    # The same lines in other pieces, and one line that is new.
    log.report(A, 3, 10, [bad(1), bad(3), bad(9)])
    assert log.count == 4
    lines = [line.split(b"\t")[1] for line in (tmp_path / "bad.tsv").read_bytes().splitlines()]
    assert lines == [b"2", b"5", b"7", b"13"]


def test_a_discarded_file_is_gone_and_what_is_none_stays(tmp_path):
    path = tmp_path / "bad.tsv"
    path.write_text("of another")
    log = BadRowLog(path)
    log.discard()
    assert path.read_text() == "of another"  # not one that it has written
    log.report(A, 0, 10, [bad(0)])
    for _ in range(2):
        log.discard()
        assert not path.exists()
    assert (log.count, log.first_reason) == (1, "two cells")
    nowhere = BadRowLog("/dev/null")
    nowhere.report(A, 0, 10, [bad(0)])
    nowhere.discard()
    assert Path("/dev/null").exists()


def test_counts_without_a_file():
    log = BadRowLog()
    log.report(A, 0, 5, [bad(1)])
    log.report(B, 0, 5, [bad(1)])
    assert log.count == 2


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    log = BadRowLog(tmp_path / "missing" / "bad.tsv")
    with pytest.raises(OutputError, match=r"bad\.tsv: the bad rows cannot be written: No such file"):
        log.report(A, 0, 5, [bad(1)])
    assert log.count == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=12))
def test_intervals_are_a_set_of_lines(pieces):
    lines, expected = _Lines(), set()
    for start, length in pieces:
        lines.add(start, start + length)
        expected.update(range(start, start + length))
    assert {line for line in range(50) if line in lines} == expected


def test_reading_in_order_keeps_one_interval():
    lines = _Lines()
    for start in range(0, 1000, 10):
        lines.add(start, start + 10)
    lines.add(500, 700)
    assert lines._intervals == [(0, 1000)]


def test_a_log_file_replaces_no_input_whatever_it_is_called(tmp_path):
    data, link, twin = tmp_path / "data.tsv", tmp_path / "link", tmp_path / "twin"
    data.write_text("rows")
    link.symlink_to(data)
    twin.hardlink_to(data)
    (tmp_path / "below").mkdir()
    for path in (data, link, twin, tmp_path / "below" / ".." / "data.tsv"):
        with pytest.raises(ConfigError, match=r"would overwrite the input file .*data\.tsv; name another"):
            check_log_file(path, [A, data], overwrite=True)


def test_an_older_log_file_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "bad.tsv"
    check_log_file(path, [A], overwrite=False)
    path.write_text("old")
    with pytest.raises(ConfigError, match=r"bad\.tsv: exists; name another file with --bad-rows, or .* --overwrite"):
        check_log_file(path, [A], overwrite=False)
    check_log_file(path, [A], overwrite=True)
    check_log_file(Path("/dev/null"), [A], overwrite=False)


def test_a_log_file_must_have_a_place(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no folder .*none"):
        check_log_file(tmp_path / "none" / "bad.tsv", [], overwrite=True)
    with pytest.raises(ConfigError, match="a folder; name a file"):
        check_log_file(tmp_path, [], overwrite=True)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody may write to")
def test_a_place_that_cannot_be_written_is_told_before_there_is_a_bad_row(tmp_path):
    with pytest.raises(
        OutputError, match=r"^/proc/bad\.tsv: the bad rows cannot be written: .*; name another file with"
    ):
        check_log_file(Path("/proc/bad.tsv"), [], overwrite=False)
    with pytest.raises(OutputError, match=r"^/proc/version: the trace cannot be written: .* another file with --trace"):
        check_log_file(Path("/proc/version"), [], overwrite=True, what="the trace", option="--trace")


def test_what_is_there_is_not_changed_by_trying(tmp_path):
    (tmp_path / "old.tsv").write_text("old")
    for name in ("old.tsv", "new.tsv"):
        check_log_file(tmp_path / name, [], overwrite=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.tsv", "old")]
