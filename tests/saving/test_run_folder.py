"""The folder of a run: checked first, written late, never taken from another run by accident."""

import json
import os

import pytest
from criteo_lines import files_in
from synced_files import record_syncs

from cupyrec.datasets import durable_files
from cupyrec.errors import OutputError
from cupyrec.saving.run_folder import RunFolder


def test_nothing_recorded_leaves_nothing(tmp_path):
    (tmp_path / "there").mkdir()
    for path in ("there/a/b", "c"):
        with RunFolder(tmp_path / path) as folder:
            assert folder.path.is_dir()
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "d" / "e"):
        raise ZeroDivisionError
    assert files_in(tmp_path) == ["there"]


def test_the_first_record_writes_the_configuration_too(tmp_path):
    with RunFolder(tmp_path / "a" / "run") as folder:
        folder.begin("x = 1\n")
        folder.record({"kind": "train", "step": 1})
        assert (folder.path / "config.toml").read_text() == "x = 1\n"
        # Whole lines, there to be read at once.
        assert (folder.path / "metrics.jsonl").read_text() == '{"kind": "train", "step": 1}\n'
        folder.record({"kind": "end"})
    assert files_in(tmp_path) == ["a", "a/run", "a/run/config.toml", "a/run/metrics.jsonl"]
    lines = (tmp_path / "a" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["train", "end"]


def test_all_lines_are_on_the_disk_at_the_end(tmp_path, monkeypatch):
    synced = record_syncs(monkeypatch)
    with RunFolder(tmp_path / "run") as folder:
        folder.begin("")
        folder.record({"kind": "end"})
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert synced[metrics] == metrics.stat().st_size > 0


def test_the_configuration_can_be_written_alone(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.begin('name = "é"\n')
        folder.write_config()
    assert files_in(tmp_path) == ["run", "run/config.toml"]
    assert (tmp_path / "run" / "config.toml").read_text(encoding="utf-8") == 'name = "é"\n'


RUN_FILES = [
    "model.json",
    "metrics.jsonl",
    "config.toml",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
]


@pytest.mark.parametrize("held", RUN_FILES)
def test_a_folder_that_holds_a_run_is_kept_unless_it_may_be_overwritten(tmp_path, held):
    (tmp_path / held).write_text("old")
    with pytest.raises(OutputError, match=rf"holds an earlier run \({held}\).*--overwrite"):
        RunFolder(tmp_path)
    with RunFolder(tmp_path, overwrite=True):
        pass
    assert (tmp_path / held).read_text() == "old"  # until there is something to put in its place
    with RunFolder(tmp_path, overwrite=True) as folder:
        folder.begin("")
        folder.record({"kind": "end"})
        folder.replace_earlier()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"kind": "end"}\n'


def test_a_run_at_work_is_told_before_what_it_has_written(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.begin("")
        folder.record({"kind": "train"})
        with pytest.raises(OutputError, match="another cupyrec is writing to it; wait for its end"):
            RunFolder(tmp_path)
    with pytest.raises(OutputError, match="holds an earlier run"):
        RunFolder(tmp_path)
    with RunFolder(tmp_path, overwrite=True):
        pass  # nobody holds the lock


@pytest.mark.parametrize("name", ["notes.txt", "bad_rows.tsv", "bad_rows_valid.tsv"])
def test_other_files_in_the_folder_do_not_matter(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with RunFolder(tmp_path) as folder:
        folder.begin("")
        folder.record({})
    assert (tmp_path / name).read_text() == "mine"
    assert (tmp_path / "metrics.jsonl").exists()


def test_a_place_that_cannot_be_written_is_an_error_before_anything_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "new" / ("x" * 300)):
        with pytest.raises(OutputError, match=r"cannot be written: .*choose another --output"):
            RunFolder(path)
    assert files_in(tmp_path) == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a file on a disk that is always full")
def test_a_full_disk_is_one_clear_error(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.begin("")
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(OutputError, match=r"metrics\.jsonl: cannot be written: No space left"):
            folder.record({"kind": "train"})


def test_the_earlier_run_stays_whole_until_the_new_one_is_saved(tmp_path):
    old = {name: f"old {name}" for name in ("config.toml", "metrics.jsonl", "bad_rows.tsv", "bad_rows_valid.tsv")}
    for name, content in (old | {"unsaved-bad_rows_valid.tsv": "of a run that failed", "notes.txt": "mine"}).items():
        (tmp_path / name).write_text(content)
    with RunFolder(tmp_path, overwrite=True) as folder:
        folder.begin("x = 1\n")
        folder.record({"kind": "train"})
        folder.place("bad_rows.tsv").write_text("new")
        assert {name: (tmp_path / name).read_text() for name in old} == old
        assert sorted(name for name in files_in(tmp_path) if name.startswith("unsaved-")) == [
            "unsaved-bad_rows.tsv",
            "unsaved-config.toml",
            "unsaved-metrics.jsonl",
        ]
        folder.replace_earlier()
        folder.record({"kind": "end"})
    assert files_in(tmp_path) == ["bad_rows.tsv", "config.toml", "metrics.jsonl", "notes.txt"]
    assert (tmp_path / "bad_rows.tsv").read_text() == "new"
    assert (tmp_path / "config.toml").read_text() == "x = 1\n"
    assert (tmp_path / "metrics.jsonl").read_text() == '{"kind": "train"}\n{"kind": "end"}\n'


def test_each_new_name_is_on_the_disk_before_the_next(tmp_path, monkeypatch):
    """Whenever the machine stops, the names say how far the run has come: config.toml first, checkpoints last."""
    (tmp_path / "checkpoints" / "step-00000002").mkdir(parents=True)
    (tmp_path / "checkpoints" / "notes.txt").touch()  # keeps the folder, so that checkpoints move one by one
    with RunFolder(tmp_path, overwrite=True) as folder:
        folder.begin("")
        folder.record({})
        (folder.checkpoints.path / "step-00000003").mkdir(parents=True)
        done, real_replace, real_sync = [], os.replace, durable_files.sync_file

        def replace(old, new):
            done.append(f"rename {new.relative_to(tmp_path)}")
            real_replace(old, new)

        def sync(path):
            done.append(f"sync {path.relative_to(tmp_path)}")
            real_sync(path)

        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(durable_files, "sync_file", sync)
        folder.replace_earlier()
    assert done == [
        *("rename config.toml", "sync ."),
        *("rename metrics.jsonl", "sync ."),
        *("rename checkpoints/.step-00000002.old", "sync checkpoints"),
        *("rename checkpoints/step-00000003", "sync checkpoints"),
    ]


def test_a_model_that_the_disk_has_no_room_for_is_refused(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.check_space(1000, "the model")
        with pytest.raises(OutputError, match=r"the model takes 1000 PB, but .* are free on this disk; .*--output"):
            folder.check_space(10**18, "the model")
