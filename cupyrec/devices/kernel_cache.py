"""Compiled kernels kept on disk, and made anew whenever any source of cupyrec has changed.

Numba's own cache looks at the file of a function alone: a change in another file, of a function that it calls or a
constant that it takes, would leave old machine code in use.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import config

numba_config: Any = config  # its settings are made at import; type checkers do not see them
KEEP_UNUSED_S = 30 * 24 * 3600


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """numba.njit(nogil=True, **options) whose machine code is kept in `cache_folder()`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        with _numba_cache_in(cache_folder()):
            return numba.njit(nogil=True, cache=True, **options)(function)

    return decorate


@cache
def cache_folder() -> Path:
    """Where this version's kernels are kept: below $NUMBA_CACHE_DIR, the user's cache folder, or a temporary one
    that goes with the process.
    """
    version = source_hash(Path(__file__).parents[1])
    for root in _roots():
        folder = root / version
        with contextlib.suppress(OSError, RuntimeError):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            os.utime(folder)
            _remove_unused(root)
            return folder
    folder = Path(tempfile.mkdtemp(prefix="cupyrec-kernels-"))
    # No other process would find it.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def source_hash(package: Path) -> str:
    """A short name for the Python sources of a package: another one when any of them changes."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _roots() -> Iterator[Path]:
    if os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(os.environ["NUMBA_CACHE_DIR"])
    if os.environ.get("XDG_CACHE_HOME"):
        yield Path(os.environ["XDG_CACHE_HOME"]) / "cupyrec"
    with contextlib.suppress(RuntimeError):
        yield Path.home() / ".cache" / "cupyrec"


def _remove_unused(root: Path) -> None:
    """Remove the kernels of versions that have not been used for a month."""
    if root.name != "cupyrec":
        return  # a folder that others may use too
    for folder in root.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > KEEP_UNUSED_S:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _numba_cache_in(folder: Path) -> Iterator[None]:
    """Numba decides on the place of a function's cache when it is decorated: others are left as they are."""
    before = numba_config.CACHE_DIR
    numba_config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        numba_config.CACHE_DIR = before
