import math

import criteo_reference
import numpy as np
import pytest
from criteo_files_for_tests import make_line, make_lines
from hypothesis import given, settings
from strategies import criteo_texts

from cupyrec.datasets.criteo_rows import parse_rows
from cupyrec.datasets.preparing.raw_criteo import CATEGORY_KINDS, CATEGORY_NAMES, DENSE_NAMES, parse_raw_rows

NO_MODULO = [2**64] * 26


def check_against_reference(text):
    parsed, bad_lines = parse_raw_rows(text, "dlrm")
    expected = criteo_reference.read(text, NO_MODULO, whole_file=False)
    assert len(parsed) == len(expected.labels)
    assert parsed.labels.tolist() == expected.labels
    np.testing.assert_array_equal(parsed.dense, np.array(expected.dense, np.float32).reshape(-1, 13))
    assert parsed.dense.flags.c_contiguous
    assert parsed.negatives.tolist() == (parse_raw_rows(text, "none")[0].dense < 0).sum(axis=0).tolist()
    assert len(parsed.columns) == 26
    for number, column in enumerate(parsed.columns):
        assert column.keys.dtype == np.uint64
        assert column.keys.tolist() == [ids[number] for ids in expected.ids]
        assert column.offsets is None
        assert column.texts is None
    _, bad_as_raw_training = parse_rows(text, [1000] * 26)
    assert bad_lines == bad_as_raw_training
    assert [(bad.line + 1, bad.column, bad.text) for bad in bad_lines] == expected.bad
    return bad_lines


@settings(max_examples=50)
@given(criteo_texts())
def test_good_lines_agree_with_the_reference(text):
    assert check_against_reference(text.removesuffix(b"\n") + b"\n") == []


@settings(max_examples=150)
@given(criteo_texts(spoilt=True))
def test_spoilt_lines_agree_with_the_reference(text):
    check_against_reference(text.removesuffix(b"\n") + b"\n")


@pytest.mark.parametrize("text", [b"\n\na\tb\n", b"a\tb\n", b"1" + b"\t" * 39 + b"\n", make_lines(0, 1000)])
def test_no_row_blanks_and_many_rows(text):
    check_against_reference(text)


def test_integers_without_a_result_make_a_line_bad():
    text = make_line(1, c3=b"-2") + make_line(2, c3=b"-3") + make_line(3, c3=b"x", c4=b"-9") + make_line(4, c5=b"")
    parsed, bad_lines = parse_raw_rows(text, "nvidia")
    assert [(bad.line, bad.column, bad.reason) for bad in bad_lines] == [
        (1, 3, "expected an integer greater than -3 for --dense-transform nvidia (none takes any), and found '-3'"),
        (2, 3, "expected an integer of at most 19 digits and 64 bits, or a blank, and found 'x'"),
    ]
    assert parsed.labels.tolist() == [1, 0]
    np.testing.assert_allclose(parsed.dense[:, 0], np.log(np.array([1, 4]) + 3.0), rtol=1e-6)
    assert parsed.dense[0, 1] == 0  # -2
    assert parsed.dense[1, 3] == 0  # a blank
    assert parse_raw_rows(make_line(4, c5=b""), "torchrec")[0].dense[0, 3] == np.float32(math.log(3))
    assert parse_raw_rows(text, "dlrm")[1][0].line == 2


def test_values_without_a_transform():
    parsed, _ = parse_raw_rows(make_line(1, c2=b"-7", c3=b"", c4=b"16777217"), "none")
    assert parsed.dense[0, :3].tolist() == [-7, 0, 2**24]


def test_names_and_kinds():
    assert (DENSE_NAMES[0], DENSE_NAMES[-1], len(DENSE_NAMES)) == ("I1", "I13", 13)
    assert (CATEGORY_NAMES[0], CATEGORY_NAMES[-1], len(CATEGORY_NAMES)) == ("C1", "C26", 26)
    assert {(kind.values, kind.multi_hot) for kind in CATEGORY_KINDS} == {("hex", False)}
    assert len(CATEGORY_KINDS) == 26
