"""The tests marked gpu, on a machine with a CUDA GPU; each result is written as soon as it is known.

    python scripts/gpu_tests.py --output gpu_tests.jsonl -k planner

Options that are not known here go to pytest. The output has one JSON object a line: each test, and last a summary with
the device, versions and commit. Only files that speak of a GPU are collected, so that packages which other tests need
may be missing. Warnings are shown, and are no errors as elsewhere: the machine's libraries are not those of CI.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gpu_bench_report import commit
from machine import versions

ROOT = Path(__file__).resolve().parents[1]
FAILURE_LINES = 25
# With pytest-xdist: what takes the time is the compiling of kernels, one after another in each process.
WORKERS = 6


class ResultWriter:
    """A plugin of pytest: appends the outcome of each test to a file, and counts them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = time.monotonic()
        self.counts: dict[str, int] = {}
        path.write_text("", encoding="utf-8")

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _note(self, name: str, outcome: str, seconds: float, text: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
        entry: dict[str, Any] = {"name": name, "outcome": outcome, "seconds": round(seconds, 3)}
        if outcome != "passed":
            # The end names the error, the beginning the test.
            lines = text.splitlines()
            half = FAILURE_LINES // 2
            entry["lines"] = lines if len(lines) <= FAILURE_LINES else [*lines[:half], "...", *lines[-half:]]
        self.write(entry)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A test is its call; setting up and tearing down are told where they do not pass.
        if report.when == "call" or report.outcome != "passed":
            outcome = "error" if report.failed and report.when != "call" else report.outcome
            self._note(report.nodeid, outcome, report.duration, report.longreprtext)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._note(report.nodeid, "error", 0.0, report.longreprtext)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.write(
            {
                "summary": self.counts,
                "exit_status": int(exitstatus),
                "seconds": round(time.monotonic() - self._begun, 1),
                "device": device_facts(),
                "versions": versions("cupyrec", "numpy", "numba", "pytest", "hypothesis"),
                "commit": commit(),
            }
        )


def device_facts() -> dict[str, Any]:
    """What the runtime says of the GPU, or why there is none."""
    from cupyrec.devices.cupy_check import why_no_gpu
    from cupyrec.devices.cupy_runtime import CupyRuntime

    reason = why_no_gpu()
    return {"none": reason} if reason else CupyRuntime().describe()


def test_files() -> list[str]:
    """The test files that speak of a GPU."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path) for path in files if "gpu" in path.read_text(encoding="utf-8")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu_tests.jsonl"))
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes, where pytest-xdist is installed")
    parser.add_argument(
        "--plain-memory", action="store_true", help="allocate by cudaMalloc, so that compute-sanitizer sees each array"
    )
    arguments, others = parser.parse_known_args()
    options = ["-m", "gpu", "-W", "default", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    options += ["--rootdir", str(ROOT), "-c", str(ROOT / "setup.cfg")]
    if arguments.plain_memory:
        options += ["-p", "gpu_plain_memory"]
    if arguments.workers > 1 and importlib.util.find_spec("xdist") is not None:
        options += ["-n", str(arguments.workers)]
    named = any((ROOT / other.partition("::")[0]).exists() and not other.startswith("-") for other in others)
    return int(
        pytest.main([*options, *others, *([] if named else test_files())], plugins=[ResultWriter(arguments.output)])
    )


if __name__ == "__main__":
    sys.exit(main())
