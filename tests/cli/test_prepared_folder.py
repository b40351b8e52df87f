"""Folders of prepared data that are not whole, or not finished: what each command says, and what helps."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import check_one_error_line, run_here
from criteo_lines import write_learnable


@pytest.fixture
def prepared(tmp_path, capsys):
    write_learnable(tmp_path / "day_0", 40)
    assert run_here(capsys, "prepare", tmp_path / "day_0", "--output", tmp_path / "data").code == 0
    assert run_here(capsys, "split", tmp_path / "data", "--shares=0.5,0.25,0.25").code == 0
    return tmp_path / "data"


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_data_that_lost_a_shard_are_not_finished_and_are_made_anew(prepared, tmp_path, capsys, damage):
    shard = prepared / "shard-00000.arrow"
    whole = shard.read_bytes()
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(whole[:-8])
    again = ["prepare", tmp_path / "day_0", "--output", prepared]
    for command in (again, ["train", prepared]):
        message = check_one_error_line(run_here(capsys, *command))
        assert message.startswith(f"{shard}: ")
        assert message.endswith("prepare the data again with --overwrite")
    assert run_here(capsys, *again, "--overwrite").code == 0
    assert shard.read_bytes() == whole
    # A split of what was there before is not one of this.
    assert not (prepared / "train.json").exists()


def test_an_unfinished_preparation_is_told_as_that(prepared, capsys):
    (prepared / "prepared.json").unlink()
    for command in (["split", prepared, "--kaggle"], ["train", prepared], ["advise", prepared]):
        message = check_one_error_line(run_here(capsys, *command))
        assert message.endswith("the same `cupyrec prepare` goes on with it")


def test_a_split_away_from_its_data(prepared, tmp_path, capsys):
    lone = tmp_path / "lone.json"
    lone.write_text((prepared / "train.json").read_text())
    message = check_one_error_line(run_here(capsys, "train", lone))
    assert message == f"{lone}: a split is of use only in the folder of its data, where there is none"
    message = check_one_error_line(run_here(capsys, "split", prepared / "train.json", "--kaggle"))
    assert message == f"{prepared / 'train.json'}: a file; name the folder of the prepared data"


def test_columns_of_tables_are_those_of_the_vocabulary(tmp_path, capsys):
    columns = {
        "user": [3, 5, 3, 9],
        "clicked": [0, 1, 0, 1],
        "age": [1.0, 2.0, 3.0, 4.0],
        "other": list("abcd"),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    pq.write_table(pa.table({**columns, "user": [9, 9, 7, 3]}), tmp_path / "b.parquet")
    named = ["--label=clicked", "--dense-columns=age", "--category-columns=user"]
    assert run_here(capsys, "prepare", tmp_path / "a.parquet", "--output", tmp_path / "a", *named).code == 0
    outcome = run_here(
        capsys, "prepare", tmp_path / "b.parquet", "--output", tmp_path / "b", "--vocabulary", tmp_path / "a"
    )
    assert outcome.code == 0, outcome
    manifests = [json.loads((tmp_path / name / "prepared.json").read_text()) for name in "ab"]
    assert manifests[0]["categories"] == manifests[1]["categories"]
    assert manifests[0]["encoding"] == manifests[1]["encoding"]
