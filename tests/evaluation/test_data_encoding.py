"""Data that give other ids to the same values than the data of the training are refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from cupyrec.config import DlrmConfig
from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.prepared.encoding import encoding_id
from cupyrec.errors import ConfigError, ModelError
from cupyrec.evaluation.data_encoding import check_same_encoding, model_encoding, raw_encoding

CONFIG = DlrmConfig((50,) * 26)
RAW = raw_encoding(CONFIG)
VOCABULARY, OTHER = (encoding_id("dlrm", CONFIG.table_rows, [digest] * 26) for digest in ("ab", "cd"))


def of(encoding):
    return SimpleNamespace(encoding=encoding, files=["day_0"], table_rows=CONFIG.table_rows)


def prepared(encoding, ids, table_rows=CONFIG.table_rows):
    manifest = SimpleNamespace(ids=ids, dense_transform="none")
    return SimpleNamespace(encoding=encoding, path="p/train.json", manifest=manifest, table_rows=table_rows)


def test_raw_files_have_the_encoding_that_models_without_one_are_taken_to_have(tmp_path):
    (tmp_path / "a.tsv").write_text("x")
    assert CriteoFiles(tmp_path / "a.tsv", hash_rows=50).encoding == RAW
    assert CriteoFiles(tmp_path / "a.tsv", hash_rows=51).encoding != RAW


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ({}, RAW),
        ({"training": None}, RAW),
        ({"training": {"device": "cpu"}}, RAW),
        ({"training": {"encoding": VOCABULARY}}, VOCABULARY),
        ({"training": {"encoding": None}}, None),
    ],
)
def test_what_a_model_remembers(description, expected):
    assert model_encoding(CONFIG, description, Path("m")) == expected


def test_a_damaged_encoding_is_told():
    with pytest.raises(ModelError, match=r"^m: .*damaged: encoding is 3$"):
        model_encoding(CONFIG, {"training": {"encoding": 3}}, Path("m"))


@pytest.mark.parametrize(
    ("data", "model"), [(RAW, RAW), (VOCABULARY, VOCABULARY), (RAW, None), (VOCABULARY, None), (None, VOCABULARY)]
)
def test_the_same_or_an_unknown_one_is_taken(data, model):
    check_same_encoding(of(data), CONFIG, model)


def test_a_source_of_ones_own_need_not_have_one():
    check_same_encoding(SimpleNamespace(), CONFIG, VOCABULARY)


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        (of(RAW), VOCABULARY, r"^day_0: read as raw files, but .*: prepare them with `cupyrec prepare .* FOLDER`"),
        (
            prepared(VOCABULARY, "first"),
            RAW,
            r"^p/train\.json: prepared with --ids first and --dense-transform none, but the model was trained on raw "
            "files, or on data prepared with --hash-rows 50: name the raw files, or data prepared in that way$",
        ),
        (
            prepared(OTHER, "hash", (50, 9)),
            VOCABULARY,
            rf"with --hash-rows 50,9 .*, encoding {OTHER}, but .*, encoding {VOCABULARY}: .*--vocabulary FOLDER",
        ),
        (
            CriteoFiles(Path(__file__).parents[2] / "data" / "sample.tsv.gz", hash_rows=60),
            RAW,
            "raw files read with --hash-rows 60, but the model was trained with --hash-rows 50: give the same rows$",
        ),
    ],
)
def test_another_one_is_refused_with_what_differs_and_what_to_do(data, model, message):
    with pytest.raises(ConfigError, match=message):
        check_same_encoding(data, CONFIG, model)
