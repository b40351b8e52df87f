"""Results of a benchmark on a GPU, in one JSON file that is whole after every measurement."""

from __future__ import annotations

import faulthandler
import hashlib
import itertools
import json
import os
import re
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import processor_name, versions

from cupyrec.errors import DeviceError, DeviceMemoryError

MEMORY_FACTS = ("MemTotal", "MemAvailable", "AnonHugePages", "HugePages_Total")
# What a measurement may take, as a multiple of what it is thought to take, before it counts as hung.
PATIENCE, LEAST_PATIENCE_S = 5, 60
# How a process ends that can use its device no more.
BROKEN_DEVICE = 3


ROOT = Path(__file__).resolve().parents[1]
# What must be the same for a file of results to be gone on with.
IDENTITY = ("device", "processor", "versions", "commit", "sources", "scale")


def commit(root: Path = ROOT) -> str | None:
    """The commit of the sources, and whether they differ from it; None where git does not know it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), "-c", f"safe.directory={root}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # A copy without .git may lie within another repository.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None
        return git("rev-parse", "HEAD") + (
            " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def sources_digest(root: Path = ROOT) -> str:
    """Tells sources apart whatever git knows: of the bytes of the package and of the scripts."""
    digest = hashlib.sha256()
    for path in sorted(each for folder in ("cupyrec", "scripts") for each in (root / folder).rglob("*")):
        if path.suffix in (".py", ".cu", ".cuh"):
            digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def memory() -> dict[str, str]:
    """What the system says of the host's memory."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines) if key in MEMORY_FACTS}


def slug(name: str) -> str:
    """The name of a device as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def identity(data: dict[str, Any]) -> list[Any]:
    """What results of one file have in common."""
    host = data.get("host", {})
    facts = {**data, "processor": [host.get("cpu"), host.get("threads")]}
    return [facts.get(name) for name in IDENTITY]


class Report:
    """`data` is what the file holds. A file that is there is gone on with where the same sources were measured on the
    same machine; else it is left as it is, and `path` has a number more.
    """

    def __init__(self, path: Path, device: dict[str, Any], host_threads: int, scale: str) -> None:
        self.data: dict[str, Any] = {
            "device": device,
            "host": {"cpu": processor_name(), "threads": host_threads, "memory": memory()},
            "versions": versions("cupyrec", "numpy", "numba"),
            "commit": commit(),
            "sources": sources_digest(),
            "scale": scale,
            "sections": {},
        }
        for number in itertools.count(1):
            self.path = path if number == 1 else path.with_stem(f"{path.stem}_{number}")
            if not self.path.exists():
                break
            there = json.loads(self.path.read_text(encoding="utf-8"))
            if identity(there) == identity(self.data):
                self.data["sections"] = there["sections"]
                break

    def section(self, name: str) -> dict[str, Any]:
        """The results of a section by item; to be changed by `put` alone."""
        return self.data["sections"].get(name, {})

    def put(self, section: str, item: str, values: Any) -> None:
        """Keep a result, and write the file."""
        self.data["sections"].setdefault(section, {})[item] = values
        beside = self.path.with_name(self.path.name + ".partial")
        beside.write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, self.path)


class Section:
    """Measures the items of one section until time is up.

    deadline: of time.monotonic(). impatient: whether a measurement that hangs ends the process; then, as after a crash,
    another process goes on with the next item.
    """

    def __init__(self, report: Report, name: str, deadline: float, *, impatient: bool = True) -> None:
        self.report, self.name, self._deadline, self._impatient = report, name, deadline, impatient

    def measure(self, item: str, seconds: float, function: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """The values of an item, None where there are none: skipped, failed, or lost in a process before.

        seconds: what it is thought to take; it is skipped where less is left.
        """
        known = self.report.section(self.name).get(item)
        if known is not None and "skipped" not in known:
            if "begun" in known:
                self._put(item, {"error": "the process ended during this measurement"})
            return known if self._is_result(known) else None
        left = self._deadline - time.monotonic()
        if left < seconds:
            self._put(item, {"skipped": f"takes about {seconds:.0f} s, {max(left, 0):.0f} s were left"})
            return None
        self._put(item, {"begun": True})
        begun = time.perf_counter()
        if self._impatient:
            faulthandler.dump_traceback_later(max(PATIENCE * seconds, LEAST_PATIENCE_S), exit=True)
        try:
            values = function()
        except Exception as error:
            values = {"error": f"{type(error).__name__}: {error}", "lines": traceback.format_exc().splitlines()[-20:]}
            if self._impatient and _is_of_the_device(error):
                # The process can use the device no more: another one goes on.
                self._put(item, values)
                os._exit(BROKEN_DEVICE)
        finally:
            if self._impatient:
                faulthandler.cancel_dump_traceback_later()
        values["took_s"] = round(time.perf_counter() - begun, 2)
        self._put(item, values)
        return values if self._is_result(values) else None

    def note(self, item: str, values: dict[str, Any]) -> None:
        """Keep what needed no measuring."""
        self._put(item, values)

    def _put(self, item: str, values: dict[str, Any]) -> None:
        self.report.put(self.name, item, values)
        shown = {key: value for key, value in values.items() if not isinstance(value, (list, dict))}
        if "begun" not in values:
            print(f"[{self.name}] {item}: {shown}", flush=True)

    @staticmethod
    def _is_result(values: dict[str, Any]) -> bool:
        return not {"error", "skipped", "begun", "mismatch"} & values.keys()


def _is_of_the_device(error: BaseException | None) -> bool:
    """Whether an error is one of CUDA, or was caused by one; to be out of memory breaks nothing."""
    while error is not None:
        if isinstance(error, DeviceError):
            return not isinstance(error, DeviceMemoryError)
        error = error.__cause__ or error.__context__
    return False
