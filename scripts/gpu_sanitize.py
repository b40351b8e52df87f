"""The kernels' tests under NVIDIA's compute-sanitizer: memory errors, and races in shared memory.

    python scripts/gpu_sanitize.py --output gpu_sanitize.json

memcheck looks at all tests of kernels that are marked gpu, and at those of the planner; racecheck, which knows shared
memory alone, at kernels that use it. The output has, of each tool, its errors, the tests that ran under it, and the
first lines of what it found. Ends with 1 where a tool found something or could not run to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# By tool: its share of the time, and what is tested.
TOOLS = {
    "memcheck": (0.6, ["tests/kernels", "tests/pipeline/test_gpu_planner.py"]),
    "racecheck": (0.4, ["tests/kernels"]),
}
WITHOUT_SHARED_MEMORY = "not move_rows and not place_lookups and not join_pooled"
SUMMARIES = (
    re.compile(r"ERROR SUMMARY: (\d+) error"),
    re.compile(r"RACECHECK SUMMARY: (\d+) hazards? displayed"),
)
# What a tool that was stopped has said up to then.
FINDINGS = re.compile(
    r"^=+ (Invalid|Misaligned|Error: Race|Warning: Race|Race reported|Program hit|Out-of-range)", re.M
)
SHOWN_LINES = 60


def errors_of(log: str) -> int:
    """Errors that the log of a tool tells of."""
    counts = [int(found[1]) for summary in SUMMARIES if (found := summary.search(log))]
    return counts[0] if counts else len(FINDINGS.findall(log))


def run_tool(tool: str, sanitizer: str, folder: Path, seconds: float, options: list[str]) -> dict[str, Any]:
    """One tool over its tests; stopped after so many seconds."""
    _, paths = TOOLS[tool]
    log, results = folder / f"sanitize_{tool}.log", folder / f"sanitize_{tool}.jsonl"
    if tool == "racecheck" and "-k" not in options:
        options = ["-k", WITHOUT_SHARED_MEMORY, *options]
    command = [sanitizer, "--tool", tool, "--report-api-errors", "no", "--log-file", str(log)]
    command += [sys.executable, str(ROOT / "scripts/gpu_tests.py"), "--output", str(results)]
    command += ["--workers", "1", "--plain-memory", *options, *(str(ROOT / path) for path in paths)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "CUPYREC_EXAMPLES": "3"}, start_new_session=True)
    try:
        status: int | str = process.wait(seconds)
    except subprocess.TimeoutExpired:
        status = "stopped"
        # The tool and what it runs: the session that was started for them.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    entries = (
        [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []
    )
    outcomes = Counter(entry["outcome"] for entry in entries if "outcome" in entry)
    return {
        "status": status,
        "errors": errors_of(text),
        "finished": any(summary.search(text) for summary in SUMMARIES),
        "tests": dict(outcomes),
        "log": text.splitlines()[:SHOWN_LINES],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu_sanitize.json"))
    parser.add_argument("--seconds", type=float, default=450, help="for all tools together")
    parser.add_argument("--tools", default=",".join(TOOLS), help="of %(default)s")
    arguments, options = parser.parse_known_args()
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    tools = arguments.tools.split(",")
    report: dict[str, Any] = {}
    if sanitizer is None:
        report["missing"] = "compute-sanitizer is not installed"
    whole = sum(TOOLS[tool][0] for tool in tools)
    for tool in tools if sanitizer else []:
        seconds = arguments.seconds * TOOLS[tool][0] / whole
        report[tool] = run_tool(tool, sanitizer or "", arguments.output.parent.resolve(), seconds, options)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(tool, {key: value for key, value in report[tool].items() if key != "log"}, flush=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if sanitizer is None:
        print(report["missing"])
        return 1
    return int(any(report[tool]["errors"] or not report[tool]["finished"] for tool in tools))


if __name__ == "__main__":
    sys.exit(main())
