"""What each CUDA kernel takes of a multiprocessor: registers, stack, spilled bytes, shared memory; by architecture.

    python scripts/kernel_table.py                      all kernels, for sm_70, sm_80 and sm_90
    python scripts/kernel_table.py embedding_bag --architecture sm_90

Needs no GPU: NVRTC compiles, and its assembler says what a kernel takes. Needs CuPy and NVRTC, as the packages
cupy-cuda12x and nvidia-cuda-nvrtc-cu12 bring them.

A kernel file says in comments which constants it is compiled with: `// compiled with: DIMENSION=16,64,128 MEAN=0,1`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cupyrec.kernels
from cupyrec.devices.cuda_kernel import CudaKernel

ARCHITECTURES = ("sm_70", "sm_80", "sm_90")
# NVRTC 12.9 says so of sm_70; it is known.
EXPECTED = re.compile(r"nvrtc: warning: Architectures prior to .* are deprecated")
USAGE = re.compile(
    r"Function properties for (?P<name>\w+)\n"
    r"ptxas\s+\.\s+(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
    r"ptxas info\s+: Used (?P<registers>\d+) registers(?P<rest>[^\n]*)"
)
HEADINGS = ("file", "constants", "kernel", "architecture", "registers", "stack", "spill st/ld", "shared")


class CompileError(Exception):
    """NVRTC does not take a kernel file; what it says names file and line."""


@dataclass(frozen=True)
class Usage:
    """What one kernel takes: registers and bytes of local memory a thread, bytes of static shared memory a block."""

    kernel: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


def kernel_files() -> list[Path]:
    """All kernel files of cupyrec."""
    return sorted(Path(cupyrec.kernels.__file__).parent.glob("*.cu"))


def builds(path: Path) -> list[dict[str, int]]:
    """The constants of some builds of a kernel file, with every value that its comments name in one of them."""
    made = []
    for line in re.findall(r"^//\s*compiled with:(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        values = {name: list(map(int, given.split(","))) for name, given in (part.split("=") for part in line.split())}
        for i in range(max(map(len, values.values()))):
            made.append({name: given[i % len(given)] for name, given in values.items()})
    return made or [{}]


def compile_file(path: Path, constants: dict[str, int], architecture: str) -> tuple[list[Usage], list[str]]:
    """Compile a kernel file to machine code: what its kernels take, and the warnings. Raises CompileError."""
    from cupy_backends.cuda.libs import nvrtc

    options = CudaKernel(path, "", tuple(constants.items())).options
    program = nvrtc.createProgram(path.read_text(encoding="utf-8"), str(path), (), ())
    try:
        nvrtc.compileProgram(
            program, (*options, "--std=c++17", f"--gpu-architecture={architecture}", "--ptxas-options=-v")
        )
    except nvrtc.NVRTCError as error:
        raise CompileError(f"{error}\n{nvrtc.getProgramLog(program)}") from error
    else:
        log = nvrtc.getProgramLog(program).rstrip("\0")
    finally:
        nvrtc.destroyProgram(program)
    usages = [_usage(found) for found in USAGE.finditer(log)]
    warnings = [line for line in log.splitlines() if line and not line.startswith("ptxas ")]
    warnings += [line for line in log.splitlines() if line.startswith("ptxas warning")]
    return usages, [line for line in warnings if not EXPECTED.match(line)]


def _usage(found: re.Match[str]) -> Usage:
    shared = re.search(r"(\d+)(?:\+\d+)? bytes smem", found["rest"])
    numbers = (int(found[name]) for name in ("registers", "stack", "stores", "loads"))
    return Usage(found["name"], *numbers, int(shared[1]) if shared else 0)


def rows(paths: list[Path], architectures: list[str]) -> Iterator[tuple[str, ...]]:
    """The rows of the table, as HEADINGS name their columns."""
    for path in paths:
        for constants in builds(path):
            for architecture in architectures:
                for usage in compile_file(path, constants, architecture)[0]:
                    yield (
                        path.name,
                        " ".join(f"{name}={value}" for name, value in constants.items()),
                        usage.kernel,
                        architecture,
                        str(usage.registers),
                        str(usage.stack),
                        f"{usage.spill_stores}/{usage.spill_loads}",
                        str(usage.shared),
                    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="names of kernel files, as embedding_bag; all where there is none")
    parser.add_argument("--architecture", nargs="+", default=ARCHITECTURES, help="by default %(default)s")
    asked = parser.parse_args()
    paths = [cupyrec.kernels.source_path(name) for name in asked.files] or kernel_files()
    table = [HEADINGS, *rows(paths, asked.architecture)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
