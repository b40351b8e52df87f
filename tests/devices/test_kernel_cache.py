"""Compiled kernels are kept, and never outlive the sources that they were made of."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from numba.core import config as numba_config

from cupyrec.devices import kernel_cache
from cupyrec.devices.kernel_cache import cache_folder, cached_njit, source_hash

IMPORT = "from small.devices.kernel_cache import cached_njit\n"
CALLER = IMPORT + "from small.callee import callee\n\n\n@cached_njit()\ndef caller(x):\n    return callee(x) + 1\n"
CALLEE = IMPORT + "\n\n@cached_njit()\ndef callee(x):\n    return x * {factor}\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own; the answer of cache_folder is not remembered."""
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    cache_folder.cache_clear()
    yield tmp_path
    cache_folder.cache_clear()


def package(folder: Path, factor: int) -> None:
    """A package whose kernel calls one of another file, with the real cache beside them."""
    (folder / "small/devices").mkdir(parents=True, exist_ok=True)
    for name in ("__init__", "devices/__init__"):
        (folder / f"small/{name}.py").touch()
    cache_source = Path(kernel_cache.__file__).read_text()
    (folder / "small/devices/kernel_cache.py").write_text(cache_source)
    (folder / "small/caller.py").write_text(CALLER)
    (folder / "small/callee.py").write_text(CALLEE.format(factor=factor))


def run_caller(folder: Path) -> int:
    environment = os.environ | {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / "kept")}
    command = [sys.executable, "-c", "from small.caller import caller; print(caller(10))"]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def test_a_change_in_a_called_function_of_another_file_is_seen(tmp_path):
    package(tmp_path, factor=2)
    assert run_caller(tmp_path) == 21
    kept = sorted((tmp_path / "kept").rglob("*.nbi"))
    assert [path.name.split("-")[0] for path in kept] == ["callee.callee", "caller.caller"]
    package(tmp_path, factor=3)
    assert run_caller(tmp_path) == 31


def test_the_folder_is_the_first_that_can_be_written(home, monkeypatch):
    version = source_hash(Path(kernel_cache.__file__).parents[1])
    assert cache_folder() == home / ".cache/cupyrec" / version
    for name, folder in (("XDG_CACHE_HOME", "xdg"), ("NUMBA_CACHE_DIR", "numba")):
        monkeypatch.setenv(name, str(home / folder))
        cache_folder.cache_clear()
        assert cache_folder() == home / folder / ("cupyrec" if folder == "xdg" else "") / version
    blocked = home / "file"
    blocked.touch()
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(blocked / "below"))
    cache_folder.cache_clear()
    assert cache_folder().name.startswith("cupyrec-kernels-")


def test_a_temporary_folder_goes_with_the_process(tmp_path):
    (tmp_path / "file").touch()
    blocked = dict.fromkeys(("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"), str(tmp_path / "file/below"))
    command = [sys.executable, "-c", "from cupyrec.devices.kernel_cache import cache_folder; print(cache_folder())"]
    environment = {**os.environ, **blocked, "TMPDIR": str(tmp_path)}
    made = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    assert Path(made).parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_kernels_of_versions_long_unused_go(home):
    root = home / ".cache/cupyrec"
    long_ago = time.time() - 2 * kernel_cache.KEEP_UNUSED_S
    for name in ("old", "recent"):
        (root / name).mkdir(parents=True)
    os.utime(root / "old", (long_ago, long_ago))
    here = cache_folder()
    assert sorted(root.iterdir()) == sorted([here, root / "recent"])


def test_numba_s_own_setting_is_left_as_it_was():
    before = numba_config.CACHE_DIR
    cached_njit()(lambda x: x)
    assert before == numba_config.CACHE_DIR
