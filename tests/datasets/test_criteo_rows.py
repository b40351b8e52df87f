import criteo_reference
import numpy as np
import pytest
from criteo_files_for_tests import make_line, make_lines
from hypothesis import example, given, settings
from strategies import criteo_texts

from cupyrec.batch import table_offsets
from cupyrec.datasets.criteo_rows import ParsedRows, parse_rows
from cupyrec.datasets.preparing.raw_criteo import parse_raw_rows

TABLE_ROWS = (*range(1, 26), 2**40)


def check_against_reference(text):
    parsed, bad_lines = parse_rows(text, TABLE_ROWS)
    expected = criteo_reference.read(text, TABLE_ROWS, whole_file=False)
    assert parsed.labels.tolist() == expected.labels
    np.testing.assert_array_equal(parsed.dense, np.array(expected.dense, np.float32).reshape(-1, 13))
    ids = parsed.rows - np.array(table_offsets(TABLE_ROWS))[:-1, None]
    np.testing.assert_array_equal(ids.T, np.array(expected.ids, np.int64).reshape(-1, 26))
    assert [(bad.line + 1, bad.column, bad.text) for bad in bad_lines] == expected.bad
    return bad_lines


@settings(max_examples=50, deadline=None)
@given(criteo_texts())
def test_good_lines_agree_with_the_reference(text):
    assert check_against_reference(text.removesuffix(b"\n") + b"\n") == []


@settings(max_examples=200, deadline=None)
@given(criteo_texts(spoilt=True))
def test_spoilt_lines_agree_with_the_reference(text):
    check_against_reference(text.removesuffix(b"\n") + b"\n")


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        (b"\n", None, "expected 40 columns separated by tabs and found an empty line"),
        (b"\r\n", None, "expected 40 columns separated by tabs and found an empty line"),
        (b"0,1,2\n", None, "expected 40 columns separated by tabs and found 1"),
        (b"0" + b"\t" * 40 + b"\n", None, "expected 40 columns separated by tabs and found 41"),
        (
            b"5" + b"\t" * 38 + b"\n",
            None,
            "and found 39 (without labels? prepare and predict take such files with --no-labels)",
        ),
        (make_line(1, c1=b"2"), 1, "expected a label of 0 or 1 and found '2'"),
        (make_line(1, c1=b""), 1, "expected a label of 0 or 1 and found ''"),
        (make_line(1, c9=b"1.5", c20=b"x"), 9, "expected an integer of at most 19 digits and 64 bits"),
        (make_line(1, c14=b" 3"), 14, "or a blank, and found ' 3'"),
        (make_line(1, c15=b"0x1"), 15, "expected at most 16 hexadecimal digits, or a blank, and found '0x1'"),
        (make_line(1, c39=b"\xff\r"), 39, r"and found '\xff\r'"),
        (make_line(1, c40=b"g" * 99), 40, f"and found '{'g' * 40}...'"),
        (b"\xef\xbb\xbf" + make_line(1), 1, r"expected a label of 0 or 1 and found '\ufeff1'"),
    ],
)
@pytest.mark.parametrize("before", [0, 3])
def test_a_bad_line_says_what_was_expected_and_what_is_there(line, column, reason, before):
    (bad,) = check_against_reference(make_lines(0, before) + line + make_lines(5, 7))
    assert (bad.line, bad.column) == (before, column)
    assert reason in bad.reason
    assert not set("\t\r\n") & set(bad.reason)


def test_lines_that_are_all_bad_leave_no_rows():
    assert len(check_against_reference(b"\n\na\tb\n")) == 3
    assert len(parse_rows(b"a\tb\n", TABLE_ROWS)[0]) == 0


def test_columns_of_blanks_count_as_0():
    check_against_reference((b"1" + b"\t" * 39 + b"\n") * 3)
    parsed, _ = parse_rows(b"1" + b"\t" * 39 + b"\n", TABLE_ROWS)
    assert not parsed.dense.any()
    np.testing.assert_array_equal(parsed.rows[:, 0], table_offsets(TABLE_ROWS)[:-1])


def test_some_rows_are_taken_from_all_three_arrays():
    rows = ParsedRows(np.arange(6.0).reshape(3, 2), np.arange(6).reshape(2, 3), np.arange(3.0))
    assert len(rows) == 3
    part = rows[1:]
    assert part.dense.tolist() == [[2, 3], [4, 5]]
    assert part.rows.tolist() == [[1, 2], [4, 5]]
    assert part.labels.tolist() == [1, 2]
    assert np.shares_memory(part.rows, rows.rows)
    assert rows[np.array([True, False, True])].labels.tolist() == [0, 2]


@settings(max_examples=60, deadline=None)
@given(criteo_texts(spoilt=True))
@example(b"0\t" + make_line(1) + b"\n\r\n\t\n0\t" + make_line(2) + make_line(3, c3=b"x", c40=b"y"))
def test_rows_without_labels_are_those_of_the_reference_with_the_label_0(labelled):
    lines = [line.partition(b"\t")[2] for line in (labelled.removesuffix(b"\n") + b"\n").split(b"\n")[:-1]]
    text = b"".join(line + b"\n" for line in lines)
    expected = criteo_reference.read(b"".join(b"0\t%s\n" % line for line in lines), TABLE_ROWS)
    for parsed, bad_lines in (
        parse_rows(text, TABLE_ROWS, labelled=False),
        parse_raw_rows(text, "dlrm", labelled=False),
    ):
        assert parsed.labels.tolist() == [0.0] * len(expected.labels)
        np.testing.assert_array_equal(parsed.dense, np.array(expected.dense, np.float32).reshape(-1, 13))
        assert [(bad.line + 1, bad.column, bad.text) for bad in bad_lines] == [
            (line, column and column - 1, text[2:]) for line, column, text in expected.bad
        ]
    ids = parse_rows(text, TABLE_ROWS, labelled=False)[0].rows - np.array(table_offsets(TABLE_ROWS))[:-1, None]
    np.testing.assert_array_equal(ids.T, np.array(expected.ids, np.int64).reshape(-1, 26))


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        (b"\n", None, "expected 39 columns separated by tabs and found an empty line"),
        (
            make_line(1),
            None,
            "expected 39 columns separated by tabs and found 40 (with labels? then leave out --no-labels)",
        ),
        (
            b"1.5" + b"\t" * 38 + b"\n",
            1,
            "expected an integer of at most 19 digits and 64 bits, or a blank, and found '1.5'",
        ),
        (b"\t" * 38 + b"x\r\n", 39, "expected at most 16 hexadecimal digits, or a blank, and found 'x'"),
    ],
)
def test_a_bad_line_without_a_label_says_so(line, column, reason):
    (bad,) = parse_rows(b"\t" * 38 + b"\n" + line, TABLE_ROWS, labelled=False)[1]
    assert (bad.line, bad.column, bad.reason) == (1, column, reason)
