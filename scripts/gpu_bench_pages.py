"""Which kind of host memory a GPU reads and writes fastest in random order, and so how host tables are to be allocated.

Random rows of a registered host table cross the link at a third of its rate, both ways together at no more: so the GPU
may be waiting for the addresses of small pages instead of for the link. Where that is so, rows of a small part of the
memory, whose addresses it can keep, are much faster than rows of all of it, and memory mapped in larger pages is as
fast from everywhere. If `allocated` or `managed` is clearly faster than `registered`, host tables are to be allocated
so; if none is, and the small part is no faster either, pages are not what it waits for.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
from gpu_bench_host_memory import FilledMemory
from gpu_bench_report import Section
from gpu_bench_scale import FLOAT_BYTES, Scale
from gpu_bench_timing import between_ms, gb_s, streams_ms
from host_memory_kinds import KINDS

from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.gpu import BLOCK_THREADS, GpuDevice, GpuStream
from cupyrec.embedding import move_rows
from cupyrec.embedding.move_rows import (
    LINK_READ,
    MOST_MOVE_BLOCKS,
    gather_records,
    scatter_records,
)

# Parts of the memory, as shares of `copy_bytes`: 8 MB, 64 MB and 1 GB. The small one is written to as well.
PARTS, SMALL_PART = (1 / 32, 1 / 4, 4), 1 / 4
# Blocks and threads: as cupyrec moves rows over the link, wide as it does within the device, and others.
LINK, WIDE = LINK_READ, (MOST_MOVE_BLOCKS, BLOCK_THREADS)
SHAPES = (LINK, (4, 1024), (16, 1024), WIDE)
# Widths of records, as multiples of the table's: 64 and 256 bytes, 1 and 4 kB.
WIDTHS = (1 / 8, 1 / 2, 2, 8)
COPIES, MOST_TIMES, HOST_TRIALS = 8, 16, 3
RATES = ("read_gb_s", "write_gb_s", "both_read_gb_s", "both_write_gb_s")


def measure_pages(section: Section, scale: Scale, device: GpuDevice) -> None:
    """All items of the section, kind by kind."""
    with device.running():
        for kind in KINDS:
            OneKind(section, scale, device, kind).measure()


class OneKind:
    """What is measured on one kind of host memory."""

    def __init__(self, section: Section, scale: Scale, device: GpuDevice, kind: str) -> None:
        self._section, self._scale, self._device, self._kind = section, scale, device, kind
        self._memory = FilledMemory(scale, device, kind)
        self._width = self._memory.width
        self._into, self._out = device.stream("in"), device.stream("out")

    def measure(self) -> None:
        """Its items; none where the memory is not to be had, or is not what the host wrote there."""
        try:
            if self._item("made", 8, self._memory.make) is None:
                return
            for item, seconds, function in (
                ("random rows", 1, self._random_rows),
                ("small part", 1, self._small_part),
                ("host", 1, self._host_moves),
                ("in order", 1, self._in_order),
                ("copies", 1, self._copies),
                ("launch shapes", 1, self._launch_shapes),
                ("record widths", 2, self._record_widths),
            ):
                self._item(item, seconds, function)
        finally:
            self._give_back()

    def _item(self, item: str, seconds: float, function: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        return self._section.measure(f"{self._kind} / {item}", seconds, function)

    def _give_back(self) -> None:
        """That it fails shall not keep other kinds from being measured."""
        try:
            values: dict[str, Any] = self._memory.give_back()
        except Exception as error:
            values = {"error": f"{type(error).__name__}: {error}"}
        if values:
            self._section.note(f"{self._kind} / given back", values)

    def _rates(self, records: int) -> dict[str, float]:
        """Some of the first so many records read, others written, and both at once."""
        device, (_, mapped) = self._device, self._memory.records()
        places = [device.upload(self._memory.rows(records)) for _ in range(2)]
        on_device = [device.zeros((each.shape[0], self._width)) for each in places]
        # What is written is what is there.
        gather_records(device, mapped, places[1], on_device[1], over_link=True)
        device.synchronize()
        reads = self._into, lambda: gather_records(self._into, mapped, places[0], on_device[0], over_link=True)
        writes = self._out, lambda: scatter_records(self._out, on_device[1], places[1], mapped, over_link=True)
        times = [ms for works in ([reads], [writes], [reads, writes]) for ms in streams_ms(device, works)]
        return {name: gb_s(on_device[0].nbytes, ms) for name, ms in zip(RATES, times, strict=True)}

    def _read_rate(self, rows: np.ndarray, width: int | None = None) -> float:
        """Of records of so many elements, in the order of the rows."""
        device, (_, mapped) = self._device, self._memory.records(width)
        places, gathered = device.upload(rows), device.zeros((rows.size, mapped.shape[1]))
        # Few rows are read in less time than the host takes to begin.
        times = min(max(self._scale.moved_rows * self._width * FLOAT_BYTES // gathered.nbytes, 1), MOST_TIMES)

        def gather() -> None:
            for _ in range(times):
                gather_records(self._into, mapped, places, gathered, over_link=True)

        (ms,) = streams_ms(device, [(self._into, gather)])
        return gb_s(times * gathered.nbytes, ms)

    def _random_rows(self) -> dict[str, Any]:
        """From all of the memory."""
        records = self._memory.records()[0].shape[0]
        values: dict[str, Any] = {"record_bytes": self._width * FLOAT_BYTES, **self._rates(records)}
        with launched_as(WIDE):
            values |= {f"wide_{name}": rate for name, rate in self._rates(records).items()}
        values["read_shuffled_gb_s"] = self._read_rate(self._memory.random.permutation(self._memory.rows(records)))
        return values

    def _small_part(self) -> dict[str, Any]:
        """From the beginning of the memory alone: a rate that grows with fewer pages is one of translation."""
        record_bytes = self._width * FLOAT_BYTES
        records = {share: int(share * self._scale.copy_bytes) // record_bytes for share in PARTS}
        values: dict[str, Any] = {"bytes": records[SMALL_PART] * record_bytes, **self._rates(records[SMALL_PART])}
        for part in records.values():
            values[f"read_of_{part * record_bytes}_bytes_gb_s"] = self._read_rate(self._memory.rows(part))
        return values

    def _host_moves(self) -> dict[str, Any]:
        """Random records gathered and scattered by the host's threads."""
        records, _ = self._memory.records()
        rows = self._memory.random.permutation(self._memory.rows(records.shape[0]))
        gathered = np.zeros((rows.size, self._width), np.float32)
        values: dict[str, Any] = {}
        for threads, host in (("1_thread", CpuDevice(1)), ("all_threads", self._device.host)):
            # Gathered first: what is scattered is what is there.
            for move, work in (
                ("gather", lambda host: gather_records(host, records, rows, gathered)),
                ("scatter", lambda host: scatter_records(host, gathered, rows, records)),
            ):
                times = []
                for _ in range(HOST_TRIALS):
                    begun = time.perf_counter()
                    work(host)
                    times.append((time.perf_counter() - begun) * 1e3)
                values[f"{move}_{threads}_gb_s"] = gb_s(gathered.nbytes, statistics.median(times))
        return values

    def _in_order(self) -> dict[str, Any]:
        """All of it, once, ascending, by a kernel."""
        device, (_, mapped) = self._device, self._memory.records()
        count = min(self._scale.moved_rows, mapped.shape[0])
        places, gathered = device.upload(np.arange(count)), device.zeros((count, self._width))
        starts = range(0, mapped.shape[0] - count + 1, count)
        values: dict[str, Any] = {"bytes": len(starts) * gathered.nbytes}
        for name, shape in (("read_gb_s", LINK), ("wide_read_gb_s", WIDE)):
            with launched_as(shape):
                gather_records(device, mapped[:count], places, gathered, over_link=True)
                begun = device.record(timed=True)
                for start in starts:
                    gather_records(device, mapped[start : start + count], places, gathered, over_link=True)
                ended = device.record(timed=True)
            ended.synchronize()
            values[name] = gb_s(values["bytes"], between_ms(device, begun, ended))
        return values

    def _copies(self) -> dict[str, Any]:
        """Blocks by the copy engines: one way, and both at once."""
        device, (records, mapped) = self._device, self._memory.records()
        count = self._scale.copy_bytes // (self._width * FLOAT_BYTES)
        source, target = mapped[:count], mapped[count : 2 * count]
        device_in, device_out = device.zeros(source.shape), device.zeros(source.shape)
        # What is written is what is there.
        device.copy(target, device_out)
        device.synchronize()

        def many(stream: GpuStream, source: Any, target: Any) -> tuple[GpuStream, Callable[[], None]]:
            def work() -> None:
                for _ in range(COPIES):
                    stream.copy(source, target)

            return stream, work

        inward, outward = many(self._into, source, device_in), many(self._out, device_out, target)
        times = [ms for works in ([inward], [outward], [inward, outward]) for ms in streams_ms(device, works)]
        names = "in_gb_s", "out_gb_s", "both_in_gb_s", "both_out_gb_s"
        values: dict[str, Any] = {
            name: gb_s(COPIES * device_in.nbytes, ms) for name, ms in zip(names, times, strict=True)
        }
        blocks = (device_in, records[:count]), (device_out, records[count : 2 * count])
        values["copied_right"] = all(np.array_equal(device.download(copied), block) for copied, block in blocks)
        return values

    def _launch_shapes(self) -> dict[str, Any]:
        """Read by more blocks than cupyrec does: whether enough is under way."""
        rows = self._memory.rows(self._memory.records()[0].shape[0])
        values: dict[str, Any] = {}
        for blocks, threads in SHAPES:
            with launched_as((blocks, threads)):
                values[f"read_{blocks}x{threads}_gb_s"] = self._read_rate(rows)
        return values

    def _record_widths(self) -> dict[str, Any]:
        """As many bytes in narrower and wider records: whether pages are what counts, or requests."""
        size = self._scale.moved_rows * self._width
        values: dict[str, Any] = {}
        for share in WIDTHS:
            width = max(int(self._width * share), 1)
            records = self._memory.records(width)[0].shape[0]
            rows = self._memory.rows(records, max(size // width, 1))
            values[f"read_{width * FLOAT_BYTES}_bytes_gb_s"] = self._read_rate(rows, width)
        return values


def launched_as(shape: tuple[int, int]) -> Any:
    """Within it records are moved over the link by so many blocks of so many threads."""
    return patch.multiple(move_rows, LINK_READ=shape, LINK_WRITE=shape)
