"""What prepared data have lost is counted: values below 0, and those that a vocabulary does not know."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from criteo_files_for_tests import write
from prepare_reference import contents_of
from small_prepare import criteo_text, prepare_small, prepare_with_stops, small_shards

from cupyrec.datasets.prepared.manifest import manifest_json, read_manifest
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.datasets.preparing.lost_negatives import lost_negatives
from cupyrec.datasets.preparing.raw_criteo import parse_raw_rows
from cupyrec.datasets.preparing.tally import Tally
from cupyrec.datasets.preparing.vocabulary_coverage import coverages
from cupyrec.errors import DataError

ROWS = 170


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_shards(monkeypatch)


def negatives_of(text: bytes) -> tuple[int, ...]:
    """Of each of the 13 columns, of lines that are no bad rows."""
    rows = [line.split(b"\t") for line in text.splitlines()]
    good = [row for row in rows if len(row) == 40]
    return tuple(sum(row[column].startswith(b"-") for row in good) for column in range(1, 14))


def made_table(rows: int, seed: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    lists = [draw.integers(0, 9 + seed, count).tolist() for count in draw.integers(0, 4, rows)]
    return pa.table(
        {
            "label": draw.integers(0, 2, rows),
            "age": pa.array(draw.standard_normal(rows), mask=draw.random(rows) < 0.1),
            "year": draw.integers(1, 9, rows),
            "user": draw.integers(0, 20 + 10 * seed, rows),
            "brand": pa.array(draw.integers(0, 5 + seed, rows).astype(str)),
            "tags": lists,
        }
    )


NAMED = {"label": "label", "dense_columns": ["age", "year"], "category_columns": ["user", "brand", "tags"]}


def test_negatives_of_text_are_counted_whatever_the_threads_and_stops(tmp_path):
    texts = [criteo_text(ROWS), criteo_text(40, seed=1)]
    lines = texts[0].splitlines(keepends=True)
    lines[3], lines[40], lines[100] = b"bad\n", lines[40].replace(b"\t", b"\r\n", 1), b"1\t-5\n"
    texts[0] = b"".join(lines)
    paths = [write(tmp_path / name, text) for name, text in zip(("a.tsv", "b.tsv"), texts, strict=True)]
    skip = {"on_bad_row": "skip"}
    whole = prepare_small(paths, tmp_path / "whole", threads=3, **skip).manifest
    assert whole.negatives == tuple(map(sum, zip(*map(negatives_of, texts), strict=True)))
    assert min(whole.negatives) > 0
    assert whole.unknown is None
    good = [row for row in b"".join(texts).splitlines() if row.count(b"\t") == 39]
    assert whole.positives == sum(row.startswith(b"1") for row in good) > 0
    prepare_with_stops(paths, tmp_path / "stopped", **skip)
    names = [name for name in contents_of(tmp_path / "whole") if name != "bad_rows.tsv"]
    for name in names:
        assert contents_of(tmp_path / "whole")[name] == contents_of(tmp_path / "stopped")[name]


def test_negatives_and_unknown_values_of_tables_are_counted_whatever_the_threads_and_stops(tmp_path):
    train, test = made_table(ROWS, 0), made_table(ROWS, 3)
    for name, table in {"train": train, "test": test}.items():
        pa.parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=23)
    prepare_small(tmp_path / "train.parquet", tmp_path / "train", **NAMED)
    known = {"vocabulary": tmp_path / "train"}
    whole = prepare_small(tmp_path / "test.parquet", tmp_path / "whole", threads=3, **known).manifest
    prepare_with_stops(tmp_path / "test.parquet", tmp_path / "stopped", **known)
    assert contents_of(tmp_path / "whole") == contents_of(tmp_path / "stopped")
    assert whole.negatives == (sum((value or 0) < 0 for value in test["age"].to_pylist()), 0)
    expected = []
    for name in NAMED["category_columns"]:
        values, seen = (flat(table[name].to_pylist()) for table in (test, train))
        expected.append(sum(value not in set(seen) for value in values) / len(values))
    assert whole.unknown == tuple(expected)
    assert min(expected) > 0
    assert coverages(tmp_path / "whole", whole) == [1 - share for share in expected]
    assert lost_negatives(whole) == {"age": whole.negatives[0] / ROWS}


def flat(values):
    return [each for value in values for each in (value if isinstance(value, list) else [value])]


def test_values_that_are_rare_in_the_vocabulary_are_unknown_and_hashes_never(tmp_path):
    path = write(tmp_path / "a.tsv", criteo_text(ROWS))
    prepare_small(path, tmp_path / "train", min_count=1000)
    prepare_small(path, tmp_path / "hashed", hash_rows=50)
    assert prepare_small(path, tmp_path / "test", vocabulary=tmp_path / "train").manifest.unknown == (1.0,) * 26
    assert prepare_small(path, tmp_path / "test2", vocabulary=tmp_path / "hashed").manifest.unknown is None


def test_lists_without_a_value_have_none_that_is_unknown(tmp_path):
    table = pa.table({"label": [0, 1], "I1": [1, 2], "C1": pa.array([[], None], pa.list_(pa.int64()))})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    prepare_small(tmp_path / "a.parquet", tmp_path / "train")
    found = prepare_small(tmp_path / "a.parquet", tmp_path / "test", vocabulary=tmp_path / "train").manifest
    assert found.unknown == (0.0,)


def test_only_a_notable_share_that_counts_as_0_is_told(tmp_path):
    content = prepare_small(write(tmp_path / "a.tsv", criteo_text(200)), tmp_path / "out").manifest
    content = replace(content, negatives=(1, 2, 0, 200) + (0,) * 9)
    assert lost_negatives(content) == {"I2": 0.01, "I4": 1.0}
    assert lost_negatives(replace(content, dense_transform="none")) == {}
    assert lost_negatives(replace(content, dense_transform="torchrec")) == {}
    assert lost_negatives(replace(content, negatives=None)) == {}


def test_data_and_beginnings_of_an_earlier_cupyrec_have_no_counts(tmp_path):
    path = write(tmp_path / "a.tsv", criteo_text(ROWS))
    content = prepare_small(path, tmp_path / "out").manifest
    older = replace(content, negatives=None)
    assert not {"negatives", "unknown"} & set(json.loads(manifest_json(older)))
    (tmp_path / "out/prepared.json").write_text(manifest_json(older))
    assert PreparedData(tmp_path / "out").manifest == older
    parsed, _ = parse_raw_rows(criteo_text(2), "dlrm")
    assert Tally([[5, 0]]).after(0, parsed, 0, 0) == Tally([[7, 0]])


@pytest.mark.parametrize(
    "change",
    [
        {"negatives": [1]},
        {"negatives": [-1] * 13},
        {"negatives": 5},
        {"unknown": [0.5]},
        {"unknown": [1.5] * 26},
        {"unknown": [1] * 26},
        {"unknown": [float("nan")] * 26},
    ],
    ids=str,
)
def test_counts_that_cannot_be(tmp_path, change):
    prepare_small(write(tmp_path / "a.tsv", criteo_text(20)), tmp_path / "out")
    file = tmp_path / "out/prepared.json"
    content = json.loads(file.read_text()) | change
    del content["checksum"]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="damaged"):
        read_manifest(tmp_path / "out")
