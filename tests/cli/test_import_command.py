"""`cupyrec import`."""

import zipfile

import numpy as np
import pytest
from commands import check_one_error_line, run_here
from criteo_lines import files_in, write_learnable
from models_for_tests import CONFIG, prepare_small, save_small
from safetensors.numpy import load_file, save_file

from cupyrec import Trainer
from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.saving.saved_model import read_model


@pytest.fixture
def exported(tmp_path, capsys):
    save_small(tmp_path / "model", seed=3)
    assert run_here(capsys, "export", tmp_path / "model", "--output", tmp_path / "exported").code == 0
    return tmp_path / "exported"


def test_what_was_exported_comes_back_and_is_evaluated_alike(exported, tmp_path, capsys):
    outcome = run_here(capsys, "import", exported, "--output", tmp_path / "back")
    assert outcome.out.splitlines() == [
        "imported 26 tables of 50 rows, dimension 4, bottom 13-8-4, top 8-1, sum pooling",
        f"saved in {tmp_path / 'back'}",
    ]
    data = write_learnable(tmp_path / "data.tsv", 50)
    figures = [run_here(capsys, "evaluate", tmp_path / name, data, "--json").out for name in ("model", "back")]
    assert figures[0] == figures[1]
    assert figures[0].startswith("{")


def test_a_file_of_another_program(exported, tmp_path, capsys):
    save_file(load_file(exported / "model.safetensors"), tmp_path / "dlrm.safetensors")
    arguments = ["import", tmp_path / "dlrm.safetensors", "--output", tmp_path / "back"]
    assert run_here(capsys, *arguments, "--pooling", "mean").code == 0
    assert read_model(tmp_path / "back")[0].pooling == "mean"
    assert "replace it with --overwrite" in check_one_error_line(run_here(capsys, *arguments))
    assert run_here(capsys, *arguments, "--overwrite").code == 0
    assert read_model(tmp_path / "back")[0] == CONFIG


def test_weights_of_unknown_data_take_any_that_fit(exported, tmp_path, capsys):
    """The user knows how the ids came about; only the rows of the tables can be checked."""
    data = prepare_small(tmp_path)
    rows = read_manifest(data).table_rows
    tensors = load_file(exported / "model.safetensors")
    for table, count in enumerate(rows):
        tensors[f"emb_l.{table}.weight"] = np.resize(tensors[f"emb_l.{table}.weight"], (count, 4))
    save_file(tensors, tmp_path / "dlrm.safetensors")
    assert run_here(capsys, "import", tmp_path / "dlrm.safetensors", "--output", tmp_path / "back").code == 0
    assert run_here(capsys, "evaluate", tmp_path / "back", data).code == 0


def test_what_does_not_fit_is_one_line_and_leaves_nothing(exported, tmp_path, capsys):
    tensors = load_file(exported / "model.safetensors")
    for name, changes, part in (
        ("a", {"top_l.0.bias": np.zeros(7, np.float32)}, "tensor 'top_l.0.bias' is (7,), but (8,) was expected"),
        ("b", {"odd\x1b[31m\nname": np.zeros(7, np.float32)}, r"tensor 'odd\x1b[31m\nname' has none of the names"),
    ):
        save_file(tensors | changes, tmp_path / f"{name}.safetensors")
        outcome = run_here(capsys, "import", tmp_path / f"{name}.safetensors", "--output", tmp_path / "back")
        assert part in check_one_error_line(outcome)
    Trainer(CONFIG, threads=1, batch_size=8).save_checkpoint(tmp_path / "checkpoints" / "step-00000001")
    (tmp_path / "c.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", "")
    (tmp_path / "old.pt").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")  # before PyTorch 1.6
    torch = "not a safetensors file: a file as torch.save writes it; write the weights with safetensors.torch.save_file"
    for path, part in (
        ("model.pt", torch),
        ("old.pt", torch),
        ("c.safetensors", "damaged, or not a safetensors file"),
        ("none", "no such file or folder"),
        ("model/model.json", "damaged, or not a safetensors file"),
        ("model", "weights of a cupyrec model, under its own names: evaluate, predict and export take its folder"),
        ("checkpoints/step-00000001", "a checkpoint of cupyrec's: evaluate, predict and export take it as it is"),
        ("exported/model.safetensors", "holds the model that is read"),
    ):
        output = tmp_path / ("exported" if path.startswith("exported") else "back")
        outcome = run_here(capsys, "import", tmp_path / path, "--output", output, "--overwrite")
        message = check_one_error_line(outcome)
        assert part in message
        assert message.count(str(tmp_path / path)) <= 1
    assert "back" not in files_in(tmp_path)
