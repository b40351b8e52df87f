"""Kinds of host memory as the driver is asked for them: a library in its place notes the calls and gives memory."""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
from emulated_device_array import DeviceArray
from fake_memory_driver import FakeMemoryDriver
from gpu_devices import emulated_device

from cupyrec.devices import memory_driver

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def scripts():
    """The scripts can be imported."""
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def driver(scripts, memory_drivers):
    from host_memory_kinds import BenchMemoryDriver

    return FakeMemoryDriver(memory_drivers["new"], BenchMemoryDriver)


def test_pages_of_a_mapping(scripts, tmp_path):
    from host_memory_kinds import page_facts

    from cupyrec.devices.host_memory import host_array

    smaps = tmp_path / "smaps"
    smaps.write_text(
        "1000-3000 rw-p 00000000 00:00 0 \nSize: 8 kB\nKernelPageSize:        4 kB\nAnonHugePages:         0 kB\n"
        "3000-9000 rw-s 00000000 00:05 9                /dev/some device\nKernelPageSize:     2048 kB\n"
    )
    assert page_facts(0x2FFF, smaps) == {"mapping": "anonymous", "KernelPageSize": "4 kB", "AnonHugePages": "0 kB"}
    assert page_facts(0x3000, smaps) == {"mapping": "/dev/some device", "KernelPageSize": "2048 kB"}
    assert page_facts(0x9000, smaps) == {}
    assert page_facts(0x2000, tmp_path / "none") == {}
    if Path("/proc/self/smaps").exists():
        array = host_array(2**20, np.uint8)
        assert page_facts(array.ctypes.data)["mapping"] == "anonymous"


# The whole section, on a GPU that is emulated and memory of the driver in this test.


@pytest.fixture
def section(driver, monkeypatch, tmp_path):
    """What runs the section, in a process as it were, and gives its items."""
    import host_memory_kinds
    from gpu_bench_pages import measure_pages
    from gpu_bench_report import Report, Section
    from gpu_bench_scale import TINY

    monkeypatch.setattr(host_memory_kinds, "driver_of", lambda device: driver.calls)
    monkeypatch.setattr(host_memory_kinds, "device_array_over", DeviceArray.over)

    def run():
        report = Report(tmp_path / "gpu.json", {"name": "emulated"}, 1, TINY.name)
        measure_pages(Section(report, "pages", time.monotonic() + 600, impatient=False), TINY, emulated_device())
        return report.section("pages")

    return run


KINDS = ("registered", "managed", "allocated")
ITEMS = (
    "made",
    "random rows",
    "small part",
    "host",
    "in order",
    "copies",
    "launch shapes",
    "record widths",
    "given back",
)


def test_every_kind_is_measured(section, driver):
    found = section()
    assert list(found) == [f"{kind} / {item}" for kind in KINDS for item in ITEMS]
    assert not [name for name, item in found.items() if "error" in item or "mismatch" in item]
    for kind in KINDS:
        assert found[f"{kind} / made"]["bytes"] == 131072
        assert found[f"{kind} / made"]["right"]
        assert found[f"{kind} / copies"]["copied_right"]
        assert found[f"{kind} / in order"]["bytes"] == 131072
    assert driver.noted() == ["cuMemHostAlloc 131072 flags 3", "cuMemFreeHost"]
    assert driver.left() == 0


def test_memory_that_cannot_be_had_is_not_measured(section, driver):
    driver.refuse("cuMemHostAlloc")
    found = section()
    assert "cuMemHostAlloc" in found["allocated / made"]["error"]
    assert [name for name in found if name.startswith("allocated")] == ["allocated / made"]
    assert {f"{kind} / {item}" for kind in ("registered", "managed") for item in ITEMS} <= found.keys()
    assert driver.noted() == ["cuMemHostAlloc 131072 flags 3"]


def test_what_fails_is_recorded_and_the_rest_goes_on(section, driver, monkeypatch):
    from gpu_bench_pages import OneKind

    def fails(self):
        raise ValueError("no figure")

    monkeypatch.setattr(OneKind, "_in_order", fails)
    driver.refuse("cuMemFreeHost")
    found = section()
    for kind in KINDS:
        assert found[f"{kind} / in order"]["error"] == "ValueError: no figure"
        assert {f"{kind} / {item}" for item in ITEMS} <= found.keys()
        assert "read_256x256_gb_s" in found[f"{kind} / launch shapes"]
    assert "cuMemFreeHost" in found["allocated / given back"]["error"]
    assert driver.left() == 0


def test_memory_that_the_device_sees_otherwise_is_not_timed(section, driver, monkeypatch):
    import host_memory_kinds

    monkeypatch.setattr(host_memory_kinds, "device_array_over", lambda array: DeviceArray.over(array.copy()))
    found = section()
    assert found["allocated / made"]["read_right"]
    assert not found["allocated / made"]["written_right"]
    assert found["allocated / made"]["mismatch"]
    assert [name for name in found if name.startswith("allocated")] == ["allocated / made", "allocated / given back"]
    assert driver.left() == 0


def test_another_process_makes_the_memory_again_for_what_is_left(section, driver, tmp_path):
    made = section()["allocated / made"]
    path = tmp_path / "gpu.json"
    results = json.loads(path.read_text())
    for item in ("allocated / copies", "allocated / launch shapes"):
        del results["sections"]["pages"][item]
    path.write_text(json.dumps(results))
    driver.library.note_nothing()
    found = section()
    assert found["allocated / made"] == made
    assert found["allocated / copies"]["copied_right"]
    assert "read_256x256_gb_s" in found["allocated / launch shapes"]
    assert driver.noted() == ["cuMemHostAlloc 131072 flags 3", "cuMemFreeHost"]
    assert driver.left() == 0


# The layouts, numbers and calls, against the header of whatever CUDA is here.


def header_folder():
    """Where cuda.h is; None where it is not."""
    roots = [Path(os.environ[name]) for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]
    roots += sorted(Path("/usr/local").glob("cuda*"), reverse=True)
    roots += sorted(Path(sysconfig.get_paths()["purelib"]).glob("nvidia/*"))
    return next((root / "include" for root in roots if (root / "include/cuda.h").is_file()), None)


def test_structures_and_numbers_are_those_of_the_header(scripts, tmp_path):
    """As the header has them: sizes, offsets, numbers, and the size of each parameter of each call."""
    import host_memory_kinds

    folder = header_folder()
    if folder is None or shutil.which("g++") is None:
        pytest.skip("there is no cuda.h, or no g++ to read it with")
    expected, lines = [], []

    def compare(value, text):
        expected.append(f"{text} {value}")
        lines.append(f'printf("%s %lld\\n", "{text}", (long long)({text}));')

    location = memory_driver.CUmemLocation
    compare(ctypes.sizeof(location), "sizeof(CUmemLocation)")
    for member, *_ in location._fields_:
        compare(getattr(location, member).offset, f"offsetof(CUmemLocation, {member})")
        compare(getattr(location, member).size, f"sizeof(std::declval<CUmemLocation&>().{member})")
    known = vars(memory_driver) | vars(host_memory_kinds)
    numbers = {name: value for name, value in known.items() if name.startswith("CU_")}
    assert len(numbers) == 9
    # Older headers lack some of them: those of CUDA 12.1 know no calls that take a location.
    words = set(re.findall(r"\w+", (folder / "cuda.h").read_text(errors="replace")))
    for name in numbers.keys() & words:
        compare(numbers[name], name)
    for function, types in host_memory_kinds.BenchMemoryDriver.PROTOTYPES.items():
        if function in words:
            expected.append(" ".join([function, *(str(ctypes.sizeof(each)) for each in types)]))
            lines.append(f'printf("{function}"), sizes(decltype(&{function}){{}}), printf("\\n");')
    (tmp_path / "header.cpp").write_text(
        "#define __CUDA_API_VERSION_INTERNAL\n#include <cuda.h>\n#include <cstddef>\n#include <cstdio>\n"
        "#include <utility>\ntemplate <class... A> void sizes(CUresult (*)(A...)) "
        '{ (printf(" %zu", sizeof(A)), ...); }\n'
        f"int main() {{ {' '.join(lines)} }}\n"
    )
    command = ["g++", "-std=c++17", "-Wno-invalid-offsetof", f"-I{folder}", "header.cpp", "-o", "header"]
    subprocess.run(command, cwd=tmp_path, check=True)
    shown = subprocess.run([tmp_path / "header"], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == expected
    assert len(expected) >= 5 + len(numbers)
