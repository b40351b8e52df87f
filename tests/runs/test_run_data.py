"""The files of a run: nothing that is read is written, and validation data are not training data."""

from pathlib import Path

import numpy as np
import pytest
from criteo_lines import files_in, learnable_text, with_cell, write_learnable

from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.prepared.splits import by_share, write_splits
from cupyrec.datasets.preparing.job import prepare
from cupyrec.datasets.preparing.prepare_options import PrepareOptions
from cupyrec.errors import ConfigError, OutputError
from cupyrec.run_config import RunConfig
from cupyrec.runs.run_data import RunData
from cupyrec.saving.run_folder import RunFolder


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
    (tmp_path / "run" / "metrics.jsonl").write_text("old")
    with RunFolder(tmp_path / "run", overwrite=True) as folder:
        with pytest.raises(ConfigError, match=r"bad_rows\.tsv would be replaced by this run"):
            make(folder, paths="run/bad_rows.tsv", on_bad_row="error")
        make(folder, on_bad_row="error")


def test_no_run_is_written_into_the_folder_of_its_input_files(data, tmp_path):
    with RunFolder(tmp_path) as folder:
        for paths, valid in (("day_0.tsv", ()), (".", ())):
            with pytest.raises(ConfigError, match=r"the folder of the input file .*; choose another --output"):
                make(folder, paths=paths, valid=valid)
        # One that is there already can be gone on with.
        make(folder, resume=True, on_bad_row="error", output=".")
    with RunFolder(tmp_path / "run") as folder:
        make(folder)


def test_bad_rows_are_found_under_the_name_that_they_have_when_the_run_has_ended(data, tmp_path):
    (tmp_path / "run").mkdir()
    data.write_text(with_cell(learnable_text(20), 3, 1, "9"))
    for options in ({}, {"bad_rows": "run/mine.tsv"}):
        (tmp_path / "run" / "metrics.jsonl").write_text("old")
        with RunFolder(tmp_path / "run", overwrite=True) as folder:
            found = make(folder, overwrite=True, **options)
            train, _ = found.split(lambda line: None)
            assert sum(batch.samples for batch in train.batches(5)) == 19
            final = tmp_path / options.get("bad_rows", "run/bad_rows.tsv")
            # Where it was stopped, and where it came to its end.
            unsaved = tmp_path / "run" / f"unsaved-{final.name}"
            assert [path.resolve() for path in found.bad_rows()] == [unsaved]
            assert not final.exists()
            folder.replace_earlier()
            assert [path.resolve() for path in found.bad_rows()] == [final]
            assert not unsaved.exists()


@pytest.fixture
def prepared(data, tmp_path):
    """prepared/ of 20 rows with hashes to 50 rows, split in 10, 5 and 5, and vocabularies/ of the same."""
    for name, options in (("prepared", {"hash_rows": 50}), ("vocabularies", {})):
        prepare(PrepareOptions(data, tmp_path / name, threads=1, **options))
    content = read_manifest(tmp_path / "prepared")
    write_splits(tmp_path / "prepared", content, "shares", by_share(20, (0.5, 0.25, 0.25)), overwrite=False)
    return "prepared"


def numbers(source):
    """Which rows of learnable_text a source has, by their ids."""
    rows = learnable_text(20).splitlines()
    known = {tuple(int(cell, 16) % 50 for cell in row.split("\t")[14:]): number for number, row in enumerate(rows)}
    offsets = np.arange(26) * 50
    return [
        known[tuple(batch.rows.reshape(26, -1)[:, sample] - offsets)]
        for batch in source.batches(4)
        for sample in range(batch.samples)
    ]


def test_prepared_data_are_split_by_share_or_by_files(prepared):
    for paths, valid, expected, line in (
        (
            "prepared",
            "0.1",
            (range(18), range(18, 20)),
            "training on the first 18 samples of prepared, validating on the last 2 samples",
        ),
        (
            "prepared/train.json",
            "0.2",
            (range(8), range(8, 10)),
            "training on the first 8 samples of prepared/train.json, validating on the last 2 samples",
        ),
        (
            "prepared/train.json",
            "prepared/valid.json",
            (range(10), range(10, 15)),
            "training on 10 samples of prepared/train.json, validating on 5 samples of prepared/valid.json",
        ),
    ):
        lines = []
        found = make(paths=paths, valid=valid, on_bad_row="error")
        train, tail = found.split(lines.append)
        assert (numbers(train), numbers(tail)) == tuple(map(list, expected))
        assert lines == [line]
        assert found.facts["encoding"] == read_manifest(Path("prepared")).encoding
        assert found.facts["category_to_row"] == "prepared ids: hash"


def test_only_training_data_are_shuffled(prepared):
    found = make(paths="prepared", valid="0.5", on_bad_row="error", shuffle=True, shuffle_window=16)
    train, tail = found.split(lambda line: None)
    assert sorted(numbers(train)) == list(range(10)) != numbers(train)
    # Metrics do not depend on the order.
    assert sorted(numbers(tail)) == list(range(10, 20))
    found = make(paths="prepared/train.json", valid="prepared/valid.json", on_bad_row="error", shuffle=True)
    assert numbers(found.split(lambda line: None)[1]) == list(range(10, 15))


def test_options_of_raw_files_are_not_used_with_prepared_data(prepared):
    lines = []
    make(paths="prepared", hash_rows=7, bad_rows="bad.tsv").split(lines.append)
    assert lines[0] == "not used with prepared data: --hash-rows, --on-bad-row, --bad-rows"


def test_samples_are_trained_on_or_validated_on(prepared, tmp_path):
    (tmp_path / "link").symlink_to("prepared")
    for paths, valid in (
        ("prepared", "prepared/valid.json"),
        ("prepared/valid.json", "prepared"),
        ("prepared/test.json", "prepared/test.json"),
        ("prepared", "link"),
    ):
        with pytest.raises(ConfigError, match="the validation samples are among the training samples in prepared"):
            make(paths=paths, valid=valid)
    make(paths="prepared/train.json", valid="link/valid.json", on_bad_row="error")


@pytest.mark.parametrize(
    ("paths", "valid", "hint"),
    [
        ("prepared", "vocabularies", "--vocabulary prepared"),
        ("vocabularies", "valid.tsv", "--vocabulary vocabularies"),
        ("day_0.tsv", "vocabularies", "name raw files"),
    ],
)
def test_training_and_validation_data_mean_the_same(prepared, paths, valid, hint):
    with pytest.raises(ConfigError, match=f"another encoding than the training data.*{hint}"):
        make(paths=paths, valid=valid, hash_rows=50)


def test_raw_files_and_prepared_data_of_the_same_hashes_go_together(prepared):
    found = make(paths="prepared", valid="valid.tsv", hash_rows=50, on_bad_row="error")
    assert found.split(lambda line: None)[0].samples == 20
    make(paths="day_0.tsv", valid="prepared", hash_rows=50, on_bad_row="error")


def test_no_prepared_data_are_replaced_by_a_run(prepared, tmp_path):
    for name in ("prepared.json", "preparation.json"):
        with pytest.raises(OutputError, match=rf"holds prepared data \({name}\); choose another --output"):
            RunFolder(tmp_path / "prepared", overwrite=True)
        (tmp_path / "prepared" / name).unlink()
