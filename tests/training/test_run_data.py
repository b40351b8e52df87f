"""The files of a run: nothing that is read is written, and validation data are not training data."""

import pytest
from criteo_lines import files_in, learnable_text, with_cell, write_learnable

from cupyrec.errors import ConfigError
from cupyrec.run_config import RunConfig
from cupyrec.training.run_data import RunData
from cupyrec.training.run_folder import RunFolder


@pytest.fixture
def data(tmp_path, monkeypatch):
    """day_0.tsv and valid.tsv in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_learnable(tmp_path / "valid.tsv", 10, first=20)
    return write_learnable(tmp_path / "day_0.tsv", 20)


def make(folder=None, config_file=None, **options):
    values = {"paths": "day_0.tsv", "on-bad-row": "skip"} | {k.replace("_", "-"): v for k, v in options.items()}
    return RunData(RunConfig.from_values(values), folder, config_file)


def test_bad_rows_replace_neither_training_nor_validation_data_nor_the_configuration(data, tmp_path):
    (tmp_path / "run.toml").write_text("")
    data.rename(tmp_path / "day_valid.tsv")
    before = files_in(tmp_path)
    files = {"paths": "day_valid.tsv", "valid": "valid.tsv", "overwrite": True}
    for bad_rows, replaced in (
        ("day_valid.tsv", "day_valid.tsv"),
        ("day.tsv", "day_valid.tsv"),  # the file beside it, for the validation data
        ("valid.tsv", "valid.tsv"),
        ("run.toml", "run.toml"),
        (str(tmp_path / "valid.tsv"), "valid.tsv"),
    ):
        with pytest.raises(ConfigError, match=f"would overwrite the input file {replaced}"):
            make(config_file="run.toml", bad_rows=bad_rows, **files)
    assert files_in(tmp_path) == before
    make(config_file="run.toml", bad_rows="bad.tsv", **files)
    # Where no bad row will be written, nothing is in the way.
    make(config_file="run.toml", bad_rows="valid.tsv", on_bad_row="error", **files)


def test_older_bad_rows_stay_unless_they_may_be_overwritten(data, tmp_path):
    (tmp_path / "bad_rows_valid.tsv").write_text("precious")
    make()
    with pytest.raises(ConfigError, match=r"bad_rows_valid\.tsv: exists"):
        make(valid="valid.tsv")
    make(valid="valid.tsv", overwrite=True)
    make(valid="valid.tsv", on_bad_row="error")


def test_bad_rows_need_a_file_of_their_own_name(data, tmp_path):
    with pytest.raises(ConfigError, match="a folder; name a file"):
        make(bad_rows=".")
    with RunFolder(tmp_path / "run") as folder:
        for name in ("model.json", "config.toml", "metrics.jsonl", "model.safetensors"):
            with pytest.raises(ConfigError, match=f"the run's own {name}"):
                make(folder, bad_rows=str(tmp_path / "run" / name))


def test_validation_data_are_not_training_data(data, tmp_path):
    (tmp_path / "link").symlink_to("valid.tsv")
    for paths, valid in (("day_0.tsv", "day_0.tsv"), ("*.tsv", "valid.tsv"), ("valid.tsv", "link")):
        with pytest.raises(ConfigError, match=f"the validation file {valid} is among the training files"):
            make(paths=paths, valid=valid)
    make(valid="valid.tsv")


def test_no_input_is_replaced_with_the_earlier_run(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "bad_rows.tsv").write_text(learnable_text(5))
    with RunFolder(tmp_path / "run", overwrite=True) as folder:
        with pytest.raises(ConfigError, match=r"bad_rows\.tsv would be replaced by this run"):
            make(folder, paths="run/bad_rows.tsv", on_bad_row="error")
        make(folder, on_bad_row="error")


def test_bad_rows_are_found_under_the_name_that_they_have_in_the_end(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("old")
    data.write_text(with_cell(learnable_text(20), 3, 1, "9"))
    for options in ({}, {"bad_rows": "run/mine.tsv"}):
        with RunFolder(tmp_path / "run", overwrite=True) as folder:
            found = make(folder, overwrite=True, **options)
            train, _ = found.split(lambda line: None)
            assert sum(batch.samples for batch in train.batches(5)) == 19
            final = tmp_path / options.get("bad_rows", "run/bad_rows.tsv")
            assert [path.resolve() for path in found.bad_rows()] == [final]
            assert (tmp_path / "run" / f"unsaved-{final.name}").exists()
            assert not final.exists()
