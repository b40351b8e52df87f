import numpy as np
import pytest
from criteo_files_for_tests import make_line, make_lines

from cupyrec.datasets.criteo_rows import parse_rows
from cupyrec.datasets.preparing.raw_criteo import CATEGORY_KINDS, CATEGORY_NAMES, DENSE_NAMES, parse_raw_rows


@pytest.mark.parametrize("transform", ["dlrm", "nvidia"])
@pytest.mark.parametrize("labelled", [True, False])
def test_raw_rows_hold_what_is_parsed(transform, labelled):
    lines = (make_lines(0, 5) + make_line(5, c3=b"-7") + make_line(6, c3=b"x") + make_line(7)).splitlines(keepends=True)
    text = b"".join(line if labelled else line.partition(b"\t")[2] for line in lines)
    raw, bad_lines = parse_raw_rows(text, transform, labelled=labelled)
    parsed, bad_lines_of_parsed = parse_rows(text, transform, labelled=labelled)
    assert bad_lines == bad_lines_of_parsed
    assert len(raw) == 8 - len(bad_lines) == {"dlrm": 7, "nvidia": 6}[transform]
    assert raw.labels.tolist() == parsed.labels.tolist()
    assert raw.dense.tolist() == parsed.dense.tolist()
    assert raw.negatives.tolist() == parsed.negatives.tolist()
    assert [column.keys.tolist() for column in raw.columns] == parsed.keys.tolist()
    for column in raw.columns:
        assert (column.offsets, column.texts, column.keys.dtype) == (None, None, np.uint64)


def test_names_and_kinds():
    assert (DENSE_NAMES[0], DENSE_NAMES[-1], len(DENSE_NAMES)) == ("I1", "I13", 13)
    assert (CATEGORY_NAMES[0], CATEGORY_NAMES[-1], len(CATEGORY_NAMES)) == ("C1", "C26", 26)
    assert {(kind.values, kind.multi_hot) for kind in CATEGORY_KINDS} == {("hex", False)}
    assert len(CATEGORY_KINDS) == 26
