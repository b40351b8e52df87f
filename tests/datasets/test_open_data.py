"""Raw files and prepared data by what the user names."""

import pytest
from criteo_lines import write_learnable

from cupyrec import CriteoFiles
from cupyrec.datasets.open_data import data_files, is_prepared, open_data
from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.datasets.prepared.splits import by_share, write_splits
from cupyrec.datasets.preparing.job import prepare
from cupyrec.datasets.preparing.prepare_options import PrepareOptions
from cupyrec.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """raw.tsv, and prepared/ made of it with hashes into 50 rows, and its splits."""
    folder = tmp_path_factory.mktemp("open_data")
    write_learnable(folder / "raw.tsv", 40)
    prepare(PrepareOptions(folder / "raw.tsv", folder / "prepared", hash_rows=50, threads=1))
    content = read_manifest(folder / "prepared")
    write_splits(folder / "prepared", content, "shares", by_share(40, (0.5, 0.25, 0.25)), overwrite=False)
    return folder


def test_each_kind_is_told_from_the_other(folder):
    for path, samples in (("prepared", 40), ("prepared/prepared.json", 40), ("prepared/valid.json", 10)):
        for paths in (folder / path, str(folder / path), [folder / path], (str(folder / path),)):
            assert is_prepared(paths)
            data = open_data(paths, hash_rows=7)
            assert isinstance(data, PreparedData)
            assert (data.samples, data.table_rows) == (samples, (50,) * 26)
    for paths in (folder / "raw.tsv", str(folder), [str(folder / "*.tsv")]):
        assert not is_prepared(paths)
        raw = open_data(paths, hash_rows=7)
        assert isinstance(raw, CriteoFiles)
        assert raw.table_rows == (7,) * 26


def test_the_same_ids_are_the_same_encoding(folder):
    assert open_data(folder / "prepared").encoding == open_data(folder / "raw.tsv", hash_rows=50).encoding
    assert open_data(folder / "prepared").encoding != open_data(folder / "raw.tsv", hash_rows=51).encoding


@pytest.mark.parametrize(
    "paths", [["prepared", "raw.tsv"], ["raw.tsv", "prepared/valid.json"], ["prepared/train.json", "prepared"]]
)
def test_prepared_data_stand_alone(folder, paths):
    for use in (is_prepared, open_data, data_files):
        with pytest.raises(ConfigError, match="prepared data stand alone, but 2 paths"):
            use([folder / path for path in paths])


def test_raw_files_are_not_shuffled(folder):
    assert open_data(folder / "prepared", shuffle=True, shuffle_window=8, seed=2).samples == 40
    with pytest.raises(ConfigError, match=r"raw files cannot be shuffled; .*`cupyrec prepare`"):
        open_data(folder / "raw.tsv", shuffle=True)


def test_a_split_that_is_not_there(folder, tmp_path):
    with pytest.raises(DataError, match=r"tests\.json: there is no such split"):
        open_data(folder / "prepared" / "tests.json")
    with pytest.raises(DataError, match=r"there is no prepared\.json"):
        open_data(tmp_path / "train.json")


def test_nothing_named_is_an_error():
    with pytest.raises(ConfigError):
        open_data([])


def test_the_files_that_are_read(folder):
    assert data_files(folder / "raw.tsv") == (folder / "raw.tsv",)
    names = {file.name for file in data_files(folder / "prepared" / "valid.json")}
    assert names == {"prepared.json", "valid.json", "shard-00000.arrow"}
