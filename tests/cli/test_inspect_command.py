"""`cupyrec inspect`: one screen for whatever a path holds."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from commands import check_one_error_line, run_here
from criteo_lines import TINY_MODEL, with_cell
from models_for_tests import prepare_small, save_small

from cupyrec.datasets.prepared import manifest

MOST_LINES, MOST_COLUMNS = 39, 119


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """run/ with checkpoints, of prepared/, and exported/; not to be changed."""
    from cupyrec.cli import main

    folder = tmp_path_factory.mktemp("inspect")
    data = prepare_small(folder)
    options = ["--batch-size=4", "--threads=1", "--checkpoint-every=2", "--keep=9", f"--output={folder / 'run'}"]
    shape = [option for option in TINY_MODEL if "hash-rows" not in option]
    for arguments in (
        ["train", str(data / "train.json"), f"--valid={data / 'valid.json'}", *shape, *options],
        ["export", str(folder / "run"), f"--output={folder / 'exported'}"],
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert not end.value.code
    return folder


@pytest.fixture
def folder(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def lines_of(capsys, *arguments):
    outcome = run_here(capsys, "inspect", *arguments)
    assert outcome.code == 0, outcome
    lines = outcome.out.splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= MOST_COLUMNS
    return lines


PLACES = {
    "run": "run",
    "run/checkpoints": "checkpoints",
    "run/checkpoints/step-00000002": "checkpoint",
    "prepared": "prepared data",
    "prepared/prepared.json": "prepared data",
    "prepared/test.json": "split",
    "exported": "exported model",
    "exported/model.safetensors": "exported model",
}


@pytest.mark.parametrize("place", PLACES)
def test_each_is_one_screen_for_people_and_one_line_for_programs(folder, capsys, place):
    lines = lines_of(capsys, place)
    assert lines[0] == f"{place}: {PLACES[place]}"
    assert all(line.startswith("  ") for line in lines[1:])
    verified = lines_of(capsys, place, "--verify")
    assert verified == [*lines, "  verified      everything was read; all checksums are right"]
    outcome = run_here(capsys, "inspect", place, "--json")
    assert outcome.out.count("\n") == 1
    facts = json.loads(outcome.out)
    assert (facts["kind"], facts["path"]) == (PLACES[place], place)


def test_a_run_says_how_it_went(folder, capsys):
    text = "\n".join(lines_of(capsys, "run"))
    for part in ("state         ended", "trained       20 samples in", "evaluation    step 5: AUC", "training loss "):
        assert part in text
    assert "step-00000002  2 steps, 8 samples" in text
    assert "step-00000005  5 steps, 20 samples" in text
    encoding = manifest.read_manifest(folder / "prepared").encoding
    assert f"encoding      {encoding}" in text


def test_all_that_a_later_run_has_left_is_named(folder, capsys):
    names = ["unsaved-bad_rows.tsv", "unsaved-bad_rows_valid.tsv", "unsaved-checkpoints", "unsaved-config.toml"]
    for name in names:
        (folder / "run" / name).touch()
    text = " ".join(" ".join(lines_of(capsys, "run")).split())
    assert f"a later run has left {', '.join(names)}" in text


def test_prepared_data_say_tables_coverage_and_splits(folder, capsys):
    text = "\n".join(lines_of(capsys, "prepared"))
    for part in (
        "samples       40, ",
        "inputs ",
        "transform dlrm: I1 I2 I3 I4 I5 ...",
        "C1 20 100.0%",
        "train.json  20 samples, 50.0%",
    ):
        assert part in text


def test_prepared_data_say_how_many_labels_are_1(folder, capsys):
    path = folder / "prepared" / "prepared.json"
    content = json.loads(path.read_text())
    positives = sum(line.startswith("1") for line in (folder / "raw.tsv").read_text().splitlines())
    assert content["positives"] == positives
    assert lines_of(capsys, "prepared")[1] == f"  samples       40, {positives / 40:.2%} of them with the label 1"
    del content["checksum"], content["positives"]  # as an earlier version wrote it
    path.write_text(json.dumps(content))
    assert lines_of(capsys, "prepared")[1] == "  samples       40"


def test_a_run_shows_no_option_that_its_system_does_not_use(folder, capsys):
    assert "scratchpad" not in "\n".join(lines_of(capsys, "run"))
    config = folder / "run" / "config.toml"
    config.write_text(config.read_text().replace('system = "resident"', 'system = "scratchpipe"'))
    assert "scratchpad 10%" in "\n".join(lines_of(capsys, "run"))


def test_grown_data_say_out_of_what_and_by_how_much(folder, capsys):
    assert not any("grown" in line for line in lines_of(capsys, "prepared"))
    encodings, known = [manifest.read_manifest(folder / "prepared").encoding], "prepared"
    text = (folder / "raw.tsv").read_text()
    for output, categories in {"once": [3, 5, 5], "twice": range(1, 27)}.items():
        for line, category in enumerate(categories, start=1):
            text = with_cell(text, line, 14 + category, f"{output.encode().hex()[:6]}{line:02x}")
        (folder / f"{output}.tsv").write_text(text)
        arguments = [f"{output}.tsv", "--grow", f"--vocabulary={known}", f"--output={output}"]
        assert run_here(capsys, "prepare", *arguments).code == 0
        encodings.append(manifest.read_manifest(folder / output).encoding)
        known = output
    assert f"  grown         out of {encodings[0]} by 3 rows, C5 2, C3 1" in lines_of(capsys, "once")
    lines = lines_of(capsys, "twice", "--verify")
    at = next(number for number, line in enumerate(lines) if line.startswith("  grown "))
    shown = " ".join(f"{lines[at]} {lines[at + 1]}".split())
    before = f"grown out of {encodings[1]} and 1 encoding before it by 26 rows"
    assert shown == f"{before}, C1 1, C2 1, C3 1, C4 1, C5 1, C6 1, ..."
    facts = json.loads(run_here(capsys, "inspect", "twice", "--json").out)
    assert [each["encoding"] for each in facts["earlier"]] == encodings[:2]
    assert [len(each["table_rows"]) for each in facts["earlier"]] == [26, 26]


def test_many_of_everything_are_still_one_screen(folder, capsys):
    path = folder / "prepared" / "prepared.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    content["inputs"] = [{"name": f"{'x' * 300}_{day}", "samples": 1, "bad_rows": 7} for day in range(40)]
    path.write_text(json.dumps(content))
    for number in range(30):
        shutil.copy("prepared/train.json", f"prepared/part_{number}.json")
        shutil.copytree("run/checkpoints/step-00000002", f"run/checkpoints/step-{number + 100:08}")
    for place in ("prepared", "run", "run/checkpoints"):
        lines_of(capsys, place)


def test_names_of_anybody_do_not_move_the_cursor(folder, capsys):
    path = folder / "prepared" / "prepared.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    content["inputs"][0]["name"] = "day\x1b[2J\n  verified"
    path.write_text(json.dumps(content))
    assert any("day?[2J?  verified" in line for line in lines_of(capsys, "prepared"))


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def flip_last(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


CHECKPOINT = "run/checkpoints/step-00000002"


@pytest.mark.parametrize(
    ("place", "damage", "message"),
    [
        ("run", lambda f: (f / "run/metrics.jsonl").write_text("{\n"), "run/metrics.jsonl, line 1: damaged"),
        ("run", lambda f: (f / "run/config.toml").write_text("["), "run/config.toml: not a TOML file"),
        ("run", lambda f: cut(f / "run/model.safetensors", -9), "model.safetensors: damaged"),
        ("run", lambda f: (f / "run/model.json").write_text("[]"), "run/model.json: not a cupyrec model"),
        (CHECKPOINT, lambda f: cut(f / CHECKPOINT / "checkpoint.json", 50), "checkpoint.json"),
        (CHECKPOINT, lambda f: cut(f / CHECKPOINT / "dense.safetensors", 50), "dense.safetensors"),
        (
            "prepared",
            lambda f: cut(f / "prepared/shard-00000.arrow", 50),
            "shard-00000.arrow: damaged: it has 50 bytes",
        ),
        ("prepared", lambda f: (f / "prepared/shard-00000.arrow").unlink(), "shard-00000.arrow: .* missing"),
        ("prepared", lambda f: cut(f / "prepared/prepared.json", 90), "prepared.json: damaged"),
        (
            "prepared",
            lambda f: cut(f / "prepared/vocabulary/C3.parquet", 90),
            "C3.parquet: the vocabulary cannot be read",
        ),
        ("prepared/test.json", lambda f: cut(f / "prepared/test.json", 90), "test.json: damaged"),
        ("exported", lambda f: cut(f / "exported/model.safetensors", 90), "model.safetensors: damaged"),
        ("rubbish", lambda f: (f / "rubbish").write_bytes(bytes(range(256))), "neither a .safetensors file nor"),
        ("rubbish.json", lambda f: (f / "rubbish.json").write_text("{}"), "neither a .safetensors file nor"),
        ("r.safetensors", lambda f: (f / "r.safetensors").write_bytes(b"\xff" * 99), "r.safetensors: damaged"),
        ("empty", lambda f: (f / "empty").mkdir(), "holds nothing that cupyrec makes"),
        ("nowhere", lambda f: None, "no such file or folder"),
    ],
)
def test_damage_and_rubbish_are_one_line_that_names_the_file(folder, capsys, place, damage, message):
    damage(folder)
    line = check_one_error_line(run_here(capsys, "inspect", place))
    assert line.startswith(place.split("/")[0])
    assert re.search(message, line)


def test_what_is_damaged_among_others_is_listed(folder, capsys):
    cut(folder / CHECKPOINT / "dense.safetensors", 50)
    (folder / "prepared" / "test.json").write_text("{")
    assert any("step-00000002" in line and "dense.safetensors" in line for line in lines_of(capsys, "run/checkpoints"))
    assert any("test.json  damaged" in line for line in lines_of(capsys, "prepared"))


@pytest.mark.parametrize(
    ("place", "file", "message"),
    [
        ("run/checkpoints", f"{CHECKPOINT}/dense.safetensors", "dense.safetensors"),
        ("prepared", "prepared/vocabulary/C3.parquet", "C3.parquet"),
    ],
)
def test_a_flipped_byte_is_found_by_verify(folder, capsys, place, file, message):
    flip_last(folder / file)
    outcome = run_here(capsys, "inspect", place, "--verify")
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err.splitlines()[-1]


def test_a_label_that_changed_is_found_by_verify(folder, capsys):
    path = folder / "prepared" / "shard-00000.arrow"
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(1).tobytes()) + 1] ^= 1
    path.write_bytes(content)
    assert "samples       40" in "\n".join(lines_of(capsys, "prepared"))
    outcome = run_here(capsys, "inspect", "prepared/train.json", "--verify")
    assert outcome.code == 2
    assert "shard-00000.arrow: damaged: the checksum of rows 0 to 39" in outcome.err


def test_its_help_loads_neither_numba_nor_pyarrow():
    code = "import sys; from cupyrec.cli import main\ntry: main(['inspect', '--help'])\nfinally: print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--verify" in loaded.stdout
    assert not {"numba", "pyarrow"} & set(loaded.stdout.split())


def test_a_model_of_the_best_evaluation_says_so(tmp_path, capsys):
    save_small(tmp_path, steps=900, model_step=0)
    lines = [line.strip() for line in lines_of(capsys, tmp_path)]
    assert f"{'steps':<14}0, the best evaluation of 900 steps" in lines


def test_a_run_that_ended_early_says_so(folder, capsys):
    metrics = folder / "run" / "metrics.jsonl"
    *lines, end = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join([*lines, end.replace('"out_of_patience": false', '"out_of_patience": true')]))
    shown = [line.strip() for line in lines_of(capsys, "run")]
    assert f"{'state':<14}ended early: the last evaluations had no better AUC than one before" in shown
