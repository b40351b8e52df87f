"""Data whose ids come about in different ways do not claim to have the same ids."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from criteo_files_for_tests import write
from prepare_reference import read_prepared
from small_prepare import criteo_text, prepare_small, small_shards

from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.errors import DataError

CATEGORIES = [f"C{number}" for number in range(1, 27)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_shards(monkeypatch)


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "raw.tsv", criteo_text(60, values=200))


@pytest.fixture
def texts(raw):
    """The same rows as a table, whose categories are texts."""
    return as_table(raw, pa.string())


@pytest.fixture
def integers(raw):
    return as_table(raw, pa.int64())


def as_table(raw, category_type, *, texts_of=()):
    """texts_of: categories that are texts nevertheless."""
    rows = [line.split("\t") for line in raw.read_text().splitlines()]
    columns = {"label": pa.array([int(row[0]) for row in rows])}
    for number in range(13):
        columns[f"I{number + 1}"] = pa.array([int(row[1 + number]) if row[1 + number] else None for row in rows])
    for number, name in enumerate(CATEGORIES):
        cells = [row[14 + number] or None for row in rows]
        if category_type == pa.string() or name in texts_of:
            columns[name] = pa.array(cells, pa.string())
        else:
            columns[name] = pa.array([None if cell is None else int(cell, 16) for cell in cells], category_type)
    path = raw.with_name(f"{category_type}{len(texts_of)}.parquet")
    pa.parquet.write_table(pa.table(columns), path)
    return path


def encoding(folder):
    assert PreparedData(folder).encoding == read_manifest(folder).encoding
    return read_manifest(folder).encoding


def test_hashes_have_the_same_encoding_where_they_are_the_same_ids(tmp_path, raw, texts, integers):
    ways = {
        "raw": (raw, {}),
        "integers": (integers, {}),
        "modulo": (raw, {"modulo": 777_777}),
        "modulo of integers": (integers, {"modulo": 777_777}),
        "another modulo": (raw, {"modulo": 777_776}),
        "texts": (texts, {}),
        "one text": (as_table(raw, pa.int64(), texts_of=["C3"]), {}),
    }
    same = [{"raw", "integers"}, {"modulo", "modulo of integers"}, {"another modulo"}, {"texts"}, {"one text"}]
    found = {}
    for name, (path, options) in ways.items():
        prepare_small(path, tmp_path / name, hash_rows=1000, **options)
        found[name] = (encoding(tmp_path / name), read_prepared(tmp_path / name).values)
    for one in ways:
        for other in ways:
            is_same = any({one, other} <= names for names in same)
            assert (found[one][0] == found[other][0]) is is_same, (one, other)
            assert (found[one][1] == found[other][1]) is is_same, (one, other)
    assert found["raw"][0] == CriteoFiles(raw, hash_rows=1000).encoding


def test_the_modulo_is_part_of_the_encoding_of_a_vocabulary(tmp_path):
    """All values are below both: the vocabularies are the same, but larger values have other ids."""
    line = "\t".join(["1", *["2"] * 13, *["00000003"] * 26]) + "\n"
    path = write(tmp_path / "raw.tsv", line.encode())
    for name, options in {"none": {}, "7": {"modulo": 7}, "8": {"modulo": 8}}.items():
        prepare_small(path, tmp_path / name, **options)
    assert len({encoding(tmp_path / name) for name in ("none", "7", "8")}) == 3
    prepare_small(path, tmp_path / "test", vocabulary=tmp_path / "7")
    assert encoding(tmp_path / "test") == encoding(tmp_path / "7")


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ("texts", "raw", "column C1 are hashes of texts, but the input has numbers"),
        ("raw", "texts", "column C1 are hashes of numbers, but the input has texts"),
        ("one", "integers", "column C3 are hashes of texts, but the input has numbers"),
        ("integers", "one", "column C3 are hashes of numbers, but the input has texts"),
        ("two", "integers", "hashes of texts where the input has numbers"),
    ],
)
def test_hashes_of_others_are_for_values_of_the_same_kind(tmp_path, raw, texts, integers, before, now, message):
    one, two = (as_table(raw, pa.int64(), texts_of=names) for names in (["C3"], ["C3", "C5"]))
    files = {"raw": raw, "texts": texts, "integers": integers, "one": one, "two": two}
    prepare_small(files[before], tmp_path / "train", hash_rows=1000)
    with pytest.raises(DataError, match=message):
        prepare_small(files[now], tmp_path / "test", vocabulary=tmp_path / "train")
    assert not (tmp_path / "test").exists()
    prepare_small(files[before], tmp_path / "test", vocabulary=tmp_path / "train")
    assert encoding(tmp_path / "test") == encoding(tmp_path / "train")


def test_hashes_with_a_modulo_are_made_again_with_it(tmp_path, raw):
    prepare_small(raw, tmp_path / "train", hash_rows=1000, modulo=777_777)
    prepare_small(raw, tmp_path / "test", vocabulary=tmp_path / "train")
    assert read_prepared(tmp_path / "test").values == read_prepared(tmp_path / "train").values
    assert encoding(tmp_path / "test") == encoding(tmp_path / "train")


@pytest.mark.parametrize("hash_rows", [None, 1000])
@pytest.mark.parametrize("modulo", [..., 0, -1, 2**63, 2.0, "5", True, [5]])
def test_a_modulo_that_cannot_be(tmp_path, raw, hash_rows, modulo):
    prepare_small(raw, tmp_path / "train", hash_rows=hash_rows)
    edit(tmp_path / "train", modulo)
    with pytest.raises(DataError, match=r"preparation\.json: damaged: it does not say the modulo of values"):
        prepare_small(raw, tmp_path / "test", vocabulary=tmp_path / "train")


@pytest.mark.parametrize("options", [None, 3, [1], "modulo"])
def test_options_that_cannot_be(tmp_path, raw, options):
    prepare_small(raw, tmp_path / "train")
    path = tmp_path / "train/preparation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"options": options}))
    with pytest.raises(DataError, match=r"preparation\.json: damaged: it does not say the modulo of values"):
        prepare_small(raw, tmp_path / "test", vocabulary=tmp_path / "train")


@pytest.mark.parametrize("hash_rows", [None, 1000])
def test_another_modulo_than_that_of_the_data(tmp_path, raw, hash_rows):
    prepare_small(raw, tmp_path / "train", hash_rows=hash_rows, modulo=7)
    edit(tmp_path / "train", 8)
    message = "made another way" if hash_rows else "not those of the data"
    with pytest.raises(DataError, match=message):
        prepare_small(raw, tmp_path / "test", vocabulary=tmp_path / "train")
    # Nothing was read.
    assert not list(tmp_path.glob("test/shard-*"))


def edit(folder, modulo):
    path = folder / "preparation.json"
    content = json.loads(path.read_text())
    content["options"]["modulo"] = modulo
    if modulo is ...:
        del content["options"]["modulo"]
    path.write_text(json.dumps(content))
