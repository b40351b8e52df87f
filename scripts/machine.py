"""What a benchmark says of where it ran. The scripts beside it import it."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path


def processor_name() -> str:
    """The processor as the system names it, with its vector instructions where they are known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wide = next((name for name in ("avx512f", "avx2") if name in facts.get("flags", "").split()), "")
    family = f"family {facts['cpu family']} model {facts['model']}" if "cpu family" in facts else ""
    return " ".join(part for part in (facts.get("model name", platform.machine()), family, wide) if part)


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package that is installed, and of Python."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
