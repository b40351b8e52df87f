"""Batches of values in memory are those that preparing the same values gives."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from criteo_files_for_tests import write
from small_prepare import criteo_text, prepare_small, small_shards

from cupyrec import PreparedData, SampleEncoder
from cupyrec.errors import ConfigError, DataError

SALES = {
    "age": [31.0, None, 2.5, -1.0, 70.0],
    "visits": [0, 3, None, 12, 1],
    "user": ["u1", "u2", "u1", "", None],
    "tags": [[3, 5], [], None, [3], [7, 7, 9]],
    "shop": [4, 2, 4, -9, None],
    "clicked": [1, 0, 0, 1, 1],
}
NAN = float("nan")
NAMES = {"label": "clicked", "dense_columns": ("age", "visits"), "category_columns": ("user", "tags", "shop")}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_shards(monkeypatch)


def prepared(tmp_path, table, name="out", **options):
    pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    prepare_small(tmp_path / f"{name}.parquet", tmp_path / name, **NAMES, **options)
    return tmp_path / name


def check_same(batch, expected):
    for name in ("dense", "rows", "offsets", "labels"):
        found, other = getattr(batch, name), getattr(expected, name)
        assert (found.dtype, found.shape) == (other.dtype, other.shape), name
        np.testing.assert_array_equal(found, other)


def whole(folder):
    (batch,) = PreparedData(folder).batches(1000)
    return batch


@pytest.mark.parametrize(
    "options", [{}, {"ids": "first"}, {"hash_rows": 5}, {"min_count": 2, "dense_transform": "none"}]
)
def test_as_prepared(tmp_path, options):
    folder = prepared(tmp_path, SALES, **options)
    encoder = SampleEncoder(folder)
    data = PreparedData(folder)
    assert (encoder.table_rows, encoder.dense_features) == (data.table_rows, data.dense_features)
    assert (encoder.encoding, encoder.label) == (data.encoding, "clicked")
    for samples in (SALES, pa.table(SALES), pa.table(SALES).to_batches()[0], pa.concat_tables([pa.table(SALES)])):
        batch = encoder.batch(samples)
        check_same(batch, whole(folder))
        assert batch.encoding == batch.copy().encoding == data.encoding
        batch.validate(encoder.table_rows, encoder.dense_features)


@pytest.mark.parametrize("options", [{}, {"hash_rows": 5}])
def test_texts_as_views_in_dictionaries_and_in_lists(tmp_path, options):
    """As polars gives them."""
    if not hasattr(pa, "string_view"):
        pytest.skip("this version of Arrow has no views")
    table = SALES | {"tags": [["a", "b"], [], None, ["a"], [None, "c", "c"]]}
    folder = prepared(tmp_path, table, **options)
    view = pa.string_view()
    texts = pa.array(table["user"], view)
    several = pa.array(table["tags"], pa.list_(view))
    indices = pa.array([0, 1, 0, 2, None], pa.int32())
    dictionary = pa.DictionaryArray.from_arrays(indices, pa.array(["u1", "u2", ""], view))
    large = pa.array(table["tags"], pa.large_list(view))
    for users, tags in ((texts, several), (dictionary, large), (texts, pa.concat_arrays([several, several])[5:])):
        check_same(SampleEncoder(folder).batch(table | {"user": users, "tags": tags}), whole(folder))


@pytest.mark.parametrize("options", [{}, {"hash_rows": 7}])
def test_samples_one_by_one_as_all_together(tmp_path, options):
    """Where a column has no value in a sample, nothing tells its type."""
    table = SALES | {"shop": [2**63 - 1, 1, 4, 9, 0], "tags": [[2**63 - 1], [], None, [None], [7, 2**62]]}
    types = {"shop": pa.uint64(), "tags": pa.list_(pa.uint64())}
    arrow = pa.table({name: pa.array(values, types.get(name)) for name, values in table.items()})
    folder = prepared(tmp_path, arrow, **options)
    encoder, expected = SampleEncoder(folder), whole(folder)
    bags = expected.offsets.reshape(-1)
    for sample in (1, 2, 3, 4, 0):
        batch = encoder.batch({name: [values[sample]] for name, values in table.items()})
        rows = [expected.rows[bags[5 * feature + sample] : bags[5 * feature + sample + 1]] for feature in range(3)]
        np.testing.assert_array_equal(batch.rows, np.concatenate(rows))
        np.testing.assert_array_equal(batch.offsets, np.concatenate([[0], np.cumsum([len(each) for each in rows])]))
        np.testing.assert_array_equal(batch.dense[0], expected.dense[sample])
    with pytest.raises(DataError, match="column shop has numbers that 64 bits do not hold"):
        encoder.batch(table | {"shop": [2**64] * 5})
    for name, values in {"shop": [2, None, 2**63, 1, 1], "tags": [[1], [1, 2], [2, 2**63], [], None]}.items():
        with pytest.raises(DataError, match=f"sample 2, column {name}: expected an integer below .* found 922337"):
            encoder.batch(table | {name: values})


def test_vocabularies_are_read_once_for_values_of_a_kind(tmp_path, monkeypatch):
    table = SALES | {"shop": [True, False, None, True, False]}
    encoder, read = SampleEncoder(prepared(tmp_path, table)), []
    encoders = encoder._known.encoders
    monkeypatch.setattr(encoder._known, "encoders", lambda: read.append(1) or encoders())
    for _ in range(3):
        for value in (True, None, False):
            encoder.batch({name: [value if name == "shop" else values[0]] for name, values in table.items()})
    assert len(read) == 2


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table(SALES)
    table = table.append_column("shop", table.column("shop"))
    with pytest.raises(DataError, match="there are several columns shop"):
        SampleEncoder(prepared(tmp_path, SALES)).batch(table)


def test_one_sample_whose_values_are_missing_or_unknown(tmp_path):
    encoder = SampleEncoder(prepared(tmp_path, SALES))
    batch = encoder.batch({"age": [None], "visits": [None], "user": ["nobody"], "tags": [[1000]], "shop": [None]})
    assert batch.labels.tolist() == [0]
    assert batch.dense.tolist() == [[0, 0]]
    shop = encoder.batch({**{name: [None] for name in SALES if name != "clicked"}, "tags": [[]]}).rows
    # None is the value 0, or the empty text; what was never seen has the first row of its table.
    assert batch.rows[0] == 0
    assert batch.rows[1] == encoder.table_rows[0]
    assert batch.rows[2] == shop[-1]


@pytest.mark.parametrize("options", [{}, {"hash_rows": 7}])
def test_criteo_text_as_its_cells(tmp_path, options):
    text = criteo_text(60)
    prepare_small(write(tmp_path / "day_0", text), tmp_path / "out", **options)
    cells = [line.split("\t") for line in text.decode().splitlines()]
    columns = {f"I{n}": [int(row[n]) if row[n] else None for row in cells] for n in range(1, 14)}
    columns |= {f"C{n}": [row[13 + n] for row in cells] for n in range(1, 27)}
    expected = whole(tmp_path / "out")
    check_same(SampleEncoder(tmp_path / "out").batch(columns), expected.__class__(
        expected.dense, expected.rows, expected.offsets, np.zeros_like(expected.labels)
    ))  # fmt: skip
    blank = [SampleEncoder(tmp_path / "out").batch(columns | {"C3": [none] * 60}).rows for none in ("", None)]
    np.testing.assert_array_equal(*blank)
    for wrong in ("xyz", "1_0", "0xff", " ff ", "+f", "\u0663", "1" * 17):
        columns["C3"][5] = wrong
        with pytest.raises(DataError, match=r"column C3: .* is not a number of up to 16 hexadecimal digits"):
            SampleEncoder(tmp_path / "out").batch(columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": None}, "there is no column age; the columns are visits, user"),
        ({"age": ["a"] * 5}, "column age has the type string, but a dense feature must be .*; cast it to float64"),
        ({"user": [1.5] * 5}, "column user has the type double, but a category of texts must be .* cast it to string"),
        ({"shop": [[]] * 5}, "column shop has the type list<.*null>, but a category must be"),
        ({"shop": [1.5] * 5}, "column shop has the type double, but a category must be .* cast it to int64, in pandas"),
        ({"clicked": ["0"] * 5}, "column clicked has the type string, but a label must be .*; cast it to int64"),
        ({"clicked": [1, -1, 1, 1, 1]}, "sample 1, column clicked: expected a label of 0 or 1 and .*; map -1 to 0"),
        ({"user": [7] * 5}, "column user holds text values, but integer values in the input"),
        ({"tags": [7] * 5}, "column tags has single values in the input, lists in the data of the vocabulary"),
        ({"clicked": [0, 1, 2, 0, 0]}, "sample 2, column clicked: expected a label of 0 or 1"),
        ({"age": pa.array([1.0, NAN, 1.0, 1.0, 1.0])}, "sample 1, column age: "),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    encoder = SampleEncoder(prepared(tmp_path, SALES))
    samples = {name: values for name, values in (SALES | change).items() if values is not None}
    with pytest.raises(DataError, match=message):
        encoder.batch(samples)
    check_same(encoder.batch(SALES), whole(tmp_path / "out"))


def test_nan_is_missing_in_lists_as_in_frames(tmp_path):
    encoder = SampleEncoder(prepared(tmp_path, SALES))
    nans = {
        "age": np.array([1, NAN, 1, 1, 1]),
        "user": [NAN] * 5,
        "shop": np.full(5, NAN),
        "tags": [NAN, [], [1], [2], []],
    }
    nones = {"age": [1, None, 1, 1, 1], "user": [None] * 5, "shop": [None] * 5, "tags": [None, [], [1], [2], []]}
    check_same(encoder.batch(SALES | nans), encoder.batch(SALES | nones))


@pytest.mark.parametrize("values", [7, "u1", b"u1", None, [1, "a", [], 2, 3]])
def test_a_value_in_place_of_a_list_is_named(tmp_path, values):
    with pytest.raises(ConfigError, match="column user must be a list with a value of one type for each sample"):
        SampleEncoder(prepared(tmp_path, SALES)).batch(SALES | {"user": values})


@pytest.mark.parametrize("samples", [3, [1, 2], {"age": [1], "user": ["a", "b"]}, None])
def test_what_is_no_table_is_refused(tmp_path, samples):
    with pytest.raises(ConfigError, match="samples must be columns by name"):
        SampleEncoder(prepared(tmp_path, SALES)).batch(samples)
    with pytest.raises(DataError, match="there are no samples"):
        SampleEncoder(tmp_path / "out").batch({"age": []})


def test_vocabularies_that_are_not_those_of_the_data_are_refused(tmp_path):
    folder = prepared(tmp_path, SALES)
    other = prepared(tmp_path, SALES | {"user": ["a", "b", "c", "d", "e"]}, "other")
    name = json.loads((folder / "prepared.json").read_text())["categories"][0]["vocabulary"]
    (folder / name).write_bytes((other / name).read_bytes())
    with pytest.raises(DataError, match="not those of the data"):
        SampleEncoder(folder).batch(SALES)
    with pytest.raises(DataError):
        SampleEncoder(tmp_path)
