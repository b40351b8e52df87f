"""The figures of bench_gpu.py as Markdown tables.

python scripts/gpu_table.py docs/measured/gpu_nvidia_h100_80gb_hbm3.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

MISSING = "-"


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [headings, ["---"] * len(headings), *rows])


def number(values: dict[str, Any] | None, *path: str, digits: int = 2) -> str:
    """A figure of an item, found by its path; a dash where it is not there."""
    found: Any = values or {}
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return MISSING if found is None else f"{found:,.{digits}f}"


def systems_table(sections: dict[str, Any]) -> str:
    """A line a locality, scratchpad and system."""
    headings = ["rows", "system", "ms a step", "of resident", "of its floor", "GPU idle", "rows in", "rows out"]
    items, rows = sections.get("systems", {}), []
    for name, item in items.items():
        if "step_ms" not in item:
            continue
        locality, *system = name.split(" / ")
        resident = items.get(f"{locality} / resident", {}).get("step_ms")
        rows.append(
            [
                locality,
                " ".join(system),
                number(item, "step_ms"),
                f"{item['step_ms'] / resident:.2f} x" if resident else MISSING,
                number(item, "floors", "step_over_floor") + " x",
                f"{item['gpu_idle_share']:.0%}",
                number(item, "misses_a_step", digits=0),
                number(item, "evictions_a_step", digits=0),
            ]
        )
    return table(headings, rows)


def bars_table(sections: dict[str, Any]) -> str:
    """What was to be reached, and whether it was."""
    bars, rows = sections.get("systems", {}).get("bars", {}), []
    for each in bars.get("against resident or the link", []):
        reached = f"{each['over_resident']:.2f} x resident"
        if "link_share" in each:
            reached += f", {each['link_share']:.0%} of the link"
        rows.append([f"scratchpipe, {each['case']}", each["bar"], reached, "yes" if each["met"] else "no"])
    for name in ("static", "hybrid"):
        if each := bars.get(f"times {name}"):
            reached = f"{each['mean']:.2f} x, mean of {each['cases']}"
            rows.append([f"scratchpipe, as fast as {name}", each["bar"], reached, "yes" if each["met"] else "no"])
    return table(["what", "bar", "reached", "met"], rows)


def train_table(sections: dict[str, Any]) -> str:
    """The stage Train, by locality and precision."""
    headings = ["rows", "products", "ms", "floor", "share of floor", "host ms"]
    rows = [
        [*name.split(" / "), *(number(item, key, digits=3) for key in ("ms", "floor_ms", "share_of_floor", "host_ms"))]
        for name, item in sections.get("train", {}).items()
        if "ms" in item
    ]
    return table(headings, rows)


def flat_table(sections: dict[str, Any], name: str, *item_names: str) -> str:
    """All figures of some items of a section, all where none is named."""
    rows = [
        [item, key.replace("_", " "), f"{value:,.4g}" if isinstance(value, (int, float)) else str(value)]
        for item, values in sections.get(name, {}).items()
        if not item_names or item in item_names
        for key, value in values.items()
        if not isinstance(value, (list, dict, bool)) and key != "took_s"
    ]
    return table([name, "figure", "value"], rows)


def left_out(sections: dict[str, Any]) -> list[str]:
    """What has no figures, and why."""
    return [
        f"{section}, {item}: {key} ({values[key]})"
        for section, items in sections.items()
        for item, values in items.items()
        for key in ("skipped", "error", "mismatch", "begun")
        if key in values
    ]


def markdown(data: dict[str, Any]) -> str:
    """Everything, for people."""
    sections, device = data["sections"], data["device"]
    driver = f", driver for CUDA {device['driver_version']}" if "driver_version" in device else ""
    parts = [
        f"{device['name']}{driver}; {data['host']['threads']} threads of {data['host']['cpu']}; {data['commit']}",
        systems_table(sections),
        bars_table(sections),
        train_table(sections),
        flat_table(sections, "ceilings"),
        flat_table(sections, "systems", "host table", "host rows"),
        flat_table(sections, "embeddings"),
        flat_table(sections, "planning"),
    ]
    if missing := left_out(sections):
        parts.append("Without figures:\n" + "\n".join(f"- {line}" for line in missing))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    print(markdown(json.loads(parser.parse_args().file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
