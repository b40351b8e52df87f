"""Available memory from made-up /proc and /sys trees; arrays on huge pages."""

import gc
import mmap
import os
import resource

import numpy as np
import pytest

from cupyrec.devices import host_memory
from cupyrec.devices.host_memory import (
    HUGE_PAGE_BYTES,
    address_space_headroom_bytes,
    available_bytes,
    cgroup_headroom_bytes,
    host_array,
    meminfo_available_bytes,
)
from cupyrec.errors import MemoryPlanError

MEMINFO = "MemTotal:       32000000 kB\nMemFree:         1000000 kB\nMemAvailable:   24000000 kB\n"
V1_NO_LIMIT = "9223372036854771712\n"


@pytest.fixture
def no_address_space_limit(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def write_files(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_meminfo():
    assert meminfo_available_bytes(MEMINFO) == 24_000_000 * 1024
    assert meminfo_available_bytes("MemTotal: 32000000 kB\n") is None
    assert meminfo_available_bytes("") is None


def test_v2_limit_less_usage_without_cached_files(tmp_path):
    write_files(
        tmp_path / "job",
        {
            "memory.max": "8000000\n",
            "memory.high": "max\n",
            "memory.current": "5000000\n",
            "memory.stat": "anon 100\nactive_file 400000\ninactive_file 3000000\n",
        },
    )
    assert cgroup_headroom_bytes("0::/job\n", tmp_path) == 6_000_000


def test_v2_high_counts_where_it_is_lower(tmp_path):
    files = {"memory.max": "8000\n", "memory.high": "6000\n", "memory.current": "1000\n"}
    write_files(tmp_path, files)
    assert cgroup_headroom_bytes("0::/\n", tmp_path) == 5000


@pytest.mark.parametrize(
    ("outer", "middle", "inner", "expected"),
    [
        ("max", "9000", "max", 7000),
        ("5000", "9000", "max", 2000),
        ("5000", "9000", "1500", 500),
        ("max", "max", "max", None),
    ],
)
def test_v2_every_group_around_counts(tmp_path, outer, middle, inner, expected):
    for level, limit, current in (("a", outer, 3000), ("a/b", middle, 2000), ("a/b/c", inner, 1000)):
        write_files(tmp_path / level, {"memory.max": f"{limit}\n", "memory.current": f"{current}\n"})
    # The root group has no limit files; a line of version 1 without the memory controller says nothing.
    assert cgroup_headroom_bytes("1:name=systemd:/x\n0::/a/b/c\n", tmp_path) == expected


@pytest.mark.parametrize("path", ["/", "/host/only/path", "/../sibling", "/../../a/b"])
def test_v2_in_a_container_the_mount_is_the_own_group(tmp_path, path):
    write_files(tmp_path, {"memory.max": "4000\n", "memory.current": "1000\n"})
    assert cgroup_headroom_bytes(f"0::{path}\n", tmp_path) == 3000


def test_v2_path_out_of_the_namespace_is_not_followed_outside_the_mount(tmp_path):
    write_files(tmp_path / "other", {"memory.max": "1\n", "memory.current": "0\n"})
    mount = write_files(tmp_path / "mount", {"memory.max": "4000\n", "memory.current": "1000\n"})
    assert cgroup_headroom_bytes("0::/../other\n", mount) == 3000


def test_v1_nested_with_no_limit_above(tmp_path):
    write_files(tmp_path / "memory", {"memory.limit_in_bytes": V1_NO_LIMIT, "memory.usage_in_bytes": "9\n"})
    write_files(
        tmp_path / "memory/docker/f00",
        {
            "memory.limit_in_bytes": "7000\n",
            "memory.usage_in_bytes": "4000\n",
            "memory.stat": "inactive_file 1\ntotal_inactive_file 1500\n",
        },
    )
    self_cgroup = "11:cpu,cpuacct:/docker/f00\n4:hugetlb,memory:/docker/f00\n0::/\n"
    assert cgroup_headroom_bytes(self_cgroup, tmp_path) == 4500


def test_a_path_may_hold_colons(tmp_path):
    write_files(tmp_path / "a:b", {"memory.max": "4000\n", "memory.current": "1000\n"})
    assert cgroup_headroom_bytes("0::/a:b\n", tmp_path) == 3000


def test_no_cgroups_no_limit(tmp_path):
    assert cgroup_headroom_bytes("", tmp_path) is None
    assert cgroup_headroom_bytes("garbage\n0::/x\n4:memory:/x\n", tmp_path) is None


def test_address_space_limit(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**9, resource.RLIM_INFINITY))
    assert address_space_headroom_bytes("1000 200 3 4 5 6 7\n") == 10**9 - 1000 * resource.getpagesize()
    assert address_space_headroom_bytes("") == 10**9


@pytest.mark.usefixtures("no_address_space_limit")
def test_no_address_space_limit():
    assert address_space_headroom_bytes("1000 200\n") is None


@pytest.mark.usefixtures("no_address_space_limit")
@pytest.mark.parametrize(
    ("limit", "current", "expected"),
    [("max", "0", 24_000_000 * 1024), ("1000000", "400000", 600_000), ("1000", "3000", 0)],
)
def test_the_least_of_all_counts_and_never_less_than_nothing(tmp_path, limit, current, expected):
    write_files(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": limit,
            "sys/fs/cgroup/memory.current": current,
        },
    )
    assert available_bytes(tmp_path) == expected


def test_the_address_space_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**8, 10**8))
    write_files(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/statm": "100 50 0 0 0 0 0\n"})
    assert available_bytes(tmp_path) == 10**8 - 100 * resource.getpagesize()


@pytest.mark.usefixtures("no_address_space_limit")
def test_without_proc_all_memory_counts(tmp_path, monkeypatch):
    values = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", values.__getitem__)
    assert available_bytes(tmp_path) == 4_096_000


@pytest.mark.usefixtures("no_address_space_limit")
@pytest.mark.parametrize("failure", ["refuses", "unknown", "is missing"])
def test_where_the_system_says_nothing_it_is_unknown(tmp_path, monkeypatch, failure):
    def refuse(_):
        raise ValueError("unrecognized configuration name")

    if failure == "is missing":
        monkeypatch.delattr(os, "sysconf")
    else:
        monkeypatch.setattr(os, "sysconf", refuse if failure == "refuses" else lambda _: -1)
    assert available_bytes(tmp_path) is None


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="looks at this system's own /proc")
def test_this_machine_has_some_but_no_more_than_all():
    available = available_bytes()
    assert available is not None
    assert 0 < available <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (0, np.float32),
        ((0, 17), np.float32),
        (1, np.uint8),
        ((3, 5, 7), np.float64),
        ((), np.int64),
        ((65_537, 17), np.float32),
        ([HUGE_PAGE_BYTES], np.int8),
    ],
)
def test_host_array_is_zero_aligned_and_writable(shape, dtype):
    array = host_array(shape, dtype)
    expected = np.zeros(shape, dtype)
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
    assert array.ctypes.data % HUGE_PAGE_BYTES == 0
    assert array.flags.c_contiguous
    assert array.flags.aligned
    assert not array.any()
    array[...] = 1
    assert array.sum() == array.size


def test_host_arrays_do_not_overlap():
    arrays = [host_array((1000, 1000), np.int32) for _ in range(3)]
    for number, array in enumerate(arrays):
        array[...] = number
    assert [int(array.min()) for array in arrays] == [int(array.max()) for array in arrays] == [0, 1, 2]


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads the address space from /proc")
def test_memory_goes_back_with_the_last_view():
    def address_space_bytes():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()

    size_bytes = 2**30  # reserved, hardly touched
    before = address_space_bytes()
    array = host_array(size_bytes, np.uint8)
    view = array[-10:]
    del array
    view[0] = 1
    assert address_space_bytes() - before > size_bytes / 2
    del view
    gc.collect()
    assert address_space_bytes() - before < size_bytes / 2


class RecordingMap(mmap.mmap):
    """Notes how it is made and what is advised, and refuses as a kernel without huge pages does."""

    flags: list
    advised: list

    def __new__(cls, descriptor, length, *, flags):
        cls.flags.append(flags)
        return super().__new__(cls, descriptor, length, flags=flags)

    def madvise(self, option, start, length):
        self.advised.append((option, start % mmap.PAGESIZE, length))
        raise OSError(22, "Invalid argument")


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="this system has no MADV_HUGEPAGE")
def test_whole_huge_pages_are_advised_and_a_refusal_is_no_error(monkeypatch):
    monkeypatch.setattr(RecordingMap, "flags", [], raising=False)
    monkeypatch.setattr(RecordingMap, "advised", [], raising=False)
    monkeypatch.setattr(host_memory.mmap, "mmap", RecordingMap)
    for size_bytes in (100, 2 * HUGE_PAGE_BYTES + 12_345):
        array = host_array(size_bytes, np.uint8)
        array[:] = 3
        assert array[-1] == 3
    # Shared memory would follow other rules for huge pages.
    assert RecordingMap.flags == [mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS] * 2
    assert RecordingMap.advised == [(mmap.MADV_HUGEPAGE, 0, 2 * HUGE_PAGE_BYTES)]


def test_a_system_without_the_advice_is_no_error(monkeypatch):
    monkeypatch.delattr(host_memory.mmap, "MADV_HUGEPAGE", raising=False)
    assert not host_array(3 * HUGE_PAGE_BYTES, np.uint8).any()


@pytest.mark.parametrize("rows", [2**58, 2**70])
def test_more_than_there_can_be_is_a_memory_plan_error(rows):
    with pytest.raises(MemoryPlanError, match=r"cannot take [\d.]+ PB of host memory for an array \(\d+, 4\)"):
        host_array((rows, 4), np.float32)
