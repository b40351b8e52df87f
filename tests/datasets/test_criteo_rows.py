import math

import criteo_reference
import numpy as np
import pytest
from criteo_files_for_tests import make_line, make_lines
from hypothesis import example, given, settings
from strategies import criteo_texts

from cupyrec.datasets.criteo_rows import parse_rows

NO_MODULO = [2**64] * 26


def check_good_rows(parsed, expected):
    assert parsed.labels.tolist() == expected.labels
    np.testing.assert_array_equal(parsed.dense, np.array(expected.dense, np.float32).reshape(-1, 13))
    assert parsed.dense.flags.c_contiguous
    assert parsed.keys.dtype == np.uint64
    assert parsed.keys.flags.c_contiguous
    assert parsed.keys.T.tolist() == expected.ids


def check_against_reference(text):
    parsed, bad_lines = parse_rows(text, "dlrm")
    expected = criteo_reference.read(text, NO_MODULO, whole_file=False)
    check_good_rows(parsed, expected)
    assert parsed.negatives.tolist() == (parse_rows(text, "none")[0].dense < 0).sum(axis=0).tolist()
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


@pytest.mark.parametrize("text", [b"\n\na\tb\n", b"a\tb\n", b"1" + b"\t" * 39 + b"\n", make_lines(0, 1000)])
def test_no_row_blanks_and_many_rows(text):
    check_against_reference(text)


def test_a_byte_order_mark_makes_any_line_bad():
    marked = b"\xef\xbb\xbf" + make_line(1)
    assert [bad.line for bad in check_against_reference(b"\n" + marked + make_line(2) + marked)] == [0, 1, 3]


def test_integers_without_a_result_make_a_line_bad():
    text = (
        make_line(1, c3=b"-2")
        + make_line(2, c3=b"-3", c9=b"x", c30=b"x")
        + make_line(3, c3=b"x", c4=b"-9")
        + make_line(4, c5=b"")
    )
    parsed, bad_lines = parse_rows(text, "nvidia")
    assert [(bad.line, bad.column, bad.reason) for bad in bad_lines] == [
        (1, 3, "expected an integer greater than -3 for --dense-transform nvidia (none takes any), and found '-3'"),
        (2, 3, "expected an integer of at most 19 digits and 64 bits, or a blank, and found 'x'"),
    ]
    assert parsed.labels.tolist() == [1, 0]
    assert parsed.negatives.tolist() == [0, 1, *[0] * 11]
    np.testing.assert_allclose(parsed.dense[:, 0], np.log(np.array([1, 4]) + 3.0), rtol=1e-6)
    assert parsed.dense[0, 1] == 0  # -2
    assert parsed.dense[1, 3] == 0  # a blank
    assert parse_rows(make_line(4, c5=b""), "torchrec")[0].dense[0, 3] == np.float32(math.log(3))
    assert [(bad.line, bad.column) for bad in parse_rows(text, "dlrm")[1]] == [(1, 9), (2, 3)]


def test_values_without_a_transform():
    parsed, _ = parse_rows(make_line(1, c2=b"-7", c3=b"", c4=b"16777217"), "none")
    assert parsed.dense[0, :3].tolist() == [-7, 0, 2**24]


@settings(max_examples=60, deadline=None)
@given(criteo_texts(spoilt=True))
@example(b"0\t" + make_line(1) + b"\n\r\n\t\n0\t" + make_line(2) + make_line(3, c3=b"x", c40=b"y"))
def test_rows_without_labels_are_those_of_the_reference_with_the_label_0(labelled):
    lines = [line.partition(b"\t")[2] for line in (labelled.removesuffix(b"\n") + b"\n").split(b"\n")[:-1]]
    text = b"".join(line + b"\n" for line in lines)
    expected = criteo_reference.read(b"".join(b"0\t%s\n" % line for line in lines), NO_MODULO)
    parsed, bad_lines = parse_rows(text, "dlrm", labelled=False)
    check_good_rows(parsed, expected)
    assert [(bad.line + 1, bad.column, bad.text) for bad in bad_lines] == [
        (line, column and column - 1, text[2:]) for line, column, text in expected.bad
    ]


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
    (bad,) = parse_rows(b"\t" * 38 + b"\n" + line, "dlrm", labelled=False)[1]
    assert (bad.line, bad.column, bad.reason) == (1, column, reason)


@pytest.mark.parametrize("line", [b"label,age,city\n", b"1;7;x\r\n"])
def test_csv_is_called_so(line):
    first, second = parse_rows(2 * line, "dlrm")[1]
    assert first.reason == second.reason == "expected 40 columns separated by tabs and found 1 (CSV?)"
    assert first.advice.startswith("CSV is not read: make Parquet of it, as pandas.read_csv(...).to_parquet(...) does")
    # Not the first line: this one may be damaged.
    assert second.advice == "correct it, or leave bad rows out with --on-bad-row skip"
