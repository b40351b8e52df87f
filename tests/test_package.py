"""The package as it is installed: version, entry point, kernel sources."""

import configparser
import importlib.metadata
import importlib.resources
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands import run_process

import cupyrec
from cupyrec.cli import main
from cupyrec.kernels import source_path

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_there_is_one_version(setup_cfg):
    assert setup_cfg["metadata"]["version"] in (cupyrec.__version__, "attr: cupyrec.__version__")
    assert importlib.metadata.version("cupyrec") == cupyrec.__version__


def test_the_entry_point_is_the_command():
    (entry_point,) = importlib.metadata.entry_points(group="console_scripts", name="cupyrec")
    assert entry_point.load() is main


def test_runs_as_a_module():
    outcome = run_process("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"cupyrec, version {cupyrec.__version__}\n", "")


def test_kernel_sources_are_found_by_name():
    assert source_path("dense_update").read_text(encoding="utf-8").startswith("//")
    with pytest.raises(FileNotFoundError, match=r"no kernel file none\.cu; there are: .*dense_update"):
        source_path("none")


def test_kernel_sources_are_declared_as_package_data(setup_cfg):
    assert setup_cfg["options.package_data"]["cupyrec.kernels"] == "*.cu, *.cuh"
    assert importlib.resources.files("cupyrec.kernels").joinpath("dense_update.cu").is_file()


def test_a_wheel_holds_every_module_and_kernel(tmp_path):
    """Built from a copy, without a network."""
    pytest.importorskip("setuptools", minversion="70.1", reason="needs setuptools 70.1, which builds wheels by itself")
    source = tmp_path / "source"
    files = [path for path in (ROOT / "cupyrec").rglob("*") if path.suffix in (".py", ".cu", ".cuh", ".h")]
    for path in [*files, ROOT / "setup.cfg", ROOT / "pyproject.toml"]:
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (source / "README.md").write_text("The description.\n")
    build = "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path / "wheel")], cwd=source, capture_output=True, check=True, timeout=120
    )
    (wheel,) = (tmp_path / "wheel").glob(f"cupyrec-{cupyrec.__version__}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        for name in ("cupyrec/kernels/dense_update.cu", "cupyrec/cli/__init__.py"):
            assert archive.read(name) == (ROOT / name).read_bytes()
    assert packed == {str(path.relative_to(ROOT)) for path in files}
