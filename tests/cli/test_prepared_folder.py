"""Folders of prepared data that are not whole, or not finished: what each command says, and what helps."""

import json
import re

import numpy as np
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


def test_what_the_values_lose_is_told(tmp_path, capsys):
    """Columns that are scaled, and values that the vocabulary does not have."""
    draw = np.random.default_rng(0)
    scaled = {f"s{number}": draw.standard_normal(400) for number in range(9)}
    columns = {"clicked": [0, 1] * 200, "count": [-1, -1, -1] + [5] * 397, **scaled, "user": list(range(400))}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    columns |= {"user": [7] * 300 + list(range(1000, 1100))}
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    named = ["--label=clicked", f"--dense-columns=count,{','.join(scaled)}", "--category-columns=user"]

    def told(name, *options):
        outcome = run_here(capsys, "prepare", tmp_path / f"{name}.parquet", "--output", tmp_path / name, *options)
        assert outcome.code == 0, outcome
        return outcome.out.splitlines()[4:]

    shares = sorted(((values < 0).mean() for values in scaled.values()), reverse=True)
    first, negative = told("a", *named)[0].split(": ")
    assert first == "negative values count as 0 under --dense-transform dlrm"
    assert re.findall(r"s\d (\S+)%", negative) == [f"{100 * share:.2f}" for share in shares[:6]]
    assert negative.endswith("% of the rows, ...; for columns that are scaled already give --dense-transform none")
    known = ["--vocabulary", tmp_path / "a"]
    unknown, negative = told("b", *known)
    assert unknown == f"without an id in {tmp_path / 'a'}: user 25.00% of the values"
    assert negative.endswith(
        f"; for columns that are scaled already prepare this and {tmp_path / 'a'} with --dense-transform none"
    )
    text = " ".join(run_here(capsys, "inspect", tmp_path / "b").out.split())
    assert re.search(r" negative count as 0: s0 [\d.]+% of the samples, s1 .*, s5 [\d.]+%, 3 more ids ", text)
    assert "values with a row of their own user 401 75.0% size" in text
    assert told("a", *named, "--dense-transform=none", "--overwrite") == []
    assert told("b", *known, "--overwrite") == [unknown]
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    assert told("c", *known) == [f"all values have an id in {tmp_path / 'a'}"]


def test_a_vocabulary_that_is_gone_is_missed(prepared, tmp_path, capsys):
    lost = prepared / "vocabulary" / "C3.parquet"
    whole = lost.read_bytes()
    lost.unlink()
    again = ["prepare", tmp_path / "day_0", "--output", prepared]
    message = check_one_error_line(run_here(capsys, *again))
    assert message.startswith(f"{lost}: a vocabulary of the prepared data is missing")
    assert run_here(capsys, *again, "--overwrite").code == 0
    assert lost.read_bytes() == whole


def test_text_takes_the_vocabulary_of_a_table_and_a_table_other_names(tmp_path, capsys):
    named = {"click": [0, 1], "I1": [1, 2], "C1": [7, 8]}
    pq.write_table(pa.table(named), tmp_path / "a.parquet")
    columns = ["--label=click", "--dense-columns=I1", "--category-columns=C1"]
    arguments = ["prepare", tmp_path / "a.parquet", "--output", tmp_path / "a", *columns, "--hash-rows=50"]
    assert run_here(capsys, *arguments).code == 0
    pq.write_table(pa.table({"click2": [0, 1], "I1": [1, 2], "C1": [7, 8]}), tmp_path / "b.parquet")
    known = ["--vocabulary", tmp_path / "a", "--output", tmp_path / "b"]
    assert run_here(capsys, "prepare", tmp_path / "b.parquet", *known, "--label=click2").code == 0
    write_learnable(tmp_path / "day_0", 4)
    message = check_one_error_line(
        run_here(capsys, "prepare", tmp_path / "day_0", "--vocabulary", tmp_path / "a", "--output", tmp_path / "c")
    )
    assert "has the dense features I1, but the input I1, I2" in message


def test_the_usual_label_is_no_feature_either(tmp_path, capsys):
    pq.write_table(pa.table({"label": [0, 1], "I1": [1, 2], "C1": [7, 8]}), tmp_path / "a.parquet")
    arguments = ["prepare", tmp_path / "a.parquet", "--output", tmp_path / "a", "--dense-columns=I1"]
    message = check_one_error_line(run_here(capsys, *arguments, "--category-columns=label,C1"))
    assert message == "--category-columns names label, which is the label"


def test_links_in_a_circle(prepared, tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    arguments = ["prepare", tmp_path / "day_0", "--output", tmp_path / "new", "--on-bad-row=skip"]
    message = check_one_error_line(run_here(capsys, *arguments, "--bad-rows", tmp_path / "loop" / "x"))
    assert str(tmp_path / "loop") in message
