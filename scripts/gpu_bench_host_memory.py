"""Host memory of one kind for the benchmark: made when it is first needed, filled, and compared before it is timed."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import numpy as np
from gpu_bench_checks import judged
from gpu_bench_runs import free_memory
from gpu_bench_scale import FLOAT_BYTES, SPREAD, Scale
from host_memory_kinds import KINDS, HostMemory, page_facts

from cupyrec.devices.gpu import GpuDevice
from cupyrec.devices.host_memory import available_bytes
from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.embedding.move_rows import gather_records, scatter_records

# The memory has so many blocks of `copy_bytes`, which is 8 GB, and at least so many where memory is short.
BUFFER_COPIES, FEWEST_COPIES = 32, 4
# In ascending order no more than one record in so many is moved, one in a page of 4 kB: several rounds of a small part.
LEAST_STRIDE = 8


class FilledMemory:
    """Memory that the host has filled with whole numbers below 2**24 and the device reaches; all seen as records."""

    def __init__(self, scale: Scale, device: GpuDevice, kind: str) -> None:
        """kind: of KINDS."""
        self._scale, self._device, self._kind = scale, device, kind
        # As wide as rows of SGD, which have no more than their weights.
        self.width = scale.config.dimension
        self.random = np.random.default_rng(1)
        self._stack = ExitStack()
        self._memory: HostMemory | None = None
        self._on_device: Any = None

    def make(self) -> dict[str, Any]:
        """Make and fill it; seconds, facts, and whether the device reads and writes it right.

        Raises HostMemoryError, DeviceError.
        """
        device, elements = self._device, buffer_elements(self._scale)
        device.host.launch(_fill, 1, np.empty(1, np.float32))  # compiled
        self._stack.close()  # of an attempt that failed
        times = [time.perf_counter()]
        memory = self._stack.enter_context(KINDS[self._kind](device, elements))
        times.append(time.perf_counter())
        device.host.launch(_fill, elements, memory.array)
        times.append(time.perf_counter())
        self._on_device, self._memory = memory.settle(), memory
        times.append(time.perf_counter())
        names = "make_s", "touch_s", "settle_s"
        took = {name: round(times[at + 1] - times[at], 3) for at, name in enumerate(names)}
        pages = page_facts(memory.array.ctypes.data)
        return self._checked({"bytes": memory.array.nbytes, **took, **pages})

    def records(self, width: int | None = None) -> tuple[np.ndarray, Any]:
        """(rows, width) float32, all of it, for the host and for the device. width: None: of the table."""
        if self._memory is None:  # `make` was measured by a process before this one
            self.make()
        assert self._memory is not None
        host = self._memory.array.reshape(-1, width or self.width)
        return host, self._on_device.reshape(host.shape)

    def rows(self, records: int, count: int | None = None) -> np.ndarray:
        """(n,) int64: different random ones of the first so many records, ascending; in rounds where they are few.

        count: at most so many; None: as many as the scale moves.
        """
        count = min(count or self._scale.moved_rows, records)
        rows = self.random.choice(records, count, replace=False)
        rounds = -(-count * LEAST_STRIDE // records)
        return np.concatenate([np.sort(part) for part in np.array_split(rows, rounds)])

    def give_back(self) -> dict[str, float]:
        """Let it go, however far it came; nothing of the device may use it any more. Raises HostMemoryError."""
        was_made = self._memory is not None
        self._memory = self._on_device = None
        begun = time.perf_counter()
        free_memory(self._device)
        self._stack.close()
        return {"seconds": round(time.perf_counter() - begun, 3)} if was_made else {}

    def _checked(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values, judged by random records that the device reads, and that it writes so that the host sees them."""
        device, (records, mapped) = self._device, self.records()
        rows = self.rows(records.shape[0])
        places, there = device.upload(rows), records[rows]
        gathered = device.zeros(there.shape)
        gather_records(device, mapped, places, gathered, over_link=True)
        values["read_right"] = bool(np.array_equal(device.download(gathered), there))
        values["written_right"] = True
        for sent in (-there, there):
            given = device.upload(sent)
            scatter_records(device, given, places, mapped, over_link=True)
            device.synchronize()
            values["written_right"] &= bool(np.array_equal(records[rows], sent))
        return judged(values, values["read_right"] and values["written_right"])


def buffer_elements(scale: Scale) -> int:
    """How many elements of float32 the memory has: fewer where little is left, but always whole blocks of a copy."""
    free = available_bytes()
    copies = BUFFER_COPIES if free is None else free // 2 // scale.copy_bytes
    return min(max(copies, FEWEST_COPIES), BUFFER_COPIES) * scale.copy_bytes // FLOAT_BYTES


@cpu_kernel
def _fill(start, stop, elements):
    """Whole numbers below 2**24, which float32 holds, in no order."""
    for at in range(np.uint64(start), np.uint64(stop)):
        elements[at] = np.float32(np.int64((at * np.uint64(SPREAD) >> np.uint64(13)) & np.uint64(0xFFFFFF)))
