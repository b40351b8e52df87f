import gzip
import tempfile
import threading
from pathlib import Path

import criteo_reference
import numpy as np
import pytest
from criteo_files_for_tests import first_integers, make_line, make_lines, write
from criteo_reference import join_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import criteo_texts

from cupyrec.batch import table_offsets
from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.line_chunks import MAX_LINE_BYTES
from cupyrec.errors import ConfigError, DataError, OutputError

TABLE_ROWS = [1, 2, 3, 2**32, 2**50] + [10] * 21
READING = st.fixed_dictionaries(
    {
        "suffix": st.sampled_from(["", ".gz", ".zst"]),
        "chunk_bytes": st.integers(1, 3000),
        "batch_size": st.integers(1, 10),
    }
)


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name == "cupyrec-read-ahead"]


def check_rows(batches, expected, stop=None):
    """The batches hold the first `stop` good rows that the reference found."""
    for batch in batches:
        batch.validate(TABLE_ROWS, 13)
    labels, dense, rows = join_batches(batches)
    np.testing.assert_array_equal(labels, expected.labels[:stop])
    np.testing.assert_array_equal(dense, np.array(expected.dense, np.float32)[:stop].reshape(-1, 13))
    ids = rows - np.array(table_offsets(TABLE_ROWS))[:-1]
    np.testing.assert_array_equal(ids, np.array(expected.ids, np.int64)[:stop].reshape(-1, 26))


@settings(max_examples=60, deadline=None)
@given(criteo_texts(), READING)
def test_good_files_give_what_the_reference_reads(content, reading):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / f"day_0{reading['suffix']}", content)
        source = CriteoFiles(path, hash_rows=TABLE_ROWS, _chunk_bytes=reading["chunk_bytes"])
        batches = list(source.batches(reading["batch_size"]))
        expected = criteo_reference.read(content, TABLE_ROWS)
        assert expected.bad == []
        check_rows(batches, expected)
        assert source.count_lines() == len(expected.labels)
        assert {batch.samples for batch in batches[:-1]} <= {reading["batch_size"]}


@settings(max_examples=120, deadline=None)
@given(criteo_texts(spoilt=True), READING)
def test_the_first_bad_row_is_an_error_with_its_place_after_the_full_batches_before_it(content, reading):
    expected = criteo_reference.read(content, TABLE_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / f"day_0{reading['suffix']}", content)
        source = CriteoFiles(path, hash_rows=TABLE_ROWS, _chunk_bytes=reading["chunk_bytes"])
        delivered = []
        batches = (delivered.append(batch) for batch in source.batches(reading["batch_size"]))
        if not expected.bad:
            list(batches)
            check_rows(delivered, expected)
            return
        line, column, _ = expected.bad[0]
        with pytest.raises(DataError, match="leave bad rows out with --on-bad-row skip") as raised:
            list(batches)
    assert (raised.value.path, raised.value.line, raised.value.column) == (path, line, column)
    assert "\n" not in str(raised.value)
    assert {batch.samples for batch in delivered} <= {reading["batch_size"]}
    full_batches = (line - 1) // reading["batch_size"]
    check_rows(delivered, expected, full_batches * reading["batch_size"])
    assert len(delivered) == full_batches


@settings(max_examples=120, deadline=None)
@given(criteo_texts(spoilt=True), READING)
def test_bad_rows_can_be_left_out_and_are_written_once(content, reading):
    expected = criteo_reference.read(content, TABLE_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / f"day_0{reading['suffix']}", content)
        bad_path = Path(folder) / "bad.tsv"
        source = CriteoFiles(
            path,
            hash_rows=TABLE_ROWS,
            on_bad_row="skip",
            bad_rows_path=bad_path,
            _chunk_bytes=reading["chunk_bytes"],
        )
        for _ in range(2):
            if expected.labels:
                check_rows(list(source.batches(reading["batch_size"])), expected)
            else:
                with pytest.raises(DataError, match="no row of Criteo data"):
                    list(source.batches(reading["batch_size"]))
        assert source.bad_rows == len(expected.bad)
        assert bad_path.exists() == bool(expected.bad)
        written = bad_path.read_bytes().split(b"\n")[:-1] if expected.bad else []
    fields = [line.split(b"\t", 3) for line in written]
    assert [(int(number), text) for _, number, _, text in fields] == [(n, text) for n, _, text in expected.bad]
    assert {file for file, _, _, _ in fields} <= {str(path).encode()}


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    suffixes=st.lists(st.sampled_from(["", ".gz", ".zst"]), min_size=4, max_size=4),
    share=st.floats(0.01, 0.99),
    batch_size=st.integers(1, 20),
    chunk_bytes=st.integers(50, 5000),
)
def test_head_and_tail_are_the_whole_across_files(lengths, suffixes, share, batch_size, chunk_bytes):
    total = sum(lengths)
    with tempfile.TemporaryDirectory() as folder:
        begin = 0
        for index, length in enumerate(lengths):
            content = make_lines(begin, begin + length).removesuffix(b"\n")
            write(Path(folder) / f"day_{index + 9}{suffixes[index]}", content)
            begin += length
        source = CriteoFiles(folder, _chunk_bytes=chunk_bytes)
        assert source.count_lines() == total
        tail_lines = round(share * total)
        if tail_lines in (0, total):
            with pytest.raises(ConfigError, match="leaves one part empty"):
                source.split_tail(share)
            return
        head, tail = source.split_tail(share)
        assert (head.count_lines(), tail.count_lines()) == (total - tail_lines, tail_lines)
        assert first_integers(head.batches(batch_size)) == list(range(total - tail_lines))
        assert first_integers(tail.batches(batch_size)) == list(range(total - tail_lines, total))
        assert first_integers(source.batches(batch_size)) == list(range(total))


def test_a_part_can_be_split_again(tmp_path):
    source = CriteoFiles(write(tmp_path / "day_0", make_lines(0, 20)))
    head, tail = source.split_tail(0.5)[1].split_tail(0.2)
    assert first_integers(head.batches(3)) == list(range(10, 18))
    assert first_integers(tail.batches(3)) == [18, 19]


def test_parts_count_their_bad_rows_together_and_keep_line_numbers(tmp_path):
    content = make_lines(0, 3) + b"bad\n" + make_lines(4, 8) + b"worse\n" + make_lines(9, 10)
    path, bad_path = write(tmp_path / "day_0", content), tmp_path / "bad.tsv"
    source = CriteoFiles(path, on_bad_row="skip", bad_rows_path=bad_path)
    head, tail = source.split_tail(0.5)
    assert first_integers(tail.batches(2)) == [5, 6, 7, 9]
    assert (source.bad_rows, head.bad_rows, tail.bad_rows) == (1, 1, 1)
    assert first_integers(head.batches(2)) == [0, 1, 2, 4]
    assert first_integers(source.batches(2)) == [0, 1, 2, 4, 5, 6, 7, 9]
    assert source.bad_rows == 2
    assert [line.split(b"\t")[1] for line in bad_path.read_bytes().splitlines()] == [b"9", b"4"]


def test_a_bad_row_in_a_later_file_is_placed_in_that_file(tmp_path):
    write(tmp_path / "day_2", make_lines(0, 4))
    later = write(tmp_path / "day_10.gz", make_lines(4, 5) + make_line(5, c20=b"xyz"))
    with pytest.raises(DataError) as raised:
        list(CriteoFiles(f"{tmp_path}/day_*").batches(100))
    assert str(raised.value) == (
        f"{later}, line 2, column 20: expected at most 16 hexadecimal digits, or a blank, and found 'xyz'; "
        "correct it, or leave bad rows out with --on-bad-row skip"
    )


@pytest.mark.parametrize("chunk_bytes", [300, 1 << 20])
@pytest.mark.parametrize("garbage", [b"1\t\0\n", b"x" * (MAX_LINE_BYTES + 1) + b"\n"])
def test_garbage_is_an_error_even_where_bad_rows_are_left_out(tmp_path, garbage, chunk_bytes):
    path = write(tmp_path / "day_0", make_lines(0, 3) + b"bad\n" + make_lines(4, 5) + garbage + make_lines(6, 9))
    source = CriteoFiles(path, on_bad_row="skip", _chunk_bytes=chunk_bytes)
    delivered = []
    with pytest.raises(DataError, match="does not look like Criteo TSV data") as raised:
        delivered.extend(source.batches(1))
    assert raised.value.line == 6
    assert first_integers(delivered) == [0, 1, 2, 4]
    assert source.bad_rows == 1


def test_a_truncated_file_is_an_error_even_where_bad_rows_are_left_out(tmp_path):
    path = tmp_path / "day_0.gz"
    path.write_bytes(gzip.compress(make_lines(0, 50))[:-20])
    with pytest.raises(DataError, match="truncated or damaged"):
        list(CriteoFiles(path, on_bad_row="skip").batches(2))


def test_a_part_without_a_good_row_is_an_error(tmp_path):
    path = write(tmp_path / "day_0", make_lines(0, 8) + b"bad\nbad\n")
    _, tail = CriteoFiles(path, on_bad_row="skip").split_tail(0.2)
    with pytest.raises(DataError, match="no row of Criteo data in 2 lines"):
        list(tail.batches(2))


def test_bad_rows_that_cannot_be_written_end_the_reading(tmp_path):
    path = write(tmp_path / "day_0", make_lines(0, 3) + b"bad\n")
    source = CriteoFiles(path, on_bad_row="skip", bad_rows_path=tmp_path / "missing" / "bad.tsv")
    with pytest.raises(OutputError, match="cannot be written"):
        list(source.batches(2))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("split", [False, True])
def test_progress_rises_to_1_and_is_told_before_each_batch(tmp_path, suffix, split):
    write(tmp_path / f"day_0{suffix}", make_lines(0, 400))
    write(tmp_path / f"day_1{suffix}", make_lines(400, 800))
    source = CriteoFiles(tmp_path, _chunk_bytes=5000)
    if split:
        source, _ = source.split_tail(0.25)
    told, seen = [], []
    for _ in source.batches(50, on_progress=told.append):
        seen.append(told[-1])
    assert seen == told[:-1]
    assert told == sorted(told)
    assert told[-2:] == [1, 1]
    # Files as small as these are decompressed in one go: their bytes are all read with the first line.
    coarse = suffix and not split
    np.testing.assert_allclose(seen, np.linspace(0, 1, len(seen) + 1)[1:], atol=0.5 if coarse else 0.05)


def test_passes_are_alike_and_may_run_side_by_side(tmp_path):
    source = CriteoFiles(write(tmp_path / "day_0", make_lines(0, 30)), _chunk_bytes=700)
    first, second = source.batches(4), source.batches(7)
    taken = [next(first), next(second)]
    assert first_integers([taken[0], *first]) == list(range(30))
    assert first_integers([taken[1], *second]) == list(range(30))


def test_closing_early_ends_the_reading_thread(tmp_path):
    path = write(tmp_path / "day_0", make_lines(0, 3000))
    batches = CriteoFiles(path, _chunk_bytes=500).batches(1)
    next(batches)
    assert len(reading_threads()) == 1
    batches.close()
    assert reading_threads() == []


def test_an_error_in_the_consumer_ends_the_reading_thread(tmp_path):
    path = write(tmp_path / "day_0", make_lines(0, 3000))

    def train():
        for _ in CriteoFiles(path, _chunk_bytes=500).batches(1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert reading_threads() == []


def test_the_reader_says_what_it_reads(tmp_path):
    path = write(tmp_path / "day_0", make_lines(0, 3))
    source = CriteoFiles(str(path), hash_rows=7)
    assert (source.files, source.table_rows, source.dense_features) == ((path,), (7,) * 26, 13)
    assert CriteoFiles([path], hash_rows=np.arange(1, 27)).table_rows == tuple(range(1, 27))
    assert CriteoFiles([path]).table_rows == (100_000,) * 26


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"hash_rows": 0}, "the rows of a table must be a whole number from 1 on, but is 0"),
        ({"hash_rows": 1.5}, "the rows of a table must be a whole number"),
        ({"hash_rows": [5] * 25}, "one number of rows for all tables or 26 of them, and found 25"),
        ({"hash_rows": [5] * 25 + [-1]}, "must be a whole number from 1 on, but is -1"),
        ({"hash_rows": 2**60}, "can be numbered"),
        ({"on_bad_row": "ignore"}, "on_bad_row must be 'error' or 'skip', but is 'ignore'"),
        ({"bad_rows_path": "day_0"}, "would overwrite the input file day_0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path, monkeypatch, settings, reason):
    monkeypatch.chdir(tmp_path)
    write(Path("day_0"), make_lines(0, 1))
    with pytest.raises(ConfigError, match=reason):
        CriteoFiles("day_0", **settings)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_batch_size_below_1_is_refused_at_once(tmp_path, batch_size):
    source = CriteoFiles(write(tmp_path / "day_0", make_lines(0, 1)))
    with pytest.raises(ConfigError, match="the batch size must be a whole number from 1 on"):
        source.batches(batch_size)


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, float("nan"), "0.1"])
def test_a_share_outside_0_and_1_is_refused(tmp_path, share):
    source = CriteoFiles(write(tmp_path / "day_0", make_lines(0, 3)))
    with pytest.raises(ConfigError, match="must be a number between 0 and 1"):
        source.split_tail(share)
