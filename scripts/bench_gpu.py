"""cupyrec on a GPU: ceilings of the machine, the five systems, the stage Train, embeddings, planning, host memory.

    python scripts/bench_gpu.py --folder gpu_results --seconds 460
    PYTHONPATH=.:tests python scripts/bench_gpu.py --scale tiny        all of it on an emulated GPU, to see that it runs

Sections, and what they take on an H100, about:
    ceilings     copies within the device and over the link, matrix products          20 s
    systems      the paper's model, 8 tables x 10,000,000 rows, by locality            240 s
    train        the stage Train against its floor, kernel by kernel                   60 s
    embeddings   forward and backward of embedding bags, beside a published peer       40 s
    planning     look and plan on the device, alone and beside Train                   60 s
    pages        rows over the link from four kinds of host memory                     60 s

Results go into FOLDER/gpu_<device>.json after every measurement; a run that is cut off loses nothing, and one that is
started again goes on, or begins another file where sources or machine are others. What did not fit in the time is named
there. Every section is a process of its own, which is started again after a crash and leaves out what it was at. What
is timed was compared before with `resident`, the CPU or NumPy; where that fails it is said, and the rest of the section
is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gpu_bench_ceilings import measure_ceilings
from gpu_bench_checks import compile_for_host
from gpu_bench_embeddings import measure_embeddings
from gpu_bench_pages import measure_pages
from gpu_bench_planning import measure_planning
from gpu_bench_report import Report, Section, slug
from gpu_bench_scale import SCALES, TINY, Scale, make_device
from gpu_bench_systems import measure_systems
from gpu_bench_train import measure_train
from gpu_table import markdown

from cupyrec.config import HOST_MEMORIES
from cupyrec.devices.gpu import GpuDevice

# By name, in order: what measures it, and seconds that sections before it leave for it.
SECTIONS: dict[str, tuple[Callable[[Section, Scale, GpuDevice], None], float]] = {
    "ceilings": (measure_ceilings, 20),
    "systems": (measure_systems, 240),
    "train": (measure_train, 45),
    "embeddings": (measure_embeddings, 30),
    "planning": (measure_planning, 50),
    "pages": (measure_pages, 60),
}
# What they measure needs no kernel of the host, or few and small ones: others are compiled meanwhile.
WITHOUT_HOST_KERNELS, COMPILE_S = ("ceilings", "pages"), 90
# A section that crashes is begun again so often.
MOST_STARTS = 4
# A process that does not end by itself is stopped so long after its time.
GRACE_S = 10


def run_here(names: list[str], scale: Scale, folder: Path, ends: dict[str, float], *, impatient: bool) -> Path:
    """Measure sections in this process. ends: of time.monotonic(), by section. Returns the file of results."""
    device = make_device(scale)
    facts = device.runtime.describe()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gpu_{slug(facts['name'])}.json"
    report = Report(path, facts, device.threads, scale.name)
    for name in names:
        SECTIONS[name][0](Section(report, name, ends[name], impatient=impatient), scale, device)
    return report.path


def run_each(names: list[str], arguments: argparse.Namespace, ends: dict[str, float]) -> int:
    """Measure each section in a process of its own; returns how many did not end well."""
    failed = 0
    begun = [sys.executable, __file__, "--scale", arguments.scale]
    needs_host = [name for name in names if name not in WITHOUT_HOST_KERNELS]
    compiling = subprocess.Popen([*begun, "--compile"]) if needs_host else None
    for name in names:
        if compiling is not None and name in needs_host:
            # Whatever is not compiled by then is compiled where it is needed.
            with contextlib.suppress(subprocess.TimeoutExpired):
                compiling.wait(COMPILE_S)
        for _ in range(MOST_STARTS):
            left = ends[name] - time.monotonic()
            if left <= 0:
                print(f"[{name}] no time is left", flush=True)
                break
            command = [*begun, "--here", "--only", name, "--folder", str(arguments.folder), "--seconds", f"{left:.0f}"]
            command += ["--table-rows", str(arguments.table_rows)] if arguments.table_rows else []
            command += ["--host-memory", arguments.host_memory] if arguments.host_memory else []
            try:
                status = subprocess.run(command, timeout=left + GRACE_S).returncode
            except subprocess.TimeoutExpired:
                status = 1
            if status == 0:
                break
            print(f"[{name}] its process ended with {status}", flush=True)
        else:
            failed += 1
    return failed


def section_ends(names: list[str], begun: float, seconds: float) -> dict[str, float]:
    """When each section has to end, of so many seconds for all: it must leave what those after it take, but may take
    what is thought of it, as the first ones are short and others need them.
    """
    ends, end, least = {}, begun + seconds, begun
    for name in reversed(names):
        ends[name] = end
        end -= SECTIONS[name][1]
    for name in names:
        least = min(least + SECTIONS[name][1], begun + seconds)
        ends[name] = max(ends[name], least)
    return ends


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("gpu_results"))
    parser.add_argument("--seconds", type=float, default=460, help="for everything; default 460")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, of %(default)s, in this order")
    parser.add_argument("--scale", choices=SCALES, default="paper")
    parser.add_argument("--table-rows", type=int, help="of each table of the paper's model, where memory is short")
    parser.add_argument("--host-memory", choices=HOST_MEMORIES, help="where host tables are")
    parser.add_argument("--compile", action="store_true", help="only compile what the host needs; measure nothing")
    parser.add_argument("--here", action="store_true", help="all in this process; so it is for the tiny scale")
    arguments = parser.parse_args(given)
    names = arguments.only.split(",")
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if arguments.compile:
        compile_for_host(SCALES[arguments.scale])
        return 0
    ends = section_ends(names, time.monotonic(), arguments.seconds)
    if arguments.here or arguments.scale == TINY.name:
        scale = SCALES[arguments.scale]
        if arguments.host_memory:
            scale = replace(scale, name=f"{scale.name}, {arguments.host_memory} host memory")
            scale = replace(scale, host_memory=arguments.host_memory)
        if arguments.table_rows:
            tables = (arguments.table_rows,) * scale.config.features
            scale = replace(scale, name=f"{scale.name}, {arguments.table_rows} rows a table")
            scale = replace(scale, config=replace(scale.config, table_rows=tables))
        print(run_here(names, scale, arguments.folder, ends, impatient=arguments.scale != TINY.name), flush=True)
        # Streams and stage threads of a section that failed shall not keep the process.
        if arguments.here and given is None:
            sys.stdout.flush()
            os._exit(0)
        return 0
    failed = run_each(names, arguments, ends)
    for path in arguments.folder.glob("gpu_*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        if "sections" in data:
            print(f"{path}\n\n{markdown(data)}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
