"""What the GPU benchmark measures: the paper's model, or one so small that an emulated GPU can run all of it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupyrec.batch import Batch
from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice
from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.devices.splitmix import GOLDEN_GAMMA, mix64
from cupyrec.embedding.host_table import HostTable
from cupyrec.functions.dot_interaction import interaction_width
from cupyrec.systems.table_memory import TableMemory

FLOAT_BYTES = 4
# Dense features and labels are drawn for so many batches, and used again by the others.
DENSE_SETS = 8
# Odd, and about the golden ratio of 2**32: neighbours in rank are far apart as rows.
SPREAD = 2_654_435_761


@dataclass(frozen=True)
class Locality:
    """How often rows are used: the k-th most used row of a table in proportion to k**-exponent; 0: all alike.

    fill_steps: steps within which the largest scratchpad is full, with some to spare.
    """

    name: str
    exponent: float
    fill_steps: int


@dataclass(frozen=True)
class Scale:
    """All sizes of the benchmark. shares: scratchpads, of all rows; most_lookahead: K is 4 S/U, but no more."""

    name: str
    config: DlrmConfig
    batch_size: int
    bag_lookups: int
    localities: tuple[Locality, ...]
    shares: tuple[str, ...]
    most_lookahead: int
    warm_steps: int
    timed_steps: int
    window_steps: int
    copy_bytes: int
    matrix_size: int
    moved_rows: int
    planner_slots: tuple[int, ...]
    # Of the comparison with a published peer: embeddings alone.
    peer_config: DlrmConfig
    peer_batch_size: int
    peer_locality: Locality
    peer_share: str
    # Of what is compared before anything is timed.
    check_rows: int
    check_batch_size: int
    repeats: int
    # Where the host table is, see SystemConfig.
    host_memory: str = "auto"

    @property
    def lookups(self) -> int:
        """N."""
        return self.batch_size * self.bag_lookups * self.config.features


PAPER = Scale(
    name="paper",
    config=DlrmConfig((10_000_000,) * 8, 13, 128, (512, 256, 128), (1024, 1024, 512, 256, 1)),
    batch_size=2048,
    bag_lookups=20,
    localities=(
        Locality("uniform", 0.0, 60),
        Locality("Zipf 0.6", 0.6, 70),
        Locality("Zipf 0.9", 0.9, 160),
        Locality("Zipf 1.1", 1.1, 400),
    ),
    shares=("10%", "5%", "2%"),
    most_lookahead=128,
    warm_steps=10,
    timed_steps=80,
    window_steps=10,
    copy_bytes=256_000_000,
    matrix_size=8192,
    moved_rows=262_144,
    planner_slots=(8_000_000, 4_000_000, 1_600_000),
    peer_config=DlrmConfig((1_000_000,) * 10, 13, 128, (128,), (1,)),
    peer_batch_size=5250,
    peer_locality=Locality("Zipf 1.05", 1.05, 120),
    peer_share="10%",
    check_rows=2000,
    check_batch_size=32,
    repeats=20,
)
TINY = Scale(
    name="tiny",
    config=DlrmConfig((120, 120, 120), 2, 8, (8,), (4, 1)),
    batch_size=4,
    bag_lookups=2,
    localities=(Locality("Zipf 0.6", 0.6, 5),),
    shares=("50%", "30%"),
    most_lookahead=2,
    warm_steps=2,
    timed_steps=4,
    window_steps=2,
    copy_bytes=4096,
    matrix_size=16,
    moved_rows=64,
    planner_slots=(100,),
    peer_config=DlrmConfig((60, 60), 2, 8, (8,), (1,)),
    peer_batch_size=6,
    peer_locality=Locality("Zipf 1.05", 1.05, 4),
    peer_share="60%",
    check_rows=100,
    check_batch_size=4,
    repeats=2,
)
SCALES = {scale.name: scale for scale in (PAPER, TINY)}


def make_device(scale: Scale, precision: str = "fp32") -> GpuDevice:
    """The GPU; for the tiny scale the emulation of the tests, whose folder must be on the path."""
    if scale.name.startswith(TINY.name):
        from gpu_devices import emulated_device

        return emulated_device(precision=precision)
    from cupyrec.devices.cupy_runtime import CupyRuntime

    return GpuDevice(CupyRuntime(), precision=precision)


def make_table(scale: Scale, device: Device, config: DlrmConfig) -> tuple[HostTable, TableMemory]:
    """A host table of the model, in the memory in which scratchpipe has it, and that memory."""
    memory = TableMemory(SystemConfig("scratchpipe", host_memory=scale.host_memory), device)
    table = HostTable(device.host, config.table_rows, config.dimension, seed=1, zeros=memory.zeros)
    return table, memory


class BatchSource:
    """Batches of a model with rows of some locality: bags of equal length, the same for the same seed."""

    def __init__(self, host: CpuDevice, config: DlrmConfig, batch_size: int, bag: int, locality: Locality) -> None:
        self._host, self._config, self._locality = host, config, locality
        self._rows = config.table_rows[0]
        assert set(config.table_rows) == {self._rows}
        self._multiplier = next(each for each in range(SPREAD % self._rows, SPREAD) if math.gcd(each, self._rows) == 1)
        self._lookups = batch_size * bag * config.features
        self._offsets = np.arange(0, self._lookups + 1, bag, dtype=np.int64)
        random = np.random.default_rng(1)
        self._dense = [
            random.standard_normal((batch_size, config.dense_features), np.float32) for _ in range(DENSE_SETS)
        ]
        self._labels = [(random.random(batch_size) < 0.25).astype(np.float32) for _ in range(DENSE_SETS)]

    def batch(self, number: int) -> Batch:
        """The batch of a number."""
        rows = np.empty(self._lookups, np.int64)
        a_table = self._lookups // self._config.features
        # Mixed: the counters of the lookups are multiplied by the same constant, and an unmixed number would make batch
        # 64 the same as batch 0 but for one lookup.
        key = np.uint64(_bits(np.uint64(0), np.uint64(number + 1)))
        arguments = key, a_table, self._rows, self._multiplier, self._locality.exponent
        self._host.launch(_draw, self._lookups, rows, *arguments)
        return Batch(self._dense[number % DENSE_SETS], rows, self._offsets, self._labels[number % DENSE_SETS])

    def batches(self, count: int, first: int = 0) -> list[Batch]:
        """So many of them."""
        return [self.batch(first + number) for number in range(count)]


def expected_order(config: DlrmConfig) -> np.ndarray:
    """(R,) int64: larger for rows that are expected to be used more, in every locality alike."""
    rows = config.table_rows[0]
    counts = np.empty(rows, np.int64)
    multiplier = next(each for each in range(SPREAD % rows, SPREAD) if math.gcd(each, rows) == 1)
    counts[np.arange(rows) * multiplier % rows] = rows - np.arange(rows)
    return np.tile(counts, config.features)


@cpu_kernel
def _bits(key, counter):
    """splitmix64, as in initial_rows."""
    return mix64(key + counter * GOLDEN_GAMMA)


@cpu_kernel
def _draw(start, stop, rows_out, key, lookups_a_table, rows, multiplier, exponent):
    """Draw the rows of the lookups start .. stop-1: rank k of `rows` in proportion to k**-exponent, exactly.

    Source: rejection-inversion, Hormann and Derflinger 1996.
    """
    power = 1.0 - exponent
    low, high = 1.5**power / power - 1.0, (rows + 0.5) ** power / power
    squeeze = 2.0 - (power * (2.5**power / power - 2.0**-exponent)) ** (1.0 / power)
    for at in range(start, stop):
        attempt = 0
        while True:
            bits = _bits(key, np.uint64(at) * np.uint64(64) + np.uint64(attempt))
            attempt += 1
            u = high + float(bits >> np.uint64(11)) * 2.0**-53 * (low - high)
            x = (power * u) ** (1.0 / power)
            k = min(max(int(x + 0.5), 1), rows)
            if k - x <= squeeze or u >= (k + 0.5) ** power / power - float(k) ** -exponent:
                break
        rows_out[at] = at // lookups_a_table * rows + (k - 1) * multiplier % rows


def dense_flops(config: DlrmConfig, samples: int) -> int:
    """Operations of the matrix products of a step: forward, weights' gradients, inputs' gradients but the first."""
    top = (interaction_width(config.features, config.dimension), *config.top)
    bottom = (config.dense_features, *config.bottom)
    products = [a * b for widths in (bottom, top) for a, b in itertools.pairwise(widths)]
    return 2 * samples * (3 * sum(products) - bottom[0] * bottom[1])


def row_bytes(config: DlrmConfig, samples: int, unique: float) -> float:
    """The fewest bytes of rows and pooled vectors that a step of SGD moves through device memory.

    Each unique row is read to be pooled, read and written to be updated; pooled vectors are written, their gradients
    read.
    """
    return FLOAT_BYTES * config.dimension * (3 * unique + 2 * samples * config.features)


def train_floor_ms(scale: Scale, unique: float, rates: dict[str, Any], precision: str = "fp32") -> float:
    """The least that the stage Train can take at the rates measured."""
    bytes_ms = row_bytes(scale.config, scale.batch_size, unique) / rates["copy_device_gb_s"] / 1e6
    return bytes_ms + dense_flops(scale.config, scale.batch_size) / rates[f"matmul_{precision}_tflop_s"] / 1e9


def link_floor_ms(bytes_in: float, bytes_out: float, rates: dict[str, Any]) -> float:
    """The least that the link can take, both ways at once."""
    return max(bytes_in / rates["both_in_gb_s"], bytes_out / rates["both_out_gb_s"]) / 1e6
