import json
import os

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import log_loss, roc_auc_score

from cupyrec.cli.generate import generate, report_path_of
from cupyrec.datasets.planted_model import PlantedModel
from cupyrec.datasets.synthetic import generate_blocks
from cupyrec.errors import ConfigError, CupyrecError, OutputError


def run(*options):
    return CliRunner().invoke(generate, ["--rows", "500", "--categories", "10000", *map(str, options)])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_rows_and_the_figures_of_the_planted_model(tmp_path):
    result = run("--output", tmp_path / "a.tsv", "--seed", 9)
    assert result.exit_code == 0
    assert names(tmp_path) == ["a.json", "a.tsv"]
    (block,) = generate_blocks(PlantedModel(9, 10_000), 0, 500)
    assert (tmp_path / "a.tsv").read_bytes() == block.text.tobytes()
    report = json.loads((tmp_path / "a.json").read_text())
    assert {key: report[key] for key in ("rows", "files", "seed", "categories", "skew")} == {
        "rows": 500,
        "files": 1,
        "seed": 9,
        "categories": 10_000,
        "skew": 0.0,
    }
    probabilities = 1 / (1 + np.exp(-block.logits.astype(np.float64)))
    assert report["planted"]["auc"] == pytest.approx(roc_auc_score(block.labels, block.logits))
    assert report["planted"]["log_loss"] == pytest.approx(log_loss(block.labels, probabilities))
    rate = block.labels.mean(dtype=np.float64)
    assert report["constant"]["base_rate"] == pytest.approx(rate)
    assert report["constant"]["log_loss"] == pytest.approx(-rate * np.log(rate) - (1 - rate) * np.log(1 - rate))
    assert f"log loss {report['planted']['log_loss']:.6f}, AUC {report['planted']['auc']:.6f}" in result.stdout
    assert f"base rate {rate:.6f}" in result.stdout


def test_progress_goes_to_standard_error_in_plain_lines(tmp_path):
    result = run("--output", tmp_path / "a.tsv")
    assert result.stderr == "100% done\n"
    assert "% done" not in result.stdout


def test_numbers_are_written_as_for_train(tmp_path):
    assert run("--output", tmp_path / "a.tsv").exit_code == 0
    assert run("--output", tmp_path / "b.tsv", "--rows", "5e2", "--categories", "1e4", "--seed", "1_0").exit_code == 0
    assert json.loads((tmp_path / "b.json").read_text())["seed"] == 10
    assert len((tmp_path / "b.tsv").read_bytes().splitlines()) == 500


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which is always full")
def test_results_that_cannot_be_printed_are_told(tmp_path, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(OutputError, match="standard output: cannot be written: No space left on device"):
            generate.main(["--rows=9", f"--output={tmp_path / 'a.tsv'}"], standalone_mode=False)
    assert names(tmp_path) == ["a.json", "a.tsv"]


def test_several_files_make_a_folder(tmp_path):
    assert run("--output", tmp_path / "days", "--files", 2, "--compress", "gz").exit_code == 0
    assert names(tmp_path) == ["days", "days.json"]
    assert names(tmp_path / "days") == ["day_0.gz", "day_1.gz"]


def test_the_ending_of_a_single_file_chooses_its_compression(tmp_path):
    for name in ("a.gz", "b.tsv.zst"):
        assert run("--output", tmp_path / name).exit_code == 0
    assert (tmp_path / "a.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert (tmp_path / "b.tsv.zst").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"


def test_existing_output_is_refused_and_replaced_when_asked_for(tmp_path):
    assert run("--output", tmp_path / "a.tsv").exit_code == 0
    first = (tmp_path / "a.tsv").read_bytes()
    refused = run("--output", tmp_path / "a.tsv", "--seed", 2)
    assert isinstance(refused.exception, OutputError)
    assert (tmp_path / "a.tsv").read_bytes() == first
    assert run("--output", tmp_path / "a.tsv", "--seed", 2, "--overwrite").exit_code == 0
    assert (tmp_path / "a.tsv").read_bytes() != first


@pytest.mark.parametrize("name", ["a.tsv.bz2", "a.xz", "a.tsv.ZIP"])
def test_a_compression_that_is_not_written_is_refused(tmp_path, name):
    result = run("--output", tmp_path / name)
    assert isinstance(result.exception, ConfigError)
    assert f".{name.rsplit('.')[-1]} is not written; end it with .gz or .zst" in str(result.exception)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--rows", 0], "--rows must be a whole number of at least 1, but is '0'"),
        (["--rows", "1e-3"], "--rows must be a whole number of at least 1, but is '1e-3'"),
        (["--files", 0], "--files must be a whole number of at least 1"),
        (["--files", 501], "files must lie between 1"),
        (["--categories", 10], "categories must lie between"),
        (["--seed", -1], "--seed must be a whole number of at least 0"),
        (["--seed", 2**63], "seed must"),
        (["--skew", 9], "skew must lie between"),
        (["--compress", "gz"], "must end with .gz"),
    ],
)
def test_options_that_cannot_be_used_are_refused_and_leave_nothing(tmp_path, options, error):
    result = run("--output", tmp_path / "a.tsv", *options)
    assert isinstance(result.exception, ConfigError)
    assert error in str(result.exception)
    assert names(tmp_path) == []


def test_a_folder_named_as_a_compressed_file_is_refused(tmp_path):
    result = run("--output", tmp_path / "days.gz", "--files", 2)
    assert "--compress gz" in str(result.exception)
    assert names(tmp_path) == []


def test_a_missing_folder_is_one_clear_line_with_exit_code_2(tmp_path):
    error = run("--output", tmp_path / "missing" / "a.tsv").exception
    assert isinstance(error, CupyrecError)
    assert error.exit_code == 2
    assert str(error).endswith("missing does not exist; create it first")


def test_a_failure_on_the_way_leaves_nothing(tmp_path, monkeypatch):
    def fail_after_a_block(*arguments, **options):
        yield from generate_blocks(PlantedModel(1, 10_000), 0, 10)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cupyrec.datasets.synthetic.generate_blocks", fail_after_a_block)
    result = run("--output", tmp_path / "days", "--files", 2)
    assert isinstance(result.exception, OutputError)
    assert "No space left on device" in str(result.exception)
    assert names(tmp_path) == []


def test_a_single_row_has_no_auc(tmp_path):
    result = run("--output", tmp_path / "a.tsv", "--rows", 1)
    assert result.exit_code == 0
    assert json.loads((tmp_path / "a.json").read_text())["planted"]["auc"] is None
    assert "AUC undefined" in result.stdout


@pytest.mark.parametrize(
    ("output", "report"),
    [
        ("sample.tsv.gz", "sample.json"),
        ("a.txt", "a.json"),
        ("a.zst", "a.json"),
        ("days", "days.json"),
        ("v1.5", "v1.5.json"),
        (".tsv", ".tsv.json"),
    ],
)
def test_the_report_lies_beside_the_output(tmp_path, output, report):
    assert report_path_of(tmp_path / output) == tmp_path / report


@pytest.mark.parametrize("output", [".", "..", "/"])
def test_an_output_without_a_name_is_refused(output):
    assert isinstance(run("--output", output, "--overwrite").exception, ConfigError)
