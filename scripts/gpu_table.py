"""The figures of bench_gpu.py as Markdown tables: all of them, or the two of the README.

python scripts/gpu_table.py docs/measured/gpu_h200.json
python scripts/gpu_table.py --readme docs/measured/gpu_h200.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

MISSING = "-"
# Of an item whose rows were not drawn as its name says: why; for no table of the README.
NOT_OF_THIS_TRACE = "not_of_this_trace"
README_PRECISIONS = ("fp32", "tf32", "bf16")


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [headings, ["---"] * len(headings), *rows])


def number(values: dict[str, Any] | None, *path: str, digits: int = 2) -> str:
    """A figure of an item, found by its path; a dash where it is not there."""
    found: Any = values or {}
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return MISSING if found is None else f"{found:,.{digits}f}"


def remark(item: dict[str, Any]) -> str:
    """What a figure must not be read without."""
    if NOT_OF_THIS_TRACE in item:
        return " (see `not of this trace`)"
    return " (never full)" if item.get("full") is False else ""


def systems_table(sections: dict[str, Any]) -> str:
    """A line a locality, scratchpad and system."""
    headings = ["rows", "system", "ms a step", "of resident", "of its floor", "outside Train", "rows in", "rows out"]
    items, rows = sections.get("systems", {}), []
    for name, item in items.items():
        if "step_ms" not in item:
            continue
        locality, *system = name.split(" / ")
        resident = items.get(f"{locality} / resident", {}).get("step_ms")
        rows.append(
            [
                locality,
                " ".join(system) + remark(item),
                number(item, "step_ms"),
                f"{item['step_ms'] / resident:.2f} x" if resident else MISSING,
                number(item, "floors", "step_over_floor") + " x",
                f"{item['share_outside_train']:.0%}",
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
        if not each["full"]:
            reached += ", never full"
        rows.append([f"scratchpipe, {each['case']}", each["bar"], reached, yes_or_no(each)])
    for name in ("static", "hybrid"):
        if each := bars.get(f"times {name}"):
            reached = f"{each['mean']:.2f} x, mean of {each['cases']}"
            rows.append([f"scratchpipe, as fast as {name}", each["bar"], reached, yes_or_no(each)])
    for each in bars.get("outside Train", []):
        rows.append([f"{each['case']}, outside Train", each["bar"], f"{each['share']:.1%}", yes_or_no(each)])
    for each in sections.get("train", {}).get("bars", {}).get("share of floor", []):
        rows.append([f"Train, {each['case']}", each["bar"], f"{each['share']:.0%}", yes_or_no(each)])
    return table(["what", "bar", "reached", "met"], rows)


def yes_or_no(bar: dict[str, Any]) -> str:
    """Whether it is met."""
    return "yes" if bar["met"] else "no"


def readme_systems(sections: dict[str, Any]) -> str:
    """A line a locality, ms a step of each system; of scratchpipe, by the exchange that `auto` took, in multiples of
    resident too.
    """
    items = sections["systems"]
    exchange = items["host table"]["auto_exchange"]

    def is_shown(item: dict[str, Any]) -> bool:
        return "step_ms" in item and NOT_OF_THIS_TRACE not in item and item.get("full") is not False

    names = {name: name.split(" / ") for name, item in items.items() if is_shown(item)}
    localities = list(dict.fromkeys(parts[0] for parts in names.values()))
    static, dynamic = (
        list(dict.fromkeys(parts[2] for parts in names.values() if parts[1] == system and parts[3:] == ways))
        for system, ways in (("static", []), ("scratchpipe", [exchange]))
    )
    headings = ["rows", "resident", "hybrid", *(f"static {share}" for share in static)]
    rows = []
    for locality in localities:
        resident = items[f"{locality} / resident"]["step_ms"]
        columns = [f"{locality} / {system}" for system in ("resident", "hybrid", *(f"static / {s}" for s in static))]
        row = [locality, *(number(items.get(name), "step_ms") for name in columns)]
        for share in dynamic:
            item = items.get(f"{locality} / scratchpipe / {share} / {exchange}", {})
            shown = is_shown(item)
            row.append(f"{item['step_ms']:.2f} ({item['step_ms'] / resident:.2f})" if shown else MISSING)
        rows.append(row)
    return table([*headings, *(f"scratchpipe {share} (of resident)" for share in dynamic)], rows)


def readme_train(sections: dict[str, Any]) -> str:
    """A line a precision: ms of Train with graphs in each locality, its share of the floor, and without graphs."""
    items = sections["train"]
    localities = list(dict.fromkeys(name.partition(" / ")[0] for name in items if " / " in name))
    rows = []
    for precision in README_PRECISIONS:
        row = [precision]
        for locality in localities:
            item = items[f"{locality} / {precision}, with graphs"]
            row.append(f"{item['ms']:.2f} ({item['share_of_floor']:.0%})")
        rows.append([*row, number(items[f"{localities[0]} / {precision}, without graphs"], "ms")])
    return table(["products", *localities, f"{localities[0]}, without graphs"], rows)


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


def pages_table(sections: dict[str, Any]) -> str:
    """Host memory over the link, in GB/s: a line a kind that was to be had."""
    headings = ["host memory over the link", "read", "written", "both at once", "read of a small part", "host gathers"]
    items, rows = sections["pages"], []
    for kind in dict.fromkeys(name.partition(" / ")[0] for name in items):
        all_of_it = items.get(f"{kind} / random rows", {})
        if "read_gb_s" not in all_of_it:
            continue
        read, written, both_read, both_written = (
            number(all_of_it, f"{name}_gb_s", digits=1) for name in ("read", "write", "both_read", "both_write")
        )
        small = number(items.get(f"{kind} / small part"), "read_gb_s", digits=1)
        host = number(items.get(f"{kind} / host"), "gather_all_threads_gb_s", digits=1)
        rows.append([kind, read, written, f"{both_read} + {both_written}", small, host])
    return table(headings, rows)


def left_out(sections: dict[str, Any]) -> list[str]:
    """What has no figures, and why."""
    return [
        f"{section}, {item}: {key} ({values[key]})"
        for section, items in sections.items()
        for item, values in items.items()
        for key in ("skipped", "error", "mismatch", "begun", NOT_OF_THIS_TRACE)
        if key in values
    ]


def markdown(data: dict[str, Any]) -> str:
    """Everything, for people."""
    sections, device = data["sections"], data["device"]
    driver = f", driver for CUDA {device['driver_version']}" if "driver_version" in device else ""
    measured_at = data.get("commit") or "; ".join(f"{name} at {each}" for name, each in data.get("commits", {}).items())
    parts = [
        f"{device['name']}{driver}; {data['host']['threads']} threads of {data['host']['cpu']}; {measured_at}",
        systems_table(sections),
        bars_table(sections),
        train_table(sections),
        flat_table(sections, "ceilings"),
        flat_table(sections, "systems", "host table", "host rows"),
        flat_table(sections, "embeddings"),
        flat_table(sections, "planning"),
    ]
    if "pages" in sections:
        parts += [pages_table(sections), flat_table(sections, "pages")]
    if missing := left_out(sections):
        parts.append("Without figures:\n" + "\n".join(f"- {line}" for line in missing))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--readme", action="store_true", help="the two tables of the README alone")
    arguments = parser.parse_args()
    data = json.loads(arguments.file.read_text(encoding="utf-8"))
    if arguments.readme:
        print(readme_systems(data["sections"]), readme_train(data["sections"]), sep="\n\n")
    else:
        print(markdown(data))


if __name__ == "__main__":
    main()
