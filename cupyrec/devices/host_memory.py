"""Host memory: how much of it this process may still take, and arrays on huge pages."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import DTypeLike

from cupyrec.byte_sizes import format_bytes
from cupyrec.errors import MemoryPlanError

HUGE_PAGE_BYTES = 2**21
# Control groups of version 1 write "no limit" as the largest number of whole pages in an int64.
NO_LIMIT_BYTES = 2**62


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes of memory that the process may still take without swapping or being killed; None when unknown.

    The least of: what the kernel calls available; what each control group leaves, the process's own and those
    around it; and what the limit on the address space (ulimit -v) leaves. Where there is no /proc, all memory
    of the machine counts as available.

    root: where /proc and /sys are looked for; other than "/" only in tests.
    """
    limits = [
        meminfo_available_bytes(_text(root / "proc/meminfo")),
        cgroup_headroom_bytes(_text(root / "proc/self/cgroup"), root / "sys/fs/cgroup"),
        address_space_headroom_bytes(_text(root / "proc/self/statm")),
    ]
    if limits[0] is None:
        limits[0] = _physical_bytes()
    known = [limit for limit in limits if limit is not None]
    return max(0, min(known)) if known else None


def meminfo_available_bytes(meminfo: str) -> int | None:
    """MemAvailable of the text of /proc/meminfo; None where there is none (kernels before 3.14)."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def cgroup_headroom_bytes(self_cgroup: str, mount: Path) -> int | None:
    """What the process's control group and those around it leave, the least of them; None without a limit.

    self_cgroup: the text of /proc/self/cgroup, lines `hierarchy:controllers:path`; version 2 is `0::path`.
    mount:       where the groups are mounted, /sys/fs/cgroup.

    In a container the path may be the host's while the mount shows the container's own group as its root:
    levels that are not there are skipped, and the mount itself is always looked at.
    """
    headrooms = []
    for line in self_cgroup.splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers == "":
            folder, headroom_of = mount, _headroom_v2
        elif "memory" in controllers.split(","):
            folder, headroom_of = mount / "memory", _headroom_v1
        else:
            continue
        # A path out of the namespace (/../x) cannot be followed: its levels are not in the mount.
        levels = PurePosixPath(path.lstrip("/"))
        inside = [levels, *levels.parents] if ".." not in levels.parts else [PurePosixPath(".")]
        headrooms += [headroom_of(folder / level) for level in inside]
    return min((headroom for headroom in headrooms if headroom is not None), default=None)


def address_space_headroom_bytes(statm: str) -> int | None:
    """What the limit on the address space leaves; None without a limit.

    statm: the text of /proc/self/statm, whose first number is the address space used, in pages; may be empty.
    """
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit_bytes == resource.RLIM_INFINITY:
        return None
    used_pages = int(statm.split()[0]) if statm else 0
    return limit_bytes - used_pages * resource.getpagesize()


def host_array(shape: int | Sequence[int], dtype: DTypeLike) -> np.ndarray:
    """A writable array of zeros, C-contiguous, aligned to 2 MB, on huge pages where the system has them.

    Meant for tables and activations of many megabytes that are read in random order: fewer pages, fewer
    misses of the address cache. Pages are taken when they are first written; all go back when the array and
    its views are gone. Raises MemoryPlanError when the address space cannot be had.
    """
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size_bytes = dtype.itemsize * math.prod(shape)
    try:
        # Private: shared anonymous memory is a file in memory, which has its own rules for huge pages.
        memory = mmap.mmap(-1, size_bytes + HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryPlanError(
            f"cannot take {format_bytes(size_bytes)} of host memory for an array {shape} {dtype}: {error}"
        ) from error
    start = -np.frombuffer(memory, dtype=np.uint8).ctypes.data % HUGE_PAGE_BYTES
    # Whole huge pages only: a small array, or the end of a large one, shall not take 2 MB.
    _advise_huge_pages(memory, start, size_bytes // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES)
    return np.ndarray(shape, dtype, buffer=memory, offset=start)


def array_of_all_views(array: np.ndarray) -> np.ndarray:
    """The array that all its views keep alive.

    Not the memory map below it, which tells of its end only when the memory is gone.
    """
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _advise_huge_pages(memory: mmap.mmap, start: int, size_bytes: int) -> None:
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or not size_bytes:
        return
    # A kernel built without huge pages refuses; the array is as good, only slower.
    with contextlib.suppress(OSError):
        memory.madvise(advice, start, size_bytes)


def _headroom_v2(group: Path) -> int | None:
    """What a version 2 group leaves. memory.high is a limit too: beyond it the kernel slows the process."""
    limits = [_text(group / name).strip() for name in ("memory.max", "memory.high")]
    numbers = [int(limit) for limit in limits if limit.isdecimal()]
    if not numbers:
        return None
    return min(numbers) - _used_bytes(group, "memory.current", "inactive_file")


def _headroom_v1(group: Path) -> int | None:
    """What a version 1 group leaves."""
    limit = _text(group / "memory.limit_in_bytes").strip()
    if not limit.isdecimal() or int(limit) >= NO_LIMIT_BYTES:
        return None
    return int(limit) - _used_bytes(group, "memory.usage_in_bytes", "total_inactive_file")


def _used_bytes(group: Path, usage_file: str, reclaimable: str) -> int:
    """Usage of a group, less the cached file pages that the kernel gives up first."""
    usage = _text(group / usage_file).strip()
    match = re.search(rf"^{reclaimable} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
    return max(0, (int(usage) if usage.isdecimal() else 0) - (int(match[1]) if match else 0))


def _physical_bytes() -> int | None:
    """All memory of the machine; None where the system does not say."""
    try:
        pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return pages * page_bytes if pages > 0 and page_bytes > 0 else None


def _text(path: Path) -> str:
    """The text of a file; empty where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
