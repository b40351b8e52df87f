"""Trainer.save: no folder holds the weights of one run beside what another one left."""

import pytest
from criteo_lines import files_in
from made_batches import BATCH_SIZE, CONFIG, made_source

from cupyrec import Trainer, load_model
from cupyrec.errors import ConfigError, OutputError

MODEL = ["model.json", "model.safetensors"]


def make_trainer(seed=1):
    return Trainer(CONFIG, batch_size=BATCH_SIZE, threads=1, seed=seed)


def steps_of(folder):
    return load_model(folder, batch_size=4, threads=1).description["steps"]


@pytest.fixture(scope="module")
def trained():
    trainer = make_trainer()
    trainer.fit(made_source(2))
    return trainer


def test_a_model_is_replaced_only_where_that_is_said(trained, tmp_path):
    folder = tmp_path / "deep" / "model"
    make_trainer().save(folder)
    with pytest.raises(OutputError, match=r"holds an earlier model or run \(model\.json\); .* with overwrite=True$"):
        trained.save(folder)
    assert steps_of(folder) == 0
    trained.save(folder, overwrite=True)
    assert steps_of(folder) == 2
    trained.save(str(folder), {"note": "again"}, overwrite=True)
    assert [name for name in files_in(folder) if name != ".lock"] == MODEL


RUN_FILES = ["config.toml", "metrics.jsonl", "bad_rows.tsv", "model.json", "model-00001-of-00002.safetensors"]
UNSAVED = ["unsaved-config.toml", "unsaved-metrics.jsonl"]


@pytest.mark.parametrize("held", RUN_FILES)
def test_any_file_of_a_run_keeps_a_model_out(trained, tmp_path, held):
    (tmp_path / held).write_text("of another run")
    with pytest.raises(OutputError, match="holds an earlier model or run"):
        trained.save(tmp_path)
    assert files_in(tmp_path) == [held]


def test_of_a_run_that_is_replaced_nothing_is_left(trained, tmp_path):
    for name in (*RUN_FILES, *UNSAVED, "notes.txt"):
        (tmp_path / name).write_text("of another run")
    make_trainer().save_checkpoint(tmp_path / "checkpoints" / "step-00000009")
    make_trainer().save_checkpoint(tmp_path / "unsaved-checkpoints" / "step-00000009")
    trained.save(tmp_path, overwrite=True)
    assert [name for name in files_in(tmp_path) if name != ".lock"] == [*MODEL, "notes.txt"]
    assert steps_of(tmp_path) == 2


def test_checkpoints_of_another_run_keep_a_model_out(trained, tmp_path):
    make_trainer().save_checkpoint(tmp_path / "checkpoints" / "step-00000009")
    with pytest.raises(OutputError, match=r"holds an earlier model or run \(checkpoints\)"):
        trained.save(tmp_path)
    trained.save(tmp_path, overwrite=True)
    assert [name for name in files_in(tmp_path) if name != ".lock"] == MODEL


def test_checkpoints_of_the_same_training_stay(tmp_path):
    trainer = make_trainer()
    trainer.fit(made_source(3), checkpoints=trainer.checkpoints(tmp_path / "checkpoints", every=2))
    for overwrite in (False, True):
        trainer.save(tmp_path, overwrite=overwrite)
        assert (tmp_path / "checkpoints" / "step-00000003").is_dir()
        assert steps_of(tmp_path) == 3


@pytest.mark.parametrize(("held", "what"), [("prepared.json", "prepared data"), ("checkpoint.json", "a checkpoint")])
def test_what_is_no_run_is_never_replaced(trained, tmp_path, held, what):
    (tmp_path / held).write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=rf"holds {what} \({held}\); choose another folder"):
            trained.save(tmp_path, overwrite=overwrite)
    assert files_in(tmp_path) == [held]


def test_where_writing_fails_the_earlier_run_stays(trained, tmp_path, monkeypatch):
    for name in ("config.toml", "metrics.jsonl"):
        (tmp_path / name).write_text("of another run")
    monkeypatch.setattr(
        "cupyrec.saving.saved_model.write_sharded", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OutputError, match="full"):
        trained.save(tmp_path, overwrite=True)
    assert [name for name in files_in(tmp_path) if name != ".lock"] == ["config.toml", "metrics.jsonl"]


def test_a_folder_of_checkpoints_takes_no_model(tmp_path):
    trainer = make_trainer()
    trainer.fit(made_source(2), checkpoints=trainer.checkpoints(tmp_path, every=1))
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds checkpoints; choose another folder"):
            trainer.save(tmp_path, overwrite=overwrite)


def test_a_name_is_needed(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="its name is empty"):
        trained.save("")
    assert files_in(tmp_path) == []


def test_checkpoints_of_another_trainer_are_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match="these checkpoints are of another Trainer"):
        make_trainer().fit(made_source(2), checkpoints=trained.checkpoints(tmp_path, every=1))
    assert files_in(tmp_path) == []
