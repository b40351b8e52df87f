"""`cupyrec split` as it is typed."""

import json
import subprocess
import sys

import pytest
from commands import check_one_error_line, run_here, run_process

from cupyrec.datasets.prepared.manifest import Category, InputFile, Manifest, Shard, manifest_json, shard_name


@pytest.fixture
def folder(tmp_path):
    """Of 100 samples; the data are looked at for their size alone."""
    folder = tmp_path / "data set"
    folder.mkdir()
    inputs = tuple(InputFile(f"day_{day}", samples) for day, samples in enumerate((40, 30, 30)))
    shards = (Shard(shard_name(0), 100, 1, (0,)),)
    content = Manifest(("I1",), "log", "hash", (Category("C1", 5),), "0123456789abcdef", inputs, shards)
    (folder / "prepared.json").write_text(manifest_json(content))
    (folder / shard_name(0)).write_bytes(b"x")
    return folder


def ranges(folder):
    return {name: json.loads((folder / f"{name}.json").read_text())["ranges"] for name in ("train", "valid", "test")}


def test_writes_three_parts_and_says_what_is_next(folder, capsys):
    outcome = run_here(capsys, "split", folder, "--shares", "0.8,0.1,0.1")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        f"{folder}/train.json: 80 samples, 80.0%",
        f"{folder}/valid.json: 10 samples, 10.0%",
        f"{folder}/test.json: 10 samples, 10.0%",
        f"next: cupyrec train '{folder}/train.json' --valid '{folder}/valid.json' --shuffle",
    ]
    assert ranges(folder) == {"train": [[0, 80]], "valid": [[80, 90]], "test": [[90, 100]]}
    assert json.loads((folder / "test.json").read_text())["how"] == "shares 0.8,0.1,0.1"


@pytest.mark.parametrize(
    ("arguments", "train", "valid", "test"),
    [
        (["--kaggle"], [0, 86], [93, 100], [86, 93]),
        (["--terabyte"], [0, 70], [85, 100], [70, 85]),
        (["--days", "1,1,1"], [0, 40], [40, 70], [70, 100]),
    ],
)
def test_each_way(folder, capsys, arguments, train, valid, test):
    assert run_here(capsys, "split", folder, *arguments).code == 0
    assert ranges(folder) == {"train": [train], "valid": [valid], "test": [test]}


def test_another_split_takes_overwrite_and_the_same_does_not(folder, capsys):
    assert run_here(capsys, "split", folder, "--kaggle").code == 0
    assert run_here(capsys, "split", folder, "--kaggle").code == 0
    assert "--overwrite" in check_one_error_line(run_here(capsys, "split", folder, "--terabyte"))
    assert ranges(folder)["train"] == [[0, 86]]
    assert run_here(capsys, "split", folder, "--terabyte", "--overwrite").code == 0
    assert ranges(folder)["train"] == [[0, 70]]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "one of --kaggle, --terabyte, --shares and --days"),
        (["--kaggle", "--days", "1,1,1"], "one of --kaggle"),
        (["--shares", "0.8,0.2"], "three numbers above 0 that sum to 1"),
        (["--shares", "a,b,c"], "three numbers with commas"),
        (["--shares", ""], "three numbers with commas"),
        (["--shares", "nan,1,1"], "three numbers above 0"),
        (["--days", "2.5,1,1"], "--days must be three numbers"),
        (["--days", "22,1,1"], "the 3 input files"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, arguments, part):
    assert part in check_one_error_line(run_here(capsys, "split", folder, *arguments))
    assert not (folder / "train.json").exists()


def test_a_folder_without_prepared_data_is_one_line(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "none"):
        assert "no prepared data" in check_one_error_line(run_here(capsys, "split", path, "--kaggle"))


def test_its_help_loads_neither_numba_nor_pyarrow():
    code = "import sys; from cupyrec.cli import main\ntry: main(['split', '--help'])\nfinally: print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "TRAIN,VALID,TEST" in loaded.stdout
    assert not {"numba", "pyarrow"} & set(loaded.stdout.split())


def test_runs_as_a_command(folder):
    assert run_process("split", folder, "--kaggle").code == 0
