"""A system at work, timed: its steps, its stage Train and its exchange, each on the device's own clock."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpu_bench_scale import Scale
from gpu_bench_timing import between_ms

from cupyrec.batch import Batch
from cupyrec.devices.gpu import GpuDevice, GpuEvent, GpuStream
from cupyrec.pipeline.exchange import Exchange
from cupyrec.pipeline.gpu_ring import GpuStaging
from cupyrec.pipeline.ways import WayIn, WayOut
from cupyrec.systems.train_stage import TrainStage

# Steps beyond the length of the ring that a batch may be loaded after the one that was trained.
RING_MARGIN = 8
# Entries of a ring beyond the batches known ahead, at most.
RING_BEYOND_LOOKAHEAD = 16
# Spans of the training's stream: all of Train, or the dense part up to the pooled vectors' gradient, and what is after.
TRAIN, GRADIENTS = "train", "gradients"


class Spans:
    """Stretches of a stream's time, by name; kept while `keeps`."""

    def __init__(self, device: GpuDevice) -> None:
        self._device, self.keeps = device, False
        self._events: dict[str, list[tuple[GpuEvent, GpuEvent]]] = {}
        self._host_ms: dict[str, list[float]] = {}

    @contextmanager
    def on_stream(self, name: str, stream: GpuStream) -> Iterator[None]:
        """Around what is queued."""
        if not self.keeps:
            yield
            return
        begun = stream.record(timed=True)
        yield
        self._events.setdefault(name, []).append((begun, stream.record(timed=True)))

    @contextmanager
    def on_host(self, name: str) -> Iterator[None]:
        """Around what the calling thread does."""
        begun = time.perf_counter()
        yield
        if self.keeps:
            self._host_ms.setdefault(name, []).append((time.perf_counter() - begun) * 1e3)

    def medians_ms(self) -> dict[str, float]:
        """By name; all of it must be done."""
        times = dict(self._host_ms)
        for name, events in self._events.items():
            times[name] = [between_ms(self._device, *pair) for pair in events]
        return {name: round(statistics.median(each), 4) for name, each in times.items()}


class TimedTrainStage(TrainStage):
    """A stage that notes what it takes: all of a step where rows are on the device, else the dense part in two."""

    spans: Spans | None = None
    _depth = 0

    def run(self, *arguments: Any) -> Any:
        with self._noted():
            return super().run(*arguments)

    def gradient(self, batch: Batch, Y: Any) -> Any:
        with self._noted():
            return super().gradient(batch, Y)

    def complete_gradients(self) -> None:
        with self._noted(GRADIENTS):
            super().complete_gradients()

    @contextmanager
    def _noted(self, name: str = TRAIN) -> Iterator[None]:
        if self.spans is None or self._depth:
            yield
            return
        self._depth += 1
        try:
            with self.spans.on_stream(name, self.device):
                yield
        finally:
            self._depth -= 1


class TimedExchange:
    """An exchange that notes what it takes."""

    def __init__(self, exchange: Exchange) -> None:
        self.name = exchange.name
        self.into, self.out = TimedIn(exchange.into), TimedOut(exchange.out)

    def note_in(self, spans: Spans) -> None:
        """Where to note."""
        self.into.spans = self.out.spans = spans


class TimedIn:
    """A way in that notes what it takes."""

    spans: Spans

    def __init__(self, way: WayIn) -> None:
        self._way, self.name, self.by_host = way, way.name, way.by_host

    def gather(self, miss_rows: Any, staging: GpuStaging) -> None:
        with self.spans.on_host("host gather"):
            self._way.gather(miss_rows, staging)

    def bring(self, stream: GpuStream, miss_rows: Any, staging: GpuStaging) -> None:
        with self.spans.on_stream("in", stream):
            self._way.bring(stream, miss_rows, staging)


class TimedOut:
    """A way out that notes what it takes."""

    spans: Spans

    def __init__(self, way: WayOut) -> None:
        self._way, self.name, self.by_host, self.in_order = way, way.name, way.by_host, way.in_order

    def take(self, stream: GpuStream, evict_rows: Any, staging: GpuStaging) -> None:
        with self.spans.on_stream("out", stream):
            self._way.take(stream, evict_rows, staging)

    def scatter(self, evict_rows: Any, staging: GpuStaging) -> None:
        with self.spans.on_host("host scatter"):
            self._way.scatter(evict_rows, staging)


def batches_needed(scale: Scale, fill: int, lookahead: int) -> int:
    """How many batches timed_steps takes at most, with those that a scratchpad knows ahead."""
    warm = max(scale.warm_steps + fill, lookahead + RING_BEYOND_LOOKAHEAD + RING_MARGIN)
    return warm + scale.timed_steps + lookahead + RING_BEYOND_LOOKAHEAD


def timed_steps(
    scale: Scale, system: Any, stage: TimedTrainStage, batches: list[Batch], exchange: TimedExchange | None, fill: int
) -> dict[str, Any]:
    """Let a system train: until its scratchpad is full, at most `fill` steps, and some more; then time its steps.

    At least until each entry of a scratchpad's ring has been used twice: at the second use its graph is captured.

    A step is timed from event to event on the training's stream, in windows of some steps, of which the median is
    taken; and by the host's clock over all of them, with the device synchronised at both ends.
    """
    device = stage.device
    assert isinstance(device, GpuDevice)
    stage.spans = spans = Spans(device)
    if exchange is not None:
        exchange.note_in(spans)
    lines: list[str] = []
    results = system.train(iter(batches), say=lines.append)
    slots, fill = (system.slots, fill) if exchange is not None else (0, 0)
    filled = warmed = full_at = 0
    ring = 0
    while warmed < max(scale.warm_steps + (full_at or fill), ring):
        traffic = next(results).traffic
        warmed += 1
        if slots and not ring:
            ring = system._work.board.ring_size + RING_MARGIN
        if traffic is not None and slots:
            filled += traffic.misses - traffic.evictions
            if filled >= slots and not full_at:
                full_at = warmed
    traffics, host_ms = [], []
    device.synchronize()
    spans.keeps, begun, events = True, time.perf_counter(), [device.record(timed=True)]
    for _ in range(scale.timed_steps):
        result = next(results)
        events.append(device.record(timed=True))
        traffics.append(result.traffic)
        host_ms.append(result.stage_ms)
    events[-1].synchronize()
    wall_ms = (time.perf_counter() - begun) * 1e3
    spans.keeps = False
    results.close()
    device.synchronize()
    borders = events[:: scale.window_steps]
    windows = [between_ms(device, *pair) / scale.window_steps for pair in itertools.pairwise(borders)]
    step_ms = statistics.median(windows)
    device_ms = spans.medians_ms()
    # Gaps within Train are not seen, nor that Train itself takes longer beside kernels of other streams.
    train_ms = device_ms.get(TRAIN, 0.0) + device_ms.get(GRADIENTS, 0.0)
    outside_train = round(1 - train_ms / step_ms, 4) if step_ms > 0 else 0.0
    values: dict[str, Any] = {
        "step_ms": round(step_ms, 4),
        "wall_step_ms": round(wall_ms / scale.timed_steps, 4),
        "windows_ms": [round(each, 4) for each in windows],
        "stages_ms": device_ms,
        "host_stages_ms": medians_of(host_ms),
        "share_outside_train": outside_train,
        "warm_steps": warmed,
        "said": lines,
    }
    if slots:
        values |= {"slots": slots, "full": bool(full_at), "lookahead": system.facts["lookahead"]}
    if traffics[0] is not None:
        values |= {
            f"{name}_a_step": statistics.mean(getattr(each, name) for each in traffics)
            for name in ("hits", "misses", "evictions", "bytes_in", "bytes_out", "bubbles")
        }
    return values


def medians_of(each_step: list[Any]) -> dict[str, float]:
    """The median of each stage's milliseconds."""
    names = {name: None for stages in each_step for name in stages}
    return {name: round(statistics.median(stages.get(name, 0.0) for stages in each_step), 4) for name in names}


def free_memory(device: GpuDevice) -> None:
    """Let the memory of what was dropped go back, cycles of references too."""
    device.synchronize()
    gc.collect()
