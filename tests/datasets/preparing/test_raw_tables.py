import math

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupyrec.datasets.preparing.raw_rows import ColumnKind
from cupyrec.datasets.preparing.raw_tables import RawTable, TableColumns, column_kinds, guess_columns
from cupyrec.datasets.preparing.text_keys import text_keys
from cupyrec.errors import ConfigError, DataError

FORMATS = ["row groups.parquet", "file.arrow", "compressed.feather", "stream.ipc", "UPPER.PARQUET"]
SCHEMA = pa.schema(
    [
        ("unused", pa.timestamp("s")),
        ("number", pa.int32()),
        ("text", pa.string()),
        ("label", pa.int8()),
        ("words", pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        ("float", pa.float32()),
        ("large", pa.uint64()),
        ("choice", pa.dictionary(pa.int8(), pa.large_string())),
        ("numbers", pa.large_list(pa.int16())),
        ("flag", pa.bool_()),
        ("pair", pa.list_(pa.int64(), 2)),
    ]
)
DENSE = ["float", "number"]
CATEGORIES = ["text", "number", "words", "large", "choice", "numbers", "flag", "pair"]
TEXTS = st.none() | st.sampled_from(["", "a", "b", "é"])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "unused": st.none(),
            "number": st.none() | st.integers(-(2**31), 2**31 - 1),
            "text": TEXTS,
            "label": st.integers(0, 1),
            "words": st.none() | st.lists(TEXTS, max_size=3),
            "float": st.none() | st.floats(-10, 1e9, width=32),
            "large": st.none() | st.integers(0, 2**63 - 1),
            "choice": TEXTS,
            "numbers": st.none() | st.lists(st.none() | st.integers(-(2**15), 2**15 - 1), max_size=3),
            "flag": st.none() | st.booleans(),
            "pair": st.lists(st.none() | st.integers(-9, 9), min_size=2, max_size=2),
        }
    ),
    max_size=12,
)
SELECTED = {"label": "label", "dense": DENSE, "categories": CATEGORIES, "transform": "dlrm"}


def write(path, table, piece_rows=5):
    """Write a table in row groups or record batches of piece_rows rows."""
    if path.suffix.lower() == ".parquet":
        pq.write_table(table, path, row_group_size=piece_rows)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, path, compression="zstd", chunksize=piece_rows)
    else:
        new = pa.ipc.new_stream if path.suffix == ".ipc" else pa.ipc.new_file
        options = pa.ipc.IpcWriteOptions(unify_dictionaries=path.suffix == ".arrow")
        with new(path, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=piece_rows)
    return path


def key(value):
    if isinstance(value, str):
        return int(text_keys(pa.array([value]))[0][0])
    return int(value or 0) % 2**64


def slow_dense(value):
    return np.float32(math.log(max(value or 0, 0) + 1))


def found_rows(blocks):
    """Rows as lists: label, dense features, and the keys and texts of each category."""
    rows = []
    for block in blocks:
        for number in range(len(block)):
            row = block[number : number + 1]
            categories = [(c.keys.tolist(), None if c.texts is None else c.texts.to_pylist()) for c in row.columns]
            rows.append((row.labels.tolist(), row.dense[0].tolist(), categories))
    return rows


def expected_rows(rows):
    expected = []
    for row in rows:
        categories = []
        for name in CATEGORIES:
            values = row[name] if isinstance(row[name], list) else [row[name]]
            if row[name] is None and name in ("words", "numbers"):
                values = []
            texts = [value or None for value in values] if name in ("text", "words", "choice") else None
            categories.append(([key(value) for value in values], texts))
        expected.append(([row["label"]], [slow_dense(row[name]) for name in DENSE], categories))
    return expected


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25)
@given(ROWS, st.integers(1, 6), st.integers(1, 7), st.integers(0, 13))
def test_rows_agree_with_slow_reading(tmp_path_factory, name, rows, piece_rows, block_rows, first_row):
    path = write(tmp_path_factory.getbasetemp() / name, pa.Table.from_pylist(rows, SCHEMA), piece_rows)
    table = RawTable(path)
    assert table.rows == (None if path.suffix == ".ipc" else len(rows))
    blocks = list(table.blocks(first_row, block_rows=block_rows, **SELECTED))
    left = max(len(rows) - first_row, 0)
    lengths = [block_rows] * (left // block_rows) + ([left % block_rows] if left % block_rows else [])
    assert [len(block) for block in blocks] == lengths
    assert found_rows(blocks) == expected_rows(rows[first_row:])
    negatives = [sum((row[name] or 0) < 0 for row in rows[first_row:]) for name in DENSE]
    assert np.sum([block.negatives for block in blocks], axis=0).tolist() == (negatives if blocks else 0)
    for block in blocks:
        assert block.labels.dtype == block.dense.dtype == np.float32
        assert block.dense.flags.c_contiguous
        assert block.dense.shape == (len(block), 2)
        assert all(column.keys.dtype == np.uint64 for column in block.columns)
        assert [column.offsets is not None for column in block.columns] == [c in MULTI_HOT for c in CATEGORIES]


MULTI_HOT = ("words", "numbers", "pair")


def test_kinds_of_columns(tmp_path):
    table = RawTable(write(tmp_path / "a.arrow", SCHEMA.empty_table()))
    assert column_kinds(table, CATEGORIES) == [
        ColumnKind("text"),
        ColumnKind("integer"),
        ColumnKind("text", multi_hot=True),
        ColumnKind("integer"),
        ColumnKind("text"),
        ColumnKind("integer", multi_hot=True),
        ColumnKind("integer", is_bool=True),
        ColumnKind("integer", multi_hot=True),
    ]


def small_table(**columns):
    base = {"label": pa.array([0, 1, 1]), "I1": pa.array([1, 2, 3]), "C1": pa.array(["a", "b", "a"])}
    return pa.table({**base, **columns})


def read(table_or_path, path=None, **changes):
    if path is not None:
        write(path, table_or_path, piece_rows=2)
    table = RawTable(path or table_or_path)
    return list(
        table.blocks(
            **{
                "label": "label",
                "dense": ["I1"],
                "categories": ["C1"],
                "transform": "dlrm",
                "block_rows": 10,
                **changes,
            }
        )
    )


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize(
    ("column", "values", "transform", "message"),
    [
        ("label", pa.array([0, 1, 2]), "dlrm", "row 2, column label: expected a label of 0 or 1 and found 2"),
        ("label", pa.array([1, -1, 1]), "dlrm", "expected a label of 0 or 1 and found -1; map -1 to 0"),
        (
            "C1",
            pa.array([2**63 - 1, None, 2**63], pa.uint64()),
            "dlrm",
            "row 2, column C1: expected an integer below 2**63 and found 9223372036854775808; make texts of them, or",
        ),
        (
            "C1",
            pa.array([[], [1], [2, 2**64 - 1]], pa.list_(pa.uint64())),
            "dlrm",
            "row 2, column C1: expected an integer below 2**63 and found 18446744073709551615",
        ),
        ("label", pa.array([0.0, 0.5, 1.0]), "dlrm", "row 1, column label: expected a label of 0 or 1 and found 0.5"),
        (
            "label",
            pa.array([True, None, None]),
            "dlrm",
            "row 1, column label: expected a label of 0 or 1 and found null",
        ),
        (
            "I1",
            pa.array([1.0, 2.0, math.nan], from_pandas=False),
            "dlrm",
            "row 2, column I1: expected a number that is finite as float32 for --dense-transform dlrm, or null, and "
            "found nan, which is not null: fill it, or write null",
        ),
        ("I1", pa.array([1.0, math.inf, 2.0]), "none", "and found inf"),
        (
            "I1",
            pa.array([1, 2, -3]),
            "nvidia",
            "row 2, column I1: expected a number greater than -3 for --dense-transform nvidia (none takes any), or "
            "null, and found -3",
        ),
        ("I1", pa.array([1, 2, 2**64 - 1], pa.uint64()), "none", None),
    ],
)
def test_bad_values_name_file_row_and_column(tmp_path, name, column, values, transform, message):
    path = tmp_path / name
    if message is None:
        assert read(small_table(**{column: values}), path, transform=transform)[0].dense[2, 0] == np.float32(2**64)
        return
    with pytest.raises(DataError) as caught:
        read(small_table(**{column: values}), path, transform=transform)
    assert str(caught.value).startswith(f"{path}: row ")
    assert message in str(caught.value)


def test_rows_are_numbered_from_the_start_of_the_file(tmp_path):
    path = write(tmp_path / "a.parquet", small_table(label=pa.array([0, 1, 2])), piece_rows=1)
    with pytest.raises(DataError, match="row 2, column label"):
        read(path, first_row=1)
    blocks = RawTable(path).blocks(1, label="label", dense=[], categories=[], transform="none", block_rows=1)
    assert len(next(blocks)) == 1
    with pytest.raises(DataError, match="row 2, column label"):
        next(blocks)


@pytest.mark.parametrize(
    "values", [[True, False], [1.0, 0.0], np.array([1, 0], np.uint8), np.array([1, 0], np.float16)]
)
def test_labels_of_other_types(tmp_path, values):
    table = pa.table({"label": pa.array(values), "I1": pa.array([0.5, None], pa.float64()), "C1": pa.array([1, 2])})
    (block,) = read(table, tmp_path / "a.parquet" if not isinstance(values, np.ndarray) else tmp_path / "a.arrow")
    assert block.labels.tolist() == [1, 0]
    assert block.dense[:, 0].tolist() == [np.float32(math.log(1.5)), 0]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("label", pa.array(["0", "1", "1"]), "column label has the type string, but a label must be an integer, a"),
        ("label", pa.nulls(3), "column label has the type null, but a label must be"),
        ("I1", pa.array(["0", "1", "1"]), "column I1 has the type string, but a dense feature must be"),
        ("I1", pa.array([True, False, True]), "column I1 has the type bool, but a dense feature must be"),
        ("C1", pa.array([1.0, 2.0, 3.0]), "column C1 has the type double, but a category must be"),
        ("C1", pa.array([[[1]], [[2]], []]), "column C1 has the type list<"),
        ("C1", pa.array([b"a", b"b", b"c"]), "column C1 has the type binary"),
        ("C1", pa.array([1, 2, 3], pa.timestamp("s")), "column C1 has the type timestamp[s], but a category must be"),
        ("C1", pa.array([1, 2, 1]).dictionary_encode(), "column C1 has the type dictionary"),
    ],
)
def test_other_types_are_refused_before_anything_is_read(tmp_path, column, values, message):
    path = write(tmp_path / "a.arrow", small_table(**{column: values}))
    with pytest.raises(DataError) as caught:
        RawTable(path).blocks(label="label", dense=["I1"], categories=["C1"], transform="dlrm", block_rows=9)
    assert str(caught.value).startswith(f"{path}: {message}")
    advice = {"label": "int64, with the values 0 and 1", "I1": "float64", "C1": "int64 or string"}
    if values.type != pa.float64():
        assert str(caught.value).endswith(f"; cast it to {advice[column]}")


@pytest.mark.parametrize("values", [[1.0, None, 3.0], [[1.0], [], []]], ids=["numbers", "lists"])
def test_floats_as_a_category_may_be_integers_with_missing_values(tmp_path, values):
    with pytest.raises(
        DataError, match="or a list of them; cast it to int64, in pandas to Int64: where values are mis"
    ):
        read(small_table(C1=pa.array(values)), tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.ipc"])
@pytest.mark.parametrize(
    ("values", "kind", "keys", "offsets"),
    [
        (pa.nulls(3), ColumnKind("integer"), [0, 0, 0], None),
        (pa.nulls(3), ColumnKind("text", multi_hot=True), [], [0, 0, 0, 0]),
        (
            pa.array([[], None, [None]]),
            ColumnKind("text", multi_hot=True),
            [
                key(""),
            ],
            [0, 0, 0, 1],
        ),
        (
            pa.array([[], None, [None, None]], pa.large_list(pa.null())),
            ColumnKind("integer", True),
            [0, 0],
            [0, 0, 0, 2],
        ),
    ],
)
def test_columns_that_are_untyped(tmp_path, name, values, kind, keys, offsets):
    table = small_table(C1=values, I1=pa.nulls(3))
    path = write(tmp_path / name, table)
    assert column_kinds(RawTable(path), ["C1"]) == [None]
    (block,) = read(path, kinds=[kind])
    assert block.dense.tolist() == [[0], [0], [0]]
    column = block.columns[0]
    assert column.keys.tolist() == keys
    assert (None if column.offsets is None else column.offsets.tolist()) == offsets
    assert (None if column.texts is None else column.texts.to_pylist()) == (
        [None] * len(keys) if kind.values == "text" else None
    )


def test_columns_that_are_not_there_once(tmp_path):
    path = write(tmp_path / "a.arrow", pa.table([[0], [1], [2], [3]], names=["label", "C1", "C1", "I1"]))
    with pytest.raises(DataError, match="there is no column C2; the columns are label, C1, C1, I1"):
        read(path, categories=["C2"])
    with pytest.raises(DataError, match="there are several columns C1"):
        read(path)


@pytest.mark.parametrize("name", FORMATS)
def test_names_with_dots_and_columns_that_are_used_twice(tmp_path, name):
    table = pa.table({"a.b": [1, 0], "a.c": pa.array([["x"], None]), "a": [3, 4]})
    write(tmp_path / name, table)
    (block,) = read(tmp_path / name, label="a.b", dense=["a", "a"], categories=["a", "a.c", "a"])
    assert block.labels.tolist() == [1, 0]
    assert [column.keys.tolist() for column in block.columns[::2]] == [[3, 4], [3, 4]]
    assert block.columns[1].offsets.tolist() == [0, 1, 1]


def test_a_null_may_hide_a_list(tmp_path):
    values = pa.array([1, 2, 3, 4, 5])
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 4, 5], pa.int32()), values, mask=pa.array([False, True, False]))
    (block,) = read(small_table(C1=lists), tmp_path / "a.arrow")
    assert block.columns[0].keys.tolist() == [1, 2, 5]
    assert block.columns[0].offsets.tolist() == [0, 2, 2, 3]


def test_dictionaries_that_change_from_batch_to_batch(tmp_path):
    path = tmp_path / "stream.arrow"
    batches = [small_table(C1=pa.array(words).dictionary_encode()) for words in (["a", "b", "c"], ["c", "d", None])]
    with pa.ipc.new_stream(path, batches[0].schema) as writer:
        for batch in batches:
            writer.write_table(batch)
    (block,) = read(path)
    assert block.columns[0].texts.to_pylist() == ["a", "b", "c", "c", "d", None]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.ipc"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"ARROW1\0\0", b"0\t1\t2\n" * 100])
def test_other_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as"):
        RawTable(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read as"):
        RawTable(tmp_path / "none" / name)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_raise_errors_or_give_other_values(tmp_path, name):
    """They never crash, which is why Arrow data are validated."""
    path = write(
        tmp_path / name,
        pa.Table.from_pylist(
            [
                dict.fromkeys(SCHEMA.names, None)
                | {
                    "label": 1,
                    "text": "some text",
                    "words": ["a", "b"],
                    "choice": "x",
                    "numbers": [1, 2],
                    "pair": [1, 2],
                }
            ]
            * 9,
            SCHEMA,
        ),
    )
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(0, len(whole), 150):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ random.integers(1, 256)]) + whole[place + 1 :])
        try:
            rows = found_rows(RawTable(path).blocks(block_rows=4, **SELECTED))
        except DataError:
            continue
        assert len(rows) <= 1000
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match="cannot be read as"):
        list(RawTable(path).blocks(block_rows=4, **SELECTED))


def names(*patterns):
    return pa.schema([(name, pa.int64()) for name in patterns])


def numbered(pattern, first, stop):
    return [pattern.format(number) for number in range(first, stop)]


@pytest.mark.parametrize(
    ("label", "dense", "categories"),
    [
        ("label", numbered("I{}", 1, 14), numbered("C{}", 1, 27)),
        ("label", numbered("int_{}", 0, 13), numbered("cat_{}", 0, 26)),
        ("_c0", numbered("_c{}", 1, 14), numbered("_c{}", 14, 40)),
        ("label", ["I1"], ["C1", "C2"]),
    ],
)
def test_usual_names_are_known_in_any_order(label, dense, categories):
    schema = names(*sorted([*categories, *dense, label, "other", "C", "Ix"]))
    assert guess_columns(schema) == TableColumns(label, tuple(dense), tuple(categories))


@pytest.mark.parametrize(
    "columns", [["label", "I1"], ["click", "I1", "C1"], [], ["label", "I1", "C1", "int_0", "cat_0"], ["label", "C1"]]
)
def test_other_names_must_be_given(columns):
    with pytest.raises(ConfigError, match=r"--label .* and --dense-columns .* and --category-columns") as caught:
        guess_columns(names(*columns))
    assert all(name in str(caught.value) for name in columns)
    with pytest.raises(ConfigError, match=r"meant: give --dense-columns \(at least one; .* zeros\), out of"):
        guess_columns(names(*columns), ["dense_columns"])


def test_without_a_label_columns_are_known_by_the_other_names():
    schema = names("label", "I1", "C1", "C2")
    assert guess_columns(schema, labels=False) == TableColumns(None, ("I1",), ("C1", "C2"))
    assert guess_columns(names("int_0", "cat_0"), labels=False) == TableColumns(None, ("int_0",), ("cat_0",))
