"""Columns without a value, of which Arrow and pandas keep no type, beside others and alone."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_prepare import prepare_small, small_shards

from cupyrec import PreparedData
from cupyrec.errors import DataError

DAY = {"label": [0, 1, 1], "I1": [1, 2, 3], "C1": ["a", "b", "a"], "C2": [[1, 2], [], [3]], "C3": [True, False, True]}
MISSING = DAY | {"I1": [None] * 3, "C1": [None] * 3, "C2": [[], None, [None]], "C3": [None] * 3}
TYPES = {"I1": pa.int64(), "C1": pa.string(), "C2": pa.list_(pa.int64()), "C3": pa.bool_()}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_shards(monkeypatch)


def write(path, columns, types=None):
    pq.write_table(
        pa.table({name: pa.array(values, (types or {}).get(name)) for name, values in columns.items()}), path
    )
    return path


def content(folder):
    (batch,) = PreparedData(folder).batches(100)
    return [each.tolist() for each in (batch.dense, batch.rows, batch.offsets, batch.labels)]


@pytest.mark.parametrize("days", [[DAY, MISSING], [MISSING, DAY]])
@pytest.mark.parametrize("options", [{}, {"hash_rows": 7}])
def test_as_with_a_type(tmp_path, days, options):
    names = ["day_0.parquet", "day_1.parquet"]
    untyped = [write(tmp_path / name, day) for name, day in zip(names, days, strict=True)]
    prepare_small(untyped, tmp_path / "untyped", **options)
    typed = [write(tmp_path / f"typed_{name}", day, TYPES) for name, day in zip(names, days, strict=True)]
    prepare_small(typed, tmp_path / "typed", **options)
    assert content(tmp_path / "untyped") == content(tmp_path / "typed")


@pytest.mark.parametrize("options", [{}, {"grow": True}])
def test_the_vocabulary_tells_the_type(tmp_path, options):
    prepare_small(write(tmp_path / "day_0.parquet", DAY), tmp_path / "first")
    for name, types in (("untyped", None), ("typed", TYPES)):
        day = write(tmp_path / f"{name}.parquet", MISSING, types)
        prepare_small(day, tmp_path / name, vocabulary=tmp_path / "first", **options)
    assert content(tmp_path / "untyped") == content(tmp_path / "typed")


def test_nothing_tells_the_type(tmp_path):
    path = write(tmp_path / "day_0.parquet", MISSING)
    with pytest.raises(
        DataError, match="column C1 has nulls or empty lists alone, and no file that tells its type; ca"
    ):
        prepare_small(path, tmp_path / "out")
    prepare_small(write(tmp_path / "day_1.parquet", DAY), tmp_path / "first", hash_rows=7)
    with pytest.raises(DataError, match="column C1 has nulls or empty lists alone"):
        prepare_small(path, tmp_path / "out", vocabulary=tmp_path / "first")


def test_lists_of_nothing_are_no_single_values(tmp_path):
    first = write(tmp_path / "day_0.parquet", DAY)
    second = write(tmp_path / "day_1.parquet", DAY | {"C1": [[], [], []]})
    with pytest.raises(DataError, match=r"day_1.parquet: column C1 holds lists, but text values in .*day_0.parquet"):
        prepare_small([first, second], tmp_path / "out")
