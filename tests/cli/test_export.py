"""`cupyrec export`."""

import pytest
from commands import check_one_error_line, run_here
from criteo_lines import files_in
from models_for_tests import save_small
from safetensors.numpy import load_file


@pytest.fixture
def model(tmp_path):
    return save_small(tmp_path / "model")


def test_says_what_was_written_where(model, tmp_path, capsys):
    outcome = run_here(capsys, "export", model, "--output", tmp_path / "out")
    assert (outcome.code, outcome.err) == (0, "")
    path = tmp_path / "out" / "model.safetensors"
    assert outcome.out == f"exported to {path}, {path.stat().st_size / 1000:.1f} kB\n"
    tensors = load_file(path)
    assert tensors["emb_l.25.weight"].shape == (50, 4)
    assert tensors["top_l.2.bias"].shape == (1,)


def test_several_files_are_counted(model, tmp_path, capsys, monkeypatch):
    from cupyrec.saving.exported_model import export_model

    monkeypatch.setattr(
        "cupyrec.saving.exported_model.export_model",
        lambda *arguments, **options: export_model(*arguments, **options, max_shard_bytes=10_000),
    )
    outcome = run_here(capsys, "export", model, "--output", tmp_path / "out")
    assert outcome.code == 0
    shards = [name for name in files_in(tmp_path / "out") if name.endswith(".safetensors")]
    assert f"model.safetensors.index.json ({len(shards)} files and their index), " in outcome.out
    assert len(shards) > 1


def test_what_cannot_be_is_one_line(model, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("")
    for arguments, part in (
        ([model], "--output"),
        ([tmp_path / "none", "--output", tmp_path / "out"], "holds no cupyrec model"),
        ([model, "--output", tmp_path / "full"], "holds notes"),
        ([model, "--output", model, "--overwrite"], "holds the model that is read"),
    ):
        assert part in check_one_error_line(run_here(capsys, "export", *arguments))
    assert not (tmp_path / "out").exists()


def test_an_interrupt_leaves_nothing(model, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    outcome = run_here(capsys, "export", model, "--output", tmp_path / "out")
    assert (outcome.code, outcome.out) == (130, "")
    assert files_in(tmp_path / "out") == []
