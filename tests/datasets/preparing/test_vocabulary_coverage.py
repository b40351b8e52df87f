"""Shares of samples whose values have ids of their own."""

import pytest
from criteo_lines import learnable_text, with_cell, write_learnable

from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.preparing.job import prepare
from cupyrec.datasets.preparing.prepare_options import PrepareOptions
from cupyrec.datasets.preparing.vocabulary_coverage import coverages
from cupyrec.errors import DataError


def prepared(folder, name, **options):
    prepare(PrepareOptions(folder / "raw.tsv", folder / name, threads=1, **options))
    return coverages(folder / name, read_manifest(folder / name))


def test_rare_values_are_not_covered(tmp_path):
    text = learnable_text(40)
    for line in (3, 8):
        text = with_cell(text, line, 15, f"{line:08x}dead")
    (tmp_path / "raw.tsv").write_text(text)
    found = prepared(tmp_path, "all")
    assert found == [1.0] * 26
    values = [line.split("\t")[14] for line in text.splitlines()]
    covered = sum(values.count(value) >= 2 for value in values)
    found = prepared(tmp_path, "frequent", min_count=2)
    assert found[0] == pytest.approx(covered / 40)
    assert covered <= 38


def test_what_is_not_known_is_none(tmp_path):
    write_learnable(tmp_path / "raw.tsv", 40)
    assert prepared(tmp_path, "hashed", hash_rows=50) == [None] * 26
    assert prepared(tmp_path, "hashed again", vocabulary=tmp_path / "hashed") == [None] * 26


def test_a_damaged_vocabulary_is_told(tmp_path):
    write_learnable(tmp_path / "raw.tsv", 40)
    prepared(tmp_path, "all")
    path = tmp_path / "all" / read_manifest(tmp_path / "all").categories[1].vocabulary
    content = path.read_bytes()
    for spoilt in (b"", b"no parquet", content[:-9]):
        path.write_bytes(spoilt)
        with pytest.raises(DataError, match="the vocabulary cannot be read") as caught:
            coverages(tmp_path / "all", read_manifest(tmp_path / "all"))
        assert caught.value.path == path
        assert "\n" not in str(caught.value)
