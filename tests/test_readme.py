"""What README.md promises: its Python runs as it stands, and learns."""

import gzip
import io
import json
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import click
import pytest

from cupyrec.cli import COMMANDS, cupyrec, main

ROOT = Path(__file__).parents[1]
# A constant prediction scores 0.5, the planted model 0.80 on these rows.
LEARNED_AUC = 0.75
LESS_LEARNED_AUC = 0.7  # in fewer steps, by a smaller model


@pytest.fixture
def as_in_a_clone(tmp_path, monkeypatch):
    """A working folder from which data/ is seen as from the root of a clone, and runs/ can be written."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cupyrec_command(name: str) -> click.Command:
    return cupyrec.get_command(click.Context(cupyrec), name)


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_library_example_runs_and_learns_the_sample(as_in_a_clone, capsys):
    block = python_blocks()[0]
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    shown = re.fullmatch(r"AUC (0\.\d{4})\n", capsys.readouterr().out)
    assert shown is not None
    assert float(shown[1]) > LEARNED_AUC
    assert names["logits"].shape == (8,)
    assert (as_in_a_clone / "runs/library/model.json").exists()


def test_example_of_checkpoints_goes_on(as_in_a_clone, capsys):
    exec(compile(python_blocks()[1], "README.md", "exec"), {})
    shown = re.fullmatch(r"going on after step 300\n422 steps, AUC (0\.\d{4})\n", capsys.readouterr().out)
    assert shown is not None
    assert float(shown[1]) > LESS_LEARNED_AUC


def test_example_of_a_source_runs(capsys):
    exec(compile(python_blocks()[2], "README.md", "exec"), {})
    assert capsys.readouterr().out == "6 steps\n"


def commands_of_the_guide() -> list[list[str]]:
    """The commands of the guide, up to the choices that one has, each as its words."""
    guide = re.search(r"## From the Kaggle.*?### Choices", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = re.findall(r"^    (\S.*?(?:\\\n.*?)*)$", guide[0], re.MULTILINE)
    return [shlex.split(line.replace("\\\n", " ")) for line in lines]


def test_the_guide_leads_from_the_download_to_an_auc(tmp_path, monkeypatch, capsys):
    """Each command as it stands, on made-up rows in an archive such as that of the Kaggle set; and what they leave."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data/sample.toml", tmp_path / "data")
    activate, unpack, *commands = commands_of_the_guide()
    assert activate[0] == "."
    assert unpack[:2] == ["tar", "xzf"]
    rows = gzip.decompress((ROOT / "data/sample.tsv.gz").read_bytes()).splitlines(keepends=True)[:7000]
    with tarfile.open(unpack[2], "w:gz") as archive:
        for name in ("readme.txt", "train.txt", "test.txt"):
            content = b"".join(rows) if name == "train.txt" else b""
            file = tarfile.TarInfo(f"./{name}")
            file.size = len(content)
            archive.addfile(file, io.BytesIO(content))
    subprocess.run(unpack, check=True)
    said: dict[str, list[str]] = {}
    for program, *words in commands:
        assert program == "cupyrec"
        with pytest.raises(SystemExit) as ended:
            main(words)
        said.setdefault(words[0], []).append(capsys.readouterr().out)
        assert not ended.value.code, words
    assert said.keys() == {"prepare", "split", "inspect", "train", "evaluate", "predict", "export"}
    _, resumed, extract = said["train"]
    assert "going on from" in resumed
    assert "warning" not in extract
    assert all(re.search(r"^  AUC +0\.\d{4} ", each, re.MULTILINE) for each in (extract, *said["evaluate"]))
    for file in ("runs/predictions.parquet", "runs/exported/model.safetensors"):
        assert (tmp_path / file).stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {unpack[2], "data", "runs"}


@pytest.mark.parametrize("path", ["README.md", "data/README.md"])
def test_all_that_is_written_lies_where_git_ignores_it(path):
    text = (ROOT / path).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = " ".join(re.findall(r"^    (?:cupyrec|tar) .*$|`cupyrec [^`]*`", text, re.MULTILINE))
    written = re.findall(r"(?:--(?:output|trace|plot|row-counts|bad-rows)|-C) +([\w./]+)", commands)
    assert len(written) > 3
    assert {name.partition("/")[0] for name in written} <= {"data", "runs", "DIR"}
    if (ROOT / ".gitignore").exists():  # not in a source archive
        assert {"/data/*", "/runs/"} <= set((ROOT / ".gitignore").read_text(encoding="utf-8").splitlines())


def test_every_option_named_in_the_readme_exists():
    known = {
        option
        for command in map(cupyrec_command, COMMANDS)
        for each in command.params
        for option in (*each.opts, *each.secondary_opts)
    } | {"--help"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert named
    assert named <= known


def test_the_tables_of_the_gpu_are_those_of_the_file(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from gpu_table import markdown, readme_systems, readme_train

    data = json.loads((ROOT / "docs/measured/gpu_h100.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for table in (readme_systems(data["sections"]), readme_train(data["sections"])):
        assert f"\n\n{table}\n\n" in readme
    assert data["sections"].keys() == data["commits"].keys()
    assert "systems at " in markdown(data)
