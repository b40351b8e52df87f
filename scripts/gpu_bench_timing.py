"""Times of a GPU: by events on its own clock."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cupyrec.devices.gpu import GpuDevice, GpuEvent, GpuStream

TRIALS = 5


def between_ms(device: GpuStream, begun: GpuEvent, ended: GpuEvent) -> float:
    """Milliseconds between two events that are done."""
    return device.runtime.elapsed_ms(begun.handle, ended.handle)


def per_ms(amount: float, ms: float) -> float:
    """A rate: amount / ms; 0 where no time passed, which is so in an emulation alone."""
    return amount / ms if ms > 0 else 0.0


def rounded(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


def tflop_s(operations: float, ms: float) -> float:
    """10**12 operations a second."""
    return rounded(per_ms(operations, ms) / 1e9)


def gb_s(size_bytes: float, ms: float) -> float:
    """Gigabytes a second."""
    return rounded(per_ms(size_bytes, ms) / 1e6)


def streams_ms(device: GpuDevice, works: list[tuple[GpuStream, Callable[[], None]]]) -> list[float]:
    """What each work takes on its stream when all begin at once; medians of a few trials."""
    trials: list[list[float]] = []
    for _ in range(1 + TRIALS):
        begun = device.record(timed=True)
        for stream, _ in works:
            stream.wait(begun)
        starts = [stream.record(timed=True) for stream, _ in works]
        for _, work in works:
            work()
        ends = [stream.record(timed=True) for stream, _ in works]
        for end in ends:
            end.synchronize()
        trials.append([between_ms(device, start, end) for start, end in zip(starts, ends, strict=True)])
    return [statistics.median(times) for times in zip(*trials[1:], strict=True)]


def graph_ms(device: GpuDevice, work: Callable[[], object], repeats: int) -> float:
    """What work queues on the training's stream takes without the host: the median of replays of a graph of repeats."""
    work()  # compiles kernels and takes memory, which a capture would not allow
    device.synchronize()

    def repeated() -> None:
        for _ in range(repeats):
            work()

    graph = device.capture(repeated)
    times = []
    for _ in range(1 + TRIALS):
        begun = device.record(timed=True)
        device.replay(graph)
        ended = device.record(timed=True)
        ended.synchronize()
        times.append(between_ms(device, begun, ended) / repeats)
    return statistics.median(times[1:])


@contextmanager
def noted_launches(device: GpuDevice, beside: Sequence[GpuStream]) -> Iterator[list[tuple[str, Callable[[], None]]]]:
    """Within it, each kernel and matrix product is done on the device's own stream and noted by name.

    Those that are queued there or on the streams `beside`.
    """
    noted: list[tuple[str, Callable[[], None]]] = []

    def launch(kernel: Any, grid: Any, block: Any, *arguments: Any) -> None:
        again = functools.partial(GpuDevice.launch, device, kernel, grid, block, *arguments)
        shape = "x".join(map(str, arguments[0].shape)) if hasattr(arguments[0], "shape") else ""
        noted.append((f"{kernel.name} {shape}", again))
        again()

    def matmul(A: Any, B: Any, out: Any) -> None:
        again = functools.partial(GpuDevice.matmul, device, A, B, out)
        noted.append((f"matmul {A.shape[0]}x{A.shape[1]}x{B.shape[1]}", again))
        again()

    streams: list[Any] = [device, *beside]
    for stream in streams:
        stream.launch, stream.matmul = launch, matmul
    try:
        yield noted
    finally:
        for stream in streams:
            del stream.launch, stream.matmul


def kernel_times(
    device: GpuDevice, work: Callable[[], object], repeats: int, beside: Sequence[GpuStream] = ()
) -> list[dict[str, Any]]:
    """Each kernel and matrix product that work queues, alone and again and again; in their order.

    work queues on the device's own stream and on those beside it.
    For work that may be done again in parts: what it reads must not be what it has changed before.
    """
    with noted_launches(device, beside) as noted:
        work()
    device.synchronize()
    return [{"name": name, "ms": round(graph_ms(device, again, repeats), 5)} for name, again in noted]
