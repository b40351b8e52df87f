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
from gpu_devices import emulated_device

SCRIPTS = Path(__file__).parents[1] / "scripts"
GRANULARITY = 2**16
# Refuses calls by name and locations by type. Memory that may not be used by the host yet is not accessible.
SOURCE = """
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <sys/mman.h>

struct Location { int type, id; };
struct Wanted {
    int type, handles;
    Location location;
    void* windows;
    unsigned char compression, direct;
    unsigned short usage;
    unsigned char reserved[4];
};
struct Access { Location location; int flags; };

static std::string calls, refused;
static int refused_location;
static std::map<int, int> attributes;
static std::map<uint64_t, size_t> taken;  // addresses and handles

template <class... A>
static int noted(const char* name, const char* format, A... given) {
    char line[300];
    const int length = snprintf(line, sizeof line, "%s ", name);
    snprintf(line + length, sizeof line - length, format, given...);
    calls += line + std::string("\\n");
    return refused.find(std::string(" ") + name + " ") == std::string::npos ? 0 : 801;
}
static uint64_t take(size_t size, int access) {
    const uint64_t at = (uint64_t)mmap(nullptr, size, access, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    taken[at] = size;
    return at;
}
static int give(uint64_t at, size_t size) {
    const auto found = taken.find(at);
    if (found == taken.end() || (size && found->second != size)) return 1;
    munmap((void*)at, found->second);
    taken.erase(found);
    return 0;
}

extern "C" {
const char* note_calls() { return calls.c_str(); }
void note_nothing() { calls.clear(), refused.clear(), attributes.clear(), refused_location = 0; }
void refuse(const char* names, int location) { refused = names, refused_location = location; }
void answer(int attribute, int value) { attributes[attribute] = value; }
int left() { return taken.size(); }

int cuGetErrorName(int error, const char** name) { return *name = "ERROR_OF_THE_TEST", 0; }
int cuCtxGetDevice(int* device) { return *device = 5, 0; }
int cuCtxSynchronize() { return noted("cuCtxSynchronize", ""); }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (device != 5 || !attributes.count(attribute)) return 1;
    return *value = attributes[attribute], 0;
}
int cuMemHostAlloc(void** pointer, size_t size, unsigned flags) {
    if (const int status = noted("cuMemHostAlloc", "%zu flags %u", size, flags)) return status;
    return *pointer = (void*)take(size, PROT_READ | PROT_WRITE), 0;
}
int cuMemFreeHost(void* pointer) { return noted("cuMemFreeHost", "") | give((uint64_t)pointer, 0); }
int cuMemGetAllocationGranularity(size_t* granularity, const Wanted* wanted, int option) {
    *granularity = GRANULARITY;
    const Location& location = wanted->location;
    return noted("cuMemGetAllocationGranularity", "at %d:%d option %d", location.type, location.id, option);
}
int cuMemAddressReserve(uint64_t* at, size_t size, size_t alignment, uint64_t hint, unsigned long long flags) {
    const char* format = "%zu alignment %zu hint %d flags %d";
    if (const int status = noted("cuMemAddressReserve", format, size, alignment, (int)hint, (int)flags)) return status;
    return *at = take(size, PROT_NONE), 0;
}
int cuMemAddressFree(uint64_t at, size_t size) { return noted("cuMemAddressFree", "%zu", size) | give(at, size); }
int cuMemCreate(uint64_t* handle, size_t size, const Wanted* wanted, unsigned long long flags) {
    const Location& location = wanted->location;
    const int flag = wanted->compression | wanted->direct | wanted->usage;
    const int rest = flag | wanted->handles | (wanted->windows != nullptr);
    const char* format = "%zu type %d at %d:%d rest %d flags %d";
    const int status =
        noted("cuMemCreate", format, size, wanted->type, location.type, location.id, rest, (int)flags);
    if (status || location.type == refused_location) return status ? status : 1;
    return *handle = 77, taken[77] = 0, 0;
}
int cuMemRelease(uint64_t handle) { return noted("cuMemRelease", "%d", (int)handle) | (taken.erase(handle) != 1); }
int cuMemMap(uint64_t at, size_t size, size_t offset, uint64_t handle, unsigned long long flags) {
    const char* format = "%zu offset %zu handle %d flags %d";
    return noted("cuMemMap", format, size, offset, (int)handle, (int)flags) | !taken.count(at);
}
int cuMemUnmap(uint64_t at, size_t size) { return noted("cuMemUnmap", "%zu", size) | !taken.count(at); }
int cuMemSetAccess(uint64_t at, size_t size, const Access* access, size_t count) {
    std::string places;
    for (size_t i = 0; i < count; ++i) {
        const Location& location = access[i].location;
        char place[100];
        snprintf(place, sizeof place, " %d:%d=%d", location.type, location.id, access[i].flags);
        places += place;
        if (location.type > 1) mprotect((void*)at, size, PROT_READ | PROT_WRITE);
    }
    return noted("cuMemSetAccess", "%zu%s", size, places.c_str());
}
int cuMemAllocManaged(uint64_t* at, size_t size, unsigned flags) {
    if (const int status = noted("cuMemAllocManaged", "%zu flags %u", size, flags)) return status;
    return *at = take(size, PROT_READ | PROT_WRITE), 0;
}
int cuMemFree_v2(uint64_t at) { return noted("cuMemFree_v2", "") | give(at, 0); }
int cuMemAdvise(uint64_t at, size_t size, int advice, int device) {
    return noted("cuMemAdvise", "%zu %d for %d", size, advice, device);
}
int cuMemPrefetchAsync(uint64_t at, size_t size, int device, void* stream) {
    return noted("cuMemPrefetchAsync", "%zu to %d stream %d", size, device, stream != nullptr);
}
#ifndef OLD
int cuMemAdvise_v2(uint64_t at, size_t size, int advice, Location location) {
    return noted("cuMemAdvise_v2", "%zu %d for %d:%d", size, advice, location.type, location.id);
}
int cuMemPrefetchAsync_v2(uint64_t at, size_t size, Location location, unsigned flags, void* stream) {
    const char* format = "%zu to %d:%d flags %u stream %d";
    return noted("cuMemPrefetchAsync_v2", format, size, location.type, location.id, flags, stream != nullptr);
}
#endif
}
"""
MANAGED, NODE = 89, 134
SIZE = 3 * GRANULARITY - 4000
ROUNDED = 3 * GRANULARITY
RESERVED = f"cuMemAddressReserve {ROUNDED} alignment {2**21} hint 0 flags 0"
UNDONE = [f"cuMemUnmap {ROUNDED}", "cuMemRelease 77", f"cuMemAddressFree {ROUNDED}"]


@pytest.fixture(scope="module")
def scripts():
    """The scripts can be imported."""
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Paths of a new and of an old driver."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ to compile a driver with")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.cpp").write_text(SOURCE)
    for name, define in (("new", "-DNEW"), ("old", "-DOLD")):
        options = ["-shared", "-fPIC", f"-DGRANULARITY={GRANULARITY}", define, "-o", f"{name}.so"]
        subprocess.run(["g++", *options, "driver.cpp"], cwd=folder, check=True)
    return {name: str(folder / f"{name}.so") for name in ("new", "old")}


class FakeDriver:
    """The library, and what it has noted."""

    def __init__(self, path):
        from memory_driver import MemoryDriver

        self.calls, self.library = MemoryDriver(path), ctypes.CDLL(path)
        self.library.note_calls.restype = ctypes.c_char_p
        self.library.note_nothing()
        self.library.answer(MANAGED, 1)
        self.library.answer(NODE, 1)

    def refuse(self, *names, location=0):
        self.library.refuse("".join(f" {name} " for name in names).encode(), location)

    def noted(self):
        return [line.strip() for line in self.library.note_calls().decode().splitlines()]

    def left(self):
        return self.library.left()


@pytest.fixture
def driver(scripts, libraries):
    return FakeDriver(libraries["new"])


def write(block):
    """Let the host touch it."""
    ctypes.memset(block.address, 7, SIZE)
    assert ctypes.string_at(block.address, SIZE) == b"\7" * SIZE


def created_calls(location, access):
    return [
        f"cuMemGetAllocationGranularity at {location} option 1",
        RESERVED,
        f"cuMemCreate {ROUNDED} type 1 at {location} rest 0 flags 0",
        f"cuMemMap {ROUNDED} offset 0 handle 77 flags 0",
        f"cuMemSetAccess {ROUNDED} {access}",
    ]


@pytest.mark.parametrize(("node", "location"), [(1, "3:1"), (-1, "3:0"), (None, "3:0")])
def test_created(driver, node, location):
    from host_memory_kinds import created

    driver.library.note_nothing()
    if node is not None:
        driver.library.answer(NODE, node)
    with created(driver.calls, SIZE) as block:
        write(block)
        assert block.facts["granularity_bytes"] == GRANULARITY
        assert (block.facts["location_type"], block.facts["location_id"]) == (3, max(node or 0, 0))
    assert driver.noted() == [*created_calls(location, f"1:5=3 {location}=3"), *UNDONE]
    assert driver.left() == 0


def test_created_where_no_node_may_be_named(driver):
    from host_memory_kinds import created

    driver.refuse(location=3)
    with created(driver.calls, SIZE) as block:
        write(block)
        assert block.facts["location_type"] == 2
        assert "location 3: cuMemCreate: ERROR_OF_THE_TEST (1)" in block.facts["refused"]
    first = [*created_calls("3:1", "")[:3], UNDONE[-1]]
    assert driver.noted() == [*first, *created_calls("2:0", "1:5=3 2:0=3"), *UNDONE]
    assert driver.left() == 0


@pytest.mark.parametrize(
    ("refused", "undone"),
    [
        ("cuMemGetAllocationGranularity", 0),
        ("cuMemAddressReserve", 0),
        ("cuMemCreate", 1),
        ("cuMemMap", 2),
        ("cuMemSetAccess", 3),
    ],
)
def test_created_undoes_what_was_done_before_a_refusal(driver, refused, undone):
    from host_memory_kinds import HostMemoryError, created

    driver.refuse(refused)
    with (
        pytest.raises(HostMemoryError, match=f"{refused}: ERROR_OF_THE_TEST .801.*location 2"),
        created(driver.calls, SIZE),
    ):
        pass
    calls = []
    for location in ("3:1", "2:0"):
        all_calls = created_calls(location, f"1:5=3 {location}=3")
        done = next(at for at, call in enumerate(all_calls) if call.startswith(refused)) + 1
        calls += [*all_calls[:done], *UNDONE[len(UNDONE) - undone :]]
    assert driver.noted() == calls
    assert driver.left() == 0


def test_created_gives_the_rest_back_where_one_call_fails(driver):
    from host_memory_kinds import HostMemoryError, created

    with pytest.raises(HostMemoryError, match="cuMemUnmap"), created(driver.calls, SIZE):
        driver.refuse("cuMemUnmap")
    assert driver.noted()[-3:] == UNDONE
    assert driver.left() == 0


def test_allocated(driver):
    from host_memory_kinds import HostMemoryError, allocated

    with allocated(driver.calls, SIZE) as block:
        write(block)
    assert driver.noted() == [f"cuMemHostAlloc {SIZE} flags 3", "cuMemFreeHost"]
    driver.refuse("cuMemHostAlloc")
    with pytest.raises(HostMemoryError, match="cuMemHostAlloc"), allocated(driver.calls, SIZE):
        pass
    assert driver.noted()[2:] == [f"cuMemHostAlloc {SIZE} flags 3"]
    assert driver.left() == 0


def test_managed(driver):
    from host_memory_kinds import managed

    with managed(driver.calls, SIZE) as block:
        write(block)
        block.settle()
        assert block.facts == {"prefetched": True}
    advised = [f"cuMemAdvise_v2 {SIZE} 3 for 2:0", f"cuMemAdvise_v2 {SIZE} 5 for 1:5"]
    moved = [f"cuMemPrefetchAsync_v2 {SIZE} to 2:0 flags 0 stream 0", "cuCtxSynchronize"]
    assert driver.noted() == [f"cuMemAllocManaged {SIZE} flags 1", *advised, *moved, "cuMemFree_v2"]
    assert driver.left() == 0


def test_managed_by_a_driver_that_knows_no_locations(scripts, libraries):
    from host_memory_kinds import managed

    driver = FakeDriver(libraries["old"])
    with managed(driver.calls, SIZE) as block:
        block.settle()
    advised = [f"cuMemAdvise {SIZE} 3 for -1", f"cuMemAdvise {SIZE} 5 for 5"]
    moved = [f"cuMemPrefetchAsync {SIZE} to -1 stream 0", "cuCtxSynchronize"]
    assert driver.noted() == [f"cuMemAllocManaged {SIZE} flags 1", *advised, *moved, "cuMemFree_v2"]


def test_managed_where_something_is_refused(driver):
    from host_memory_kinds import HostMemoryError, managed

    driver.refuse("cuMemPrefetchAsync_v2")
    with managed(driver.calls, SIZE) as block:
        block.settle()
        assert "cuMemPrefetchAsync_v2" in block.facts["not_prefetched"]
    driver.refuse("cuMemAdvise_v2")
    with pytest.raises(HostMemoryError, match="cuMemAdvise_v2"), managed(driver.calls, SIZE):
        pass
    assert driver.noted()[-1] == "cuMemFree_v2"
    assert driver.left() == 0
    driver.library.answer(MANAGED, 0)
    before = driver.noted()
    with pytest.raises(HostMemoryError, match="at once"), managed(driver.calls, SIZE):
        pass
    assert driver.noted() == before


def test_a_driver_that_is_not_there_or_lacks_a_call(scripts, libraries):
    from memory_driver import HostMemoryError, MemoryDriver

    with pytest.raises(HostMemoryError, match="libno_such_driver"):
        MemoryDriver("libno_such_driver.so.1")
    with pytest.raises(HostMemoryError, match="the driver has no cuMemAdvise_v2"):
        MemoryDriver(libraries["old"]).call("cuMemAdvise_v2")


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
    assert list(found) == [
        f"{kind} / {item}" for kind in ("registered", "created", "allocated", "managed") for item in ITEMS
    ]
    assert not [name for name, item in found.items() if "error" in item or "mismatch" in item]
    for kind in ("registered", "created", "allocated", "managed"):
        assert found[f"{kind} / made"]["bytes"] == 131072
        assert found[f"{kind} / made"]["right"]
        assert found[f"{kind} / copies"]["copied_right"]
        assert found[f"{kind} / in order"]["bytes"] == 131072
    assert found["managed / made"]["prefetched"]
    assert driver.left() == 0


def test_what_fails_is_recorded_and_the_rest_goes_on(section, driver, monkeypatch):
    from gpu_bench_pages import OneKind

    def fails(self):
        raise ValueError("no figure")

    monkeypatch.setattr(OneKind, "_in_order", fails)
    driver.refuse("cuMemSetAccess", "cuMemFreeHost")
    found = section()
    for kind in ("registered", "allocated", "managed"):
        assert found[f"{kind} / in order"]["error"] == "ValueError: no figure"
        assert {f"{kind} / {item}" for item in ITEMS} <= found.keys()
        assert "read_256x256_gb_s" in found[f"{kind} / launch shapes"]
    assert "cuMemSetAccess" in found["created / made"]["error"]
    assert not [name for name in found if name.startswith("created") and name != "created / made"]
    assert "cuMemFreeHost" in found["allocated / given back"]["error"]
    assert driver.left() == 0


def test_memory_that_the_device_sees_otherwise_is_not_timed(section, driver, monkeypatch):
    import host_memory_kinds

    monkeypatch.setattr(host_memory_kinds, "device_array_over", lambda array: DeviceArray.over(array.copy()))
    found = section()
    assert found["created / made"]["read_right"]
    assert not found["created / made"]["written_right"]
    assert found["created / made"]["mismatch"]
    assert [name for name in found if name.startswith("created")] == ["created / made", "created / given back"]
    assert driver.left() == 0


def test_another_process_makes_the_memory_again_for_what_is_left(section, driver, tmp_path):
    made = section()["created / made"]
    path = tmp_path / "gpu.json"
    results = json.loads(path.read_text())
    for item in ("created / copies", "created / launch shapes"):
        del results["sections"]["pages"][item]
    path.write_text(json.dumps(results))
    driver.library.note_nothing()
    driver.library.answer(NODE, 1)
    found = section()
    assert found["created / made"] == made
    assert found["created / copies"]["copied_right"]
    assert "read_256x256_gb_s" in found["created / launch shapes"]
    assert [call.split()[0] for call in driver.noted()] == [
        "cuMemGetAllocationGranularity",
        "cuMemAddressReserve",
        "cuMemCreate",
        "cuMemMap",
        "cuMemSetAccess",
        "cuMemUnmap",
        "cuMemRelease",
        "cuMemAddressFree",
    ]
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
    import memory_driver

    folder = header_folder()
    if folder is None or shutil.which("g++") is None:
        pytest.skip("there is no cuda.h, or no g++ to read it with")
    expected, lines = [], []

    def compare(value, text):
        expected.append(f"{text} {value}")
        lines.append(f'printf("%s %lld\\n", "{text}", (long long)({text}));')

    structures = [memory_driver.CUmemLocation, memory_driver.CUmemAllocationProp, memory_driver.CUmemAccessDesc]
    for structure in structures:
        name = structure.__name__
        compare(ctypes.sizeof(structure), f"sizeof({name})")
        for member, *_ in structure._fields_:
            compare(getattr(structure, member).offset, f"offsetof({name}, {member})")
            compare(getattr(structure, member).size, f"sizeof(std::declval<{name}&>().{member})")
    flags = memory_driver.AllocationFlags
    for member, *_ in flags._fields_:
        offset = memory_driver.CUmemAllocationProp.allocFlags.offset + getattr(flags, member).offset
        compare(offset, f"offsetof(CUmemAllocationProp, allocFlags.{member})")
    numbers = {name: value for name, value in vars(memory_driver).items() if name.startswith("CU_")}
    assert len(numbers) == 15
    # Older headers lack some of them: those of CUDA 12.1 know no calls that take a location.
    words = set(re.findall(r"\w+", (folder / "cuda.h").read_text(errors="replace")))
    for name in numbers.keys() & words:
        compare(numbers[name], name)
    for function, types in memory_driver.PROTOTYPES.items():
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
    assert len(expected) > 45
