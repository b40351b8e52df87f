"""Compiles the kernels for the CPU by g++, and keeps what is compiled between runs."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path

import pytest

from cupyrec.devices.cuda_kernel import CudaKernel, Parameter, kernels_of

COMPILER = "g++"
HERE = Path(__file__).parent
STACK_BYTES = 64 * 1024  # of each thread of a kernel

OPTIONS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-exceptions")
# The scheduler is told of every access to memory and of what C++ leaves undefined. Loops must not become calls of
# memset and memcpy, which would not be reported.
KERNELS = (
    *OPTIONS,
    "-O1",
    "-fsanitize=thread",
    "-fsanitize=alignment,bounds-strict,shift-exponent,signed-integer-overflow,integer-divide-by-zero",
    "--param=tsan-instrument-func-entry-exit=0",
    "-fno-tree-loop-distribute-patterns",
    "-fno-strict-aliasing",
    "-Wall",
    "-Werror",
    f"-Wframe-larger-than={STACK_BYTES // 2}",
    *(f"-Wno-{name}" for name in ("unknown-pragmas", "sign-compare", "unused-function", "unused-variable", "tsan")),
)
SCHEDULER = (*OPTIONS, "-O2", "-fno-zero-initialized-in-bss")
C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "uint32": "unsigned",
    "int64": "long long",
    "uint64": "unsigned long long",
    "uint8": "unsigned char",
}

DYNAMIC_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*)?unsigned\s+char\s+(\w+)\s*\[\s*\]\s*;"
)
LAUNCH_BOUNDS = re.compile(r"\bvoid\s+__launch_bounds__\s*\(([^,)]+)[^)]*\)\s*(\w+)\s*\(")
INCLUDED = re.compile(r'^\s*#\s*include\s*"([^"]+)"', flags=re.MULTILINE)

SOURCE = """#include "cuda_on_cpu.h"
namespace {{
#line 1 "{name}"
{source}
}}
#line 1 "the end of {name}"
#define EXPORTED extern "C" __attribute__((visibility("default")))
{launchers}
"""
LAUNCHER = """
__attribute__((no_sanitize("thread", "undefined"))) static void cuda_on_cpu_call_{name}(void** arguments) {{
    (void)arguments;
    {name}({arguments});
}}
EXPORTED void cuda_on_cpu_launch_{name}(const cuda_on_cpu::Launch* launch) {{
    cuda_on_cpu::run(*launch, {most_threads}, cuda_on_cpu_call_{name});
}}
"""


class CompileError(Exception):
    """g++ does not take a kernel file; what it says names file and line."""


class Library:
    """A kernel file, compiled for some constants. One launch of it runs at a time: its state is global."""

    def __init__(self, path: Path) -> None:
        self._functions = ctypes.CDLL(str(path))
        self._lock = threading.Lock()

    def launch(self, name: str, launch: ctypes.Structure) -> None:
        """Run kernel `name`; other threads of Python run meanwhile."""
        function = self._functions[f"cuda_on_cpu_launch_{name}"]
        function.restype = None
        with self._lock:
            function(ctypes.byref(launch))


def library(kernel: CudaKernel) -> Library:
    """The library that a kernel is in. Raises CompileError; skips the test where there is no compiler."""
    if _compiler() is None:
        pytest.skip(f"needs {COMPILER} to run CUDA kernels on the CPU")
    with _lock:
        return _library_of(kernel)


_lock = threading.Lock()


@cache
def _compiler() -> str | None:
    return shutil.which(COMPILER)


@cache
def _library_of(kernel: CudaKernel) -> Library:
    return _library(kernel.path, kernel.options)


@cache
def _library(path: Path, options: tuple[str, ...]) -> Library:
    headers = _texts(HERE / "cuda_on_cpu.h")
    scheduler = _built("scheduler.o", (*SCHEDULER, "-c", "-xc++"), f'#include "{HERE / "scheduler.cpp"}"', headers)
    texts = (*_texts(path), *headers)
    compiled = _built(f"{path.stem}.o", (*KERNELS, f"-I{HERE}", *options, "-c", "-xc++"), _whole(path), texts)
    return Library(_built(f"{path.stem}.so", ("-shared", str(compiled), str(scheduler)), None, ()))


def _whole(path: Path) -> str:
    """What g++ compiles: a kernel file, with a function to launch each of its kernels."""
    source = path.read_text(encoding="utf-8")
    bounds = {name: most for most, name in LAUNCH_BOUNDS.findall(source)}
    launchers = (_launcher(name, parameters, bounds.get(name, "1024")) for name, parameters in kernels_of(path).items())
    source = DYNAMIC_SHARED.sub(r"unsigned char* const \1 = cuda_on_cpu::dynamic_shared();", source)
    return SOURCE.format(name=path.name, source=source, launchers="".join(launchers))


def _launcher(name: str, parameters: tuple[Parameter, ...], most_threads: str) -> str:
    types = (C_TYPES[parameter.dtype.name] + "*" * parameter.is_array for parameter in parameters)
    arguments = ", ".join(f"*({kind}*)arguments[{i}]" for i, kind in enumerate(types))
    return LAUNCHER.format(name=name, arguments=arguments, most_threads=most_threads)


def _built(name: str, options: tuple[str, ...], source: str | None, depends_on: tuple[str, ...]) -> Path:
    """What g++ makes, from the cache where it was made before.

    source: what it is given; None: the options name its files. depends_on: the texts of all that the source includes,
    wherever their folders are.
    """
    meant = (option for option in options if not option.startswith("-I"))
    key = hashlib.sha256("\0".join((*meant, source or "", *depends_on)).encode()).hexdigest()[:32]
    target = _cache_folder() / f"{key}-{name}"
    if target.is_file():
        return target
    # Another process may make the same: each makes its own file, and one takes the other's place.
    handle, made = tempfile.mkstemp(dir=target.parent, suffix=f"-{name}")
    os.close(handle)
    done = subprocess.run(
        [str(_compiler()), *options, "-o", made, *(["-"] if source else [])],
        input=source or "",
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        os.unlink(made)
        raise CompileError(done.stderr)
    os.replace(made, target)
    return target


@cache
def _cache_folder() -> Path:
    """Where compiled kernels are kept between runs: $CUPYREC_TEST_CACHE, or a temporary folder of the user."""
    chosen = os.environ.get("CUPYREC_TEST_CACHE")
    folder = Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"cupyrec-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else; choose another folder by CUPYREC_TEST_CACHE")
    return folder


def _texts(path: Path) -> tuple[str, ...]:
    """A source file and all files that it includes, once each; for the scheduler's header also the scheduler."""
    texts: dict[Path, str] = {}
    waiting = [path]
    while waiting:
        each = waiting.pop()
        if each not in texts and each.is_file():
            texts[each] = each.read_text(encoding="utf-8")
            waiting += [each.parent / name for name in INCLUDED.findall(texts[each])]
            if each.name == "scheduler.h":
                waiting.append(each.with_suffix(".cpp"))
    return tuple(texts.values())
