import numpy as np
import pytest
from criteo_reference import first_bad_column
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import CATEGORIES, INTEGERS, ODD_CELLS

from cupyrec.datasets.criteo_lines import parse_lines

# What ends a cell cannot stand in one.
NOISE = st.binary(max_size=20).map(lambda cell: cell.translate(None, b"\t\r\n"))
CELLS = st.lists(
    st.one_of(st.sampled_from([b"0", b"1", b""]), INTEGERS, CATEGORIES, ODD_CELLS, NOISE), min_size=1, max_size=20
)
GOOD_ROW = [b"1", *[b"-7"] * 13, *[b"1234abcd"] * 26]
UNTOUCHED = 99


def parse(text, *, labelled=True):
    n = text.count(b"\n")
    labels, missing = np.full(n, UNTOUCHED, np.float32), np.full((13, n), UNTOUCHED, np.uint8).view(np.bool_)
    integers, keys = np.full((13, n), UNTOUCHED), np.full((26, n), UNTOUCHED, np.uint64)
    bad_columns = np.full(n, UNTOUCHED, np.uint8)
    parse_lines(np.frombuffer(text, np.uint8), labelled, labels, integers, missing, keys, bad_columns)
    return labels, integers, missing.view(np.uint8), keys, bad_columns


def parse_column(cells, column, line_end=b"\n"):
    """Lines that are good but for their 1-based column, which has the cells."""
    rows = [[*GOOD_ROW[: column - 1], cell, *GOOD_ROW[column:]] for cell in cells]
    parsed = parse(b"".join(b"\t".join(row) + line_end for row in rows))
    is_bad = [first_bad_column(row) is not None for row in rows]
    assert parsed[-1].tolist() == [column if bad else 0 for bad in is_bad]
    return is_bad, *parsed[:-1]


@settings(max_examples=100, deadline=None)
@given(CELLS)
def test_labels_agree_with_the_reference(cells):
    is_bad, labels, _, _, keys = parse_column(cells, 1)
    for cell, bad, label, key in zip(cells, is_bad, labels, keys[25], strict=True):
        assert bad or (label, key) == (int(cell), 0x1234ABCD)


@settings(max_examples=200, deadline=None)
@given(CELLS, st.integers(0, 12))
def test_integers_agree_with_the_reference(cells, feature):
    is_bad, _, integers, missing, _ = parse_column(cells, 2 + feature)
    for cell, bad, value, is_blank in zip(cells, is_bad, integers[feature], missing[feature], strict=True):
        assert (value, is_blank) == ((UNTOUCHED, UNTOUCHED) if bad else (int(cell or b"0"), cell == b""))


@settings(max_examples=200, deadline=None)
@given(CELLS, st.integers(0, 25) | st.just(25), st.sampled_from([b"\n", b"\r\n"]))
def test_categories_agree_with_the_reference(cells, feature, line_end):
    if feature == 25 and line_end == b"\n":
        # A carriage return at the end of a line belongs to the line end.
        cells = [cell.rstrip(b"\r") for cell in cells]
    is_bad, _, _, _, keys = parse_column(cells, 15 + feature, line_end)
    for cell, bad, key in zip(cells, is_bad, keys[feature], strict=True):
        assert key == (UNTOUCHED if bad else int(cell or b"0", 16))


@pytest.mark.parametrize("value", [0, 10**18 - 1, 10**18, 2**63 - 1, -(10**18), -(2**63)])
def test_integers_reach_as_far_as_64_bits(value):
    is_bad, _, integers, _, _ = parse_column([b"%d" % value], 5)
    assert (is_bad, integers[3, 0]) == ([False], value)


@pytest.mark.parametrize("odd", [b"", b"g", b"/", b":", b"@", b"G", b"`", b"\xb1", b"\xff"])
@pytest.mark.parametrize("column", [15, 40])
def test_hexadecimal_cells_of_every_length_with_an_odd_byte_anywhere(odd, column):
    for digits in range(18):
        cell = b"456789abcdefABCDEF"[:digits]
        is_bad, _, _, _, keys = parse_column([cell[:at] + odd + cell[at:] for at in range(digits + 1)], column)
        assert is_bad == [digits > 16 or odd != b""] * (digits + 1)
        assert all(is_bad) or set(keys[column - 15].tolist()) == {int(cell or b"0", 16)}


def test_the_lines_around_a_bad_one_are_parsed():
    good = b"\t".join(GOOD_ROW) + b"\n"
    bad = {
        b"\n": 1,
        b"\r\n": 1,
        b"1\n": 1,
        b"1\t\n": 2,
        b"\t" * 50 + b"\n": 1,
        b"x" + good: 1,
        good[:-1] + b"\t\n": 40,
        good[:-2] + b"\r1\n": 40,
    }
    *_, keys, bad_columns = parse(b"".join(good + line for line in bad) + b"".join(bad) + good)
    assert bad_columns.tolist() == [number for column in bad.values() for number in (0, column)] + [*bad.values(), 0]
    assert np.all(keys[:, bad_columns == 0] == 0x1234ABCD)


def test_from_the_first_bad_cell_on_nothing_is_parsed():
    row = [*GOOD_ROW]
    row[5], row[7] = b"x", b"y"
    _, integers, missing, keys, bad_columns = parse(b"\t".join(row) + b"\n")
    assert bad_columns.tolist() == [6]
    assert integers[:, 0].tolist() == [-7] * 4 + [UNTOUCHED] * 9
    assert missing[:, 0].tolist() == [0] * 4 + [UNTOUCHED] * 9
    assert np.all(keys == UNTOUCHED)


def test_lines_without_labels_begin_with_the_first_integer():
    line = b"\t".join(GOOD_ROW[1:]) + b"\n"
    labels, integers, _, keys, bad_columns = parse(line + b"x" + line + line[:-1] + b"g\r\n" + line, labelled=False)
    assert bad_columns.tolist() == [0, 1, 39, 0]
    assert labels.tolist() == [0] * 4
    assert integers[12, [0, 3]].tolist() == [-7, -7]
    assert keys[25, [0, 3]].tolist() == [0x1234ABCD] * 2
