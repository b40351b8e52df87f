"""Data without labels: prepared, gone on with and read as those with labels are, and good for predictions alone."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from criteo_files_for_tests import write
from prepare_reference import Rows, check_prepared, contents_of, criteo_rows, encode
from small_prepare import criteo_text, prepare_small, small_shards

from cupyrec import CriteoFiles, DlrmConfig, PreparedData, Trainer
from cupyrec.datasets.prepared import manifest as manifest_module
from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.preparing.job import Stopped
from cupyrec.datasets.preparing.prepare_options import PrepareOptions
from cupyrec.errors import ConfigError, DataError
from cupyrec.inspection.inspection import inspect_path

ROWS = 170
TABLE = {"age": [1.0, 2.0, None], "user": [5, 6, 5]}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_shards(monkeypatch)


def without_labels(text: bytes) -> bytes:
    return b"".join(line.partition(b"\t")[2] for line in text.splitlines(keepends=True))


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "test.tsv", without_labels(criteo_text(ROWS)))


def rows_without_labels(text: bytes) -> Rows:
    rows = criteo_rows(text)
    return Rows([0.0] * len(rows.labels), rows.dense, rows.values)


@pytest.mark.parametrize("options", [{}, {"ids": "first"}, {"hash_rows": 9}])
def test_all_but_the_labels_is_as_with_them(tmp_path, path, options):
    prepare_small(path, tmp_path / "out", no_labels=True, **options)
    prepare_small(write(tmp_path / "labelled.tsv", criteo_text(ROWS)), tmp_path / "labelled", **options)
    data, labelled = PreparedData(tmp_path / "out"), PreparedData(tmp_path / "labelled")
    assert (data.labelled, labelled.labelled) == (False, True)
    assert data.encoding == labelled.encoding
    for found, expected in zip(data.batches(50), labelled.batches(50), strict=True):
        assert not found.labels.any()
        np.testing.assert_array_equal(found.dense, expected.dense)
        np.testing.assert_array_equal(found.rows, expected.rows)


def test_it_goes_on_after_a_stop_and_is_the_same_bits(tmp_path, path):
    prepare_small(path, tmp_path / "whole", no_labels=True)
    asked = []
    hooks = {"stop": lambda: asked.append(None) or len(asked) > 4}
    with pytest.raises(Stopped):
        prepare_small(path, tmp_path / "out", no_labels=True, threads=1, hooks=hooks)
    resumed = prepare_small(path, tmp_path / "out", no_labels=True)
    assert 0 < resumed.rows_read < ROWS
    check_prepared(tmp_path / "out", encode(rows_without_labels(criteo_text(ROWS))))
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")
    assert not prepare_small(path, tmp_path / "out", no_labels=True).worked


@pytest.mark.parametrize("first", [True, False])
def test_with_and_without_labels_are_other_data(tmp_path, path, first):
    labelled = write(tmp_path / "labelled.tsv", criteo_text(ROWS))
    prepare_small(path if first else labelled, tmp_path / "out", no_labels=first)
    with pytest.raises(ConfigError, match=r"holds prepared data with labels (\"none\", not null|null, not \"none\");"):
        prepare_small(path if first else labelled, tmp_path / "out", no_labels=not first)
    # An earlier cupyrec had no such option: what it has prepared is still known.
    options = json.loads((tmp_path / "out/preparation.json").read_text())["options"]
    assert ("labels" in options) == first


def test_bad_rows_are_told_by_the_columns_of_the_file(tmp_path):
    lines = without_labels(criteo_text(40)).splitlines(keepends=True)
    lines[20] = b"x" + lines[20]
    path = write(tmp_path / "test.tsv", b"".join(lines))
    with pytest.raises(DataError, match="expected an integer") as raised:
        prepare_small(path, tmp_path / "out", no_labels=True)
    assert (raised.value.line, raised.value.column) == (21, 1)
    prepare_small(path, tmp_path / "skipped", no_labels=True, on_bad_row="skip")
    assert (tmp_path / "skipped/bad_rows.tsv").read_bytes().split(b"\t", 3)[3] == lines[20]


def test_inspect_says_it_and_damage_is_found(tmp_path, path):
    prepare_small(path, tmp_path / "out", no_labels=True)
    facts = inspect_path(tmp_path / "out", verify=True)
    assert (facts["labels"], facts["samples"]) == (False, ROWS)
    shard = tmp_path / "out/shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    # The 8 labels of a block, 0 all of them, are the first buffer of that length.
    at = content.index(bytes(32), 1000)
    content[at] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        inspect_path(tmp_path / "out", verify=True)


def test_an_earlier_cupyrec_refuses_them(tmp_path, path, monkeypatch):
    prepare_small(path, tmp_path / "out", no_labels=True)
    content = json.loads((tmp_path / "out/prepared.json").read_text())
    assert (content["version"], content["labels"]) == (2, False)
    monkeypatch.setattr(manifest_module, "UNLABELLED_VERSION", 1)
    with pytest.raises(DataError, match="format version 2"):
        read_manifest(tmp_path / "out")


@pytest.mark.parametrize("label", [{}, {"clicked": [1, None, 7]}])
def test_tables_need_no_label_and_one_that_is_there_is_not_read(tmp_path, label):
    table = pa.table({**label, **TABLE})
    pq.write_table(table, tmp_path / "a.parquet")
    columns = {"dense_columns": ["age"], "category_columns": ["user"]}
    with pytest.raises(ConfigError, match=r"give --label \(or --no-labels, where there are none\), out of"):
        prepare_small(tmp_path / "a.parquet", tmp_path / "out", **columns)
    prepare_small(tmp_path / "a.parquet", tmp_path / "out", no_labels=True, **columns)
    (batch,) = PreparedData(tmp_path / "out").batches(9)
    assert batch.labels.tolist() == [0, 0, 0]
    assert batch.rows.tolist() == [1, 2, 1]


def test_a_table_without_a_label_takes_the_columns_of_the_vocabulary(tmp_path):
    pq.write_table(pa.table({"clicked": [1, 0, 1], **TABLE}), tmp_path / "train.parquet")
    columns = {"dense_columns": ["age"], "category_columns": ["user"]}
    prepare_small(tmp_path / "train.parquet", tmp_path / "train", label="clicked", **columns)
    pq.write_table(pa.table(TABLE), tmp_path / "test.parquet")
    known = {"vocabulary": tmp_path / "train"}
    with pytest.raises(DataError, match="there is no column clicked"):
        prepare_small(tmp_path / "test.parquet", tmp_path / "out", **known)
    prepare_small(tmp_path / "test.parquet", tmp_path / "out", no_labels=True, **known)
    (found,), (expected,) = PreparedData(tmp_path / "out").batches(9), PreparedData(tmp_path / "train").batches(9)
    np.testing.assert_array_equal(found.rows, expected.rows)
    assert PreparedData(tmp_path / "out").encoding == PreparedData(tmp_path / "train").encoding


def test_a_label_and_none_exclude_each_other():
    with pytest.raises(ConfigError, match="--no-labels and --label exclude each other"):
        PrepareOptions("a.parquet", "out", no_labels=True, label="clicked")


def test_the_library_trains_and_evaluates_on_labels_alone(tmp_path, path):
    prepare_small(path, tmp_path / "out", no_labels=True, hash_rows=9)
    trainer = Trainer(DlrmConfig((9,) * 26, dimension=4, bottom=(8, 4), top=(8, 1)), threads=1, batch_size=8)
    labelled = CriteoFiles(write(tmp_path / "labelled.tsv", criteo_text(9)), hash_rows=9)
    for source in (PreparedData(tmp_path / "out"), CriteoFiles(path, hash_rows=9, labels=False)):
        for use in (trainer.fit, trainer.evaluate, lambda source: trainer.fit(labelled, valid=source)):
            with pytest.raises(ConfigError, match="the samples have no labels"):
                use(source)
    assert trainer.state.steps == 0
