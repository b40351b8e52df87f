import numpy as np

from cupyrec.datasets.criteo_writer import category_hash, format_rows
from cupyrec.datasets.synthetic_columns import BLANK_INTEGER, BLANK_RANK


def test_rows_are_written_as_python_would_write_them():
    random = np.random.default_rng(4)
    integers = random.integers(-(10**6), 10**6, (300, 13))
    integers[random.random(integers.shape) < 0.3] = BLANK_INTEGER
    integers[:4, 0] = (0, -1, 2**63 - 1, -(2**63) + 1)
    integers[4:6, :] = BLANK_INTEGER
    ranks = random.integers(0, 2**32, (300, 26))
    ranks[random.random(ranks.shape) < 0.3] = BLANK_RANK
    ranks[4] = BLANK_RANK
    labels = random.integers(0, 2, 300).astype(np.float32)
    expected = "".join(
        "\t".join(
            [str(int(label))]
            + ["" if x == BLANK_INTEGER else str(x) for x in xs]
            + ["" if r == BLANK_RANK else f"{int(category_hash(c, r)):08x}" for c, r in enumerate(rs)]
        )
        + "\n"
        for label, xs, rs in zip(labels, integers, ranks, strict=True)
    )
    assert format_rows(labels, integers, ranks).tobytes().decode() == expected


def test_no_rows_are_no_text():
    text = format_rows(np.empty(0, np.float32), np.empty((0, 13), np.int64), np.empty((0, 26), np.int64))
    assert text.shape == (0,)


def test_the_longest_row_fits():
    integers = np.full((2, 13), -(2**63) + 1)
    text = format_rows(np.ones(2, np.float32), integers, np.ones((2, 26), np.int64)).tobytes()
    assert text.count(b"-9223372036854775807\t") == 26
    assert text.endswith(b"\n")


def test_two_ranks_of_a_column_have_two_hashes_and_columns_differ():
    hashes = [{int(category_hash(column, rank)) for rank in range(1, 3_000)} for column in range(3)]
    assert [len(each) for each in hashes] == [2_999] * 3
    assert not hashes[0] & hashes[1] & hashes[2]
    assert all(0 <= value < 2**32 for each in hashes for value in each)
