"""Setting cupyrec up: the scripts that make the environment, run with programs that only pretend to be there; and
what a source archive holds.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DRIVER_TABLE = """\
Mon Jan  1 00:00:00 2024
+---------------------------------------------------------------------------------------+
| NVIDIA-SMI 535.54.03              Driver Version: 535.54.03    CUDA Version: 12.4     |
|-----------------------------------------+----------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id        Disp.A | Volatile Uncorr. ECC |
"""


def program(folder: Path, name: str, script: str) -> Path:
    """An executable shell script."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def bash(script: str, folder: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run it as the scripts run, with the programs of folder/bin before all others."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        cwd=folder,
        env=environment | {name: str(value) for name, value in variables.items()},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def call(function: str, folder: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    """A function of scripts/environment.sh."""
    return bash(f". '{ROOT}/scripts/environment.sh'\n{function}", folder, **variables)


@pytest.mark.parametrize(
    ("version", "extra"),
    [
        ("CUDA Version: 12.4 ", "cuda12\n"),
        ("CUDA Version: 13.0 ", "cuda13\n"),
        ("CUDA Version: 14.1 ", "cuda13\n"),
        ("CUDA UMD Version: 13.3 ", "cuda13\n"),
        ("CUDA Version: 11.8 ", ""),
        ("CUDA Version: N/A  ", ""),
    ],
)
def test_the_extra_fits_the_driver(tmp_path, version, extra):
    (tmp_path / "table").write_text(DRIVER_TABLE.replace("CUDA Version: 12.4 ", version), encoding="utf-8")
    program(tmp_path / "bin", "nvidia-smi", "cat table")
    ended = call("cuda_extra", tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, extra, "")


@pytest.mark.parametrize("driver", ["", "echo NVIDIA-SMI has failed; exit 9", "echo no library >&2; exit 127"])
def test_a_driver_that_does_not_answer_is_none(tmp_path, driver):
    program(tmp_path / "bin", "nvidia-smi", driver)
    ended = call("cuda_extra", tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_python_is_found_where_none_is_named(tmp_path):
    program(tmp_path / "bin", "python3", "exit 1")
    program(tmp_path / "bin", "python3.13", "exit 0")
    ended = call("find_python", tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "python3.13\n", "")


def test_the_python_named_is_taken_and_no_other(tmp_path):
    mine = program(tmp_path / "mine", "python", "exit 0")
    assert call("find_python", tmp_path, PYTHON=mine).stdout == f"{mine}\n"


def test_a_python_that_cannot_be_used_is_refused_in_one_line(tmp_path):
    old = program(tmp_path / "mine", "python2", "exit 1")
    missing = tmp_path / "mine" / "none"
    for python, reason in (
        (old, "not a Python 3.10 or newer, which cupyrec needs"),
        (missing, "there is no such program; name a Python 3.10 or newer"),
    ):
        ended = call("enter_environment ''; echo went on", tmp_path, PYTHON=python)
        assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"PYTHON={python}: {reason}\n")
    assert not (tmp_path / ".venv").exists()


def test_without_any_python_it_says_what_is_needed(tmp_path):
    for name in ("python3", "python3.13", "python3.12", "python3.11", "python3.10", "python"):
        program(tmp_path / "bin", name, "exit 1")
    ended = call("find_python", tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("cupyrec needs Python 3.10 or newer; install one, or name it: PYTHON=")
    assert ended.stderr.count("\n") == 1


@pytest.fixture
def clone(tmp_path):
    """A checkout with an environment already made, whose pip and cupyrec only note what they are asked for."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data/sample.json", tmp_path / "data")
    (tmp_path / "table").write_text(DRIVER_TABLE, encoding="utf-8")
    program(tmp_path / "bin", "nvidia-smi", "cat table")
    program(tmp_path / ".venv/bin", "python", "exit 0")
    (tmp_path / ".venv/bin/activate").write_text(f'VIRTUAL_ENV="{tmp_path}/.venv"\n', encoding="utf-8")
    # Every training leaves the same weights where --output says, and the word in spoil where it trained resident.
    program(
        tmp_path / "bin",
        "cupyrec",
        """
        for word; do if [ "$before" = --system ]; then system=$word; fi; before=$word; done
        echo "cupyrec $1 $system" >> asked
        mkdir -p "$word"; echo weights > "$word/model.safetensors"
        if [ "$system" = resident ] && [ -e spoil ]; then cat spoil >> "$word/model.safetensors"; fi
        """,
    )
    return tmp_path


def quickstart(clone: Path, pip: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The quickstart where `pip` decides on the package "$last"; and what was asked for, in order."""
    asked = 'for last; do :; done; echo "$last" >> asked'
    program(clone / ".venv/bin", "python", f"{asked}\n{pip}")
    ended = bash("bash scripts/quickstart.sh", clone)
    return ended, (clone / "asked").read_text(encoding="utf-8").splitlines()


def test_the_quickstart_installs_cupy_and_trains(clone):
    ended, asked = quickstart(clone, "exit 0")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert asked == [".[cuda12]", "cupyrec train scratchpipe", "cupyrec train resident"]
    assert "The best possible model scores AUC 0.8003 on the sample" in ended.stdout
    assert "The weights are the same, bit for bit" in ended.stdout


def test_the_quickstart_fails_when_the_weights_differ(clone):
    (clone / "spoil").write_text("other", encoding="utf-8")
    ended, asked = quickstart(clone, "exit 0")
    assert ended.returncode == 1
    assert asked[-1] == "cupyrec train resident"
    assert "The weights differ, which they must never do" in ended.stderr
    assert "bit for bit" not in ended.stdout


def test_the_quickstart_goes_on_without_cupy_and_says_so_in_one_line(clone):
    ended, asked = quickstart(clone, 'if [ "$last" != . ]; then echo ERROR: no matching distribution >&2; exit 1; fi')
    assert ended.returncode == 0
    assert asked == [".[cuda12]", ".", "cupyrec train scratchpipe", "cupyrec train resident"]
    assert ended.stderr == (
        "CuPy could not be installed (why: .venv/bin/pip install -e '.[cuda12]'); going on without it, on the CPU\n"
    )


def test_the_quickstart_ends_when_cupyrec_cannot_be_installed(clone):
    ended, asked = quickstart(clone, "echo ERROR: no network >&2; exit 1")
    assert ended.returncode == 1
    assert asked == [".[cuda12]", "."]
    assert ended.stderr.endswith("ERROR: no network\n")


def test_an_environment_of_another_folder_is_made_anew_and_nothing_is_installed_elsewhere(clone):
    """A checkout that was moved: its old script for entering .venv leads to where it was, or nowhere."""
    elsewhere = program(clone / "elsewhere/bin", "python", "echo elsewhere >> asked")
    (clone / ".venv/bin/activate").write_text(f'VIRTUAL_ENV="{elsewhere.parents[1]}"\n', encoding="utf-8")
    made = f'mkdir -p .venv/bin; echo \'VIRTUAL_ENV="{clone}/.venv"\' > .venv/bin/activate; cp "$0" .venv/bin/python'
    new = program(
        clone / "new", "python", f'for last; do :; done; echo "$last" >> asked\n[ "$last" = .venv ] || exit 0\n{made}'
    )
    ended = bash(f"PYTHON={new} bash scripts/quickstart.sh", clone)
    assert (ended.returncode, ended.stderr) == (0, "making .venv anew: it was made for another folder\n")
    asked = (clone / "asked").read_text(encoding="utf-8").splitlines()
    assert ".venv" in asked
    assert ".[cuda12]" in asked
    assert "elsewhere" not in asked


def test_an_editable_install_is_a_folder_on_the_path_so_that_no_folder_beside_it_shadows_the_package(tmp_path):
    """Imported from the folder that holds a checkout called cupyrec; built from a copy, without a network."""
    pytest.importorskip("setuptools")
    holds = tmp_path / "holds"
    source, installed = holds / "cupyrec", tmp_path / "installed"
    shutil.copytree(ROOT / "cupyrec", source / "cupyrec", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg", "README.md"):
        shutil.copy(ROOT / name, source)
    build = "import sys, setuptools.build_meta as backend; backend.build_editable(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, check=True, timeout=60
    )
    (wheel,) = tmp_path.glob("cupyrec-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(installed)
    # -E, -S: without the installation that these tests run in.
    ask = "import site, sys; site.addsitedir(sys.argv[1]); import cupyrec; print(cupyrec.__file__)"
    asked = [sys.executable, "-ES", "-c", ask, str(installed)]
    ended = subprocess.run(asked, cwd=holds, capture_output=True, encoding="utf-8", check=False, timeout=60)
    assert (ended.returncode, ended.stdout.strip()) == (0, str(source / "cupyrec/__init__.py")), ended.stderr


def test_a_source_archive_holds_all_that_the_tests_need_and_nobodys_data(tmp_path):
    """Built from a copy, without a network."""
    pytest.importorskip("setuptools")
    source, built = tmp_path / "source", tmp_path / "built"
    for folder in ("cupyrec", "docs", "scripts", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "*.nb[ci]"))
    (source / "data").mkdir()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*.in"), *ROOT.glob("*.toml"), ROOT / "setup.cfg"]:
        shutil.copy(path, source)
    for path in [*ROOT.glob("data/sample*"), ROOT / "data/README.md"]:
        shutil.copy(path, source / "data")
    wanted = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    (source / "data/day_0.gz").touch()
    (source / "tests/__pycache__").mkdir()
    (source / "tests/__pycache__/reference.cpython-310.pyc").touch()
    build = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(built)], cwd=source, capture_output=True, check=True, timeout=120)
    (archive,) = built.glob("cupyrec-*.tar.gz")
    with tarfile.open(archive) as packed:
        held = {member.name.partition("/")[2] for member in packed.getmembers() if member.isfile()}
    assert {"tests/reference.py", "data/sample.tsv.gz", "scripts/quickstart.sh"} <= wanted
    assert {name for name in held if ".egg-info/" not in name} == wanted | {"PKG-INFO"}
