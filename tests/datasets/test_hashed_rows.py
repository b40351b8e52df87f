import criteo_reference
import numpy as np
from criteo_files_for_tests import make_line
from hypothesis import given, settings
from strategies import criteo_texts

from cupyrec.batch import table_offsets
from cupyrec.datasets.criteo_rows import parse_rows
from cupyrec.datasets.hashed_rows import HashedRows, hash_keys

TABLE_ROWS = (*range(1, 25), 2**40, 2**62)


@settings(max_examples=50)
@given(criteo_texts())
def test_global_rows_agree_with_the_reference(text):
    parsed, _ = parse_rows(text.removesuffix(b"\n") + b"\n", "dlrm")
    hashed = hash_keys(parsed, TABLE_ROWS)
    assert hashed.rows.dtype == np.int64
    ids = hashed.rows - table_offsets(TABLE_ROWS)[:-1, None]
    assert ids.T.tolist() == criteo_reference.read(text, TABLE_ROWS).ids
    assert hashed.labels is parsed.labels
    assert hashed.dense is parsed.dense


def test_the_largest_key_and_blanks():
    text = make_line(1, c40=b"f" * 16) + b"1" + b"\t" * 39 + b"\n"
    hashed = hash_keys(parse_rows(text, "dlrm")[0], TABLE_ROWS)
    assert hashed.rows[25, 0] == sum(TABLE_ROWS) - 1
    assert hashed.rows[:, 1].tolist() == table_offsets(TABLE_ROWS)[:-1].tolist()
    assert len(hash_keys(parse_rows(b"\n", "dlrm")[0], TABLE_ROWS)) == 0


def test_some_rows_are_taken_from_all_three_arrays():
    rows = HashedRows(np.arange(6.0).reshape(3, 2), np.arange(6).reshape(2, 3), np.arange(3.0))
    assert len(rows) == 3
    part = rows[1:]
    assert part.dense.tolist() == [[2, 3], [4, 5]]
    assert part.rows.tolist() == [[1, 2], [4, 5]]
    assert part.labels.tolist() == [1, 2]
    assert np.shares_memory(part.rows, rows.rows)
