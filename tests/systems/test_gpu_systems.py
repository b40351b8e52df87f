"""All systems on a GPU: the same bits in whatever order streams run, and what the CPU gives but for rounding.

The emulated GPU runs what is queued as late, or as early, as its events allow. Each event wait is taken out once: some
order must then give other weights, or the wait would be there for nothing.
"""

from functools import cache

import numpy as np
import pytest
from batch_strategies import random_batch
from emulated_cuda import adversarial_orders
from gpu_devices import emulated_device, gpu_device_of
from made_systems import DENSE_FEATURES, made_system, run, small_config

from cupyrec.batch import Batch
from cupyrec.config import SYSTEMS, SystemConfig
from cupyrec.errors import CupyrecError
from cupyrec.pipeline.stages import STAGES
from cupyrec.pipeline.stages_in_turn import StagesInTurn
from cupyrec.systems.loss import LOSSES
from cupyrec.systems.scratchpipe import ScratchpipeSystem
from cupyrec.systems.table_memory import MANAGED

PIPELINE = ("train", "gradients", "rows", "loss", "load", "plan", "collect", "in", "out", "insert")
# The streams that each system's training queues work on; one more where rows come in in two ways at once.
STREAMS_OF = {
    "resident": ("train", "gradients", "rows", "loss", "load"),
    "hybrid": ("train", "gradients", "loss", "link"),
    "static": ("train", "gradients", "rows", "loss", "load", "link"),
    "serial": PIPELINE,
    "scratchpipe": PIPELINE,
}
MIXED, MIXED_STREAM = "mixed", "in-copy"
TABLE_ROWS = (30, 9, 200)
SCRATCHPAD = ("serial", "scratchpipe")
EXCHANGES = ("staged", "direct", "direct-in", "direct-out", MIXED)
ALL_SYSTEMS = tuple(name for name in SYSTEMS if name != "auto")
# A few batches more than the pipeline is deep, so that ring entries and staging are used again.
BATCHES = 14


def batches_of(table_rows=TABLE_ROWS, *, count=BATCHES, seed=1, samples=4, most_lookups=3):
    numbers = np.random.default_rng(seed)
    return [
        random_batch(numbers, table_rows, samples, dense_features=DENSE_FEATURES, most_lookups=most_lookups)
        for _ in range(count)
    ]


def system_config(name, *, slots=60, lookahead=2, exchange="staged"):
    """exchange: "managed" is direct, with the table in managed memory, where victims leave in no order."""
    if name in SCRATCHPAD:
        exchange, memory = ("direct", "managed") if exchange == MANAGED else (exchange, "ordinary")
        return SystemConfig(name, str(slots), lookahead, exchange=exchange, host_memory=memory)
    return SystemConfig(name, str(slots)) if name == "static" else SystemConfig(name)


def trained(system, device, batches, *, config=None, **same):
    """All that can be seen of a run; see made_systems.run."""
    config = config or small_config(TABLE_ROWS)
    settings = {each: same.pop(each) for each in ("optimizer",) if each in same}
    with device.running():
        made = made_system(system, config, device=device, **settings)
        made.prepare(lambda: batches, lambda line: None)
        return run(made, batches, **same)


class NearestFirst(StagesInTurn):
    """All stages in the caller's thread, the earlier ones as far ahead as they may: the same in every run."""

    def begin_train(self):
        while (stage := next((each for each in STAGES[:-1] if self._board.may_begin(each)), None)) is not None:
            self._run(stage)
        return super().begin_train()


class InTurn(ScratchpipeSystem):
    """The pipeline without threads."""

    driver = NearestFirst


def batches_of_one_size(count):
    """Two lookups in each bag: memory that grows would wait for all streams."""
    numbers = np.random.default_rng(3)
    return [
        Batch.from_bags(
            numbers.standard_normal((4, DENSE_FEATURES)),
            [numbers.integers(0, rows, (4, 2)).tolist() for rows in TABLE_ROWS],
            numbers.integers(0, 2, 4),
            TABLE_ROWS,
        )
        for _ in range(count)
    ]


def orders_of(name, exchange):
    """Every order that its streams may be run in."""
    streams = STREAMS_OF[name]
    return adversarial_orders((*streams, MIXED_STREAM) if exchange == MIXED else streams)


@pytest.mark.parametrize(
    ("name", "exchange"),
    [
        (name, exchange)
        for name in ALL_SYSTEMS
        for exchange in ((*EXCHANGES, MANAGED) if name in SCRATCHPAD else ("staged",))
    ],
)
def test_the_same_bits_in_every_order_of_the_streams(name, exchange, monkeypatch):
    batches, system = batches_of_one_size(22), system_config(name, exchange=exchange)
    expected = trained(system_config(name), emulated_device(graphs=False), batches)
    orders, streams = orders_of(name, exchange), {*STREAMS_OF[name], *([MIXED_STREAM] if exchange == MIXED else [])}
    if name == "serial" and exchange != "staged":
        orders = [*orders[:2], *orders[-2:]]  # it waits for each stage: streams hardly ever have a choice
    if name == "scratchpipe":
        # With threads too: what they queue comes in another order each time, whatever the order of the streams.
        for order in (*orders[:2], *orders[-2:]):
            assert trained(system, emulated_device(order), batches) == expected, order
        monkeypatch.setattr("cupyrec.systems.registry.ScratchpipeSystem", InTurn)
    for order in orders:
        device = emulated_device(order)
        assert trained(system, device, batches) == expected, order
        assert {stream for stream, _ in device.runtime.log} == streams


@pytest.mark.parametrize("device", ["emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", ALL_SYSTEMS)
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise-adagrad"])
@pytest.mark.parametrize(("dimension", "pooling"), [(3, "sum"), (4, "mean")])
def test_what_the_cpu_gives_but_for_rounding(device, name, optimizer, dimension, pooling):
    batches, config = batches_of(), small_config(TABLE_ROWS, pooling, dimension)
    same = {"optimizer": optimizer, "config": config, "probe": batches[3], "probe_steps": {4}, "finish_steps": {6}}
    on_cpu = run(made_system("resident", config, optimizer=optimizer), batches, probe=batches[3], probe_steps={4})
    on_gpu = trained(system_config(name), gpu_device_of(device), batches, **same)
    np.testing.assert_allclose(
        np.frombuffer(on_gpu[-2], np.float32), np.frombuffer(on_cpu[-2], np.float32), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        [step[3] for step in on_gpu if isinstance(step, tuple)],
        [step[3] for step in on_cpu if isinstance(step, tuple)],
        rtol=1e-5,
    )


@pytest.mark.parametrize("device", ["emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("exchange", [*EXCHANGES, MANAGED])
@pytest.mark.parametrize("slots", [40, 60, 100, 239])
def test_scratchpads_of_any_size_give_the_bits_of_resident(device, exchange, slots):
    batches, gpu = batches_of(count=20, seed=4), gpu_device_of(device)
    same = {"probe": batches[0], "probe_steps": {3, 9}, "finish_steps": {7}, "optimizer": "adagrad"}
    expected = trained("resident", gpu, batches, **same)
    for name in SCRATCHPAD:
        system = system_config(name, slots=slots, lookahead=5, exchange=exchange)
        assert trained(system, gpu, batches, **same) == expected, name


def waits_taken(name, exchange):
    """The (waiting stream, stream of the event) pairs of a run; with what is waited for several times in each step."""
    device = emulated_device()
    trained(system_config(name, exchange=exchange), device, batches_of())
    taken = []
    for pair, times in device.runtime.waits.items():
        each_step = times // BATCHES if {"rows", "gradients"} & set(pair) else 1
        taken += [(*pair, number, each_step) for number in range(each_step)] if each_step > 1 else [pair]
    return sorted(taken)


# Before pooling and before the update of rows; before pooled vectors are used and at the end of a step.
ROW_WAITS = [("rows", "train", 0, 2), ("rows", "train", 1, 2), ("train", "rows", 0, 2), ("train", "rows", 1, 2)]
# Before the weight gradients of the upper layers, and before the others; before the dense update.
GRADIENT_WAITS = [("gradients", "train", 0, 2), ("gradients", "train", 1, 2), ("train", "gradients")]
WAITS = {
    ("resident", "staged"): [("load", "train"), ("loss", "train"), *GRADIENT_WAITS, *ROW_WAITS, ("train", "load")],
    ("hybrid", "staged"): [("link", "train"), ("loss", "train"), *GRADIENT_WAITS, ("train", "link")],
    ("static", "staged"): [
        ("link", "train"), ("load", "train"), ("loss", "train"), *GRADIENT_WAITS, ("rows", "train"), ("train", "link"),
        ("train", "load"), ("train", "rows"),
    ],
    ("scratchpipe", "staged"): [
        ("collect", "insert"), ("collect", "plan"), ("collect", "train"), ("in", "collect"), ("insert", "in"),
        ("load", "train"), ("loss", "train"), ("out", "collect"), *ROW_WAITS,
        *GRADIENT_WAITS, ("train", "insert"),
    ],
    ("scratchpipe", "direct"): [
        ("collect", "insert"), ("collect", "plan"), ("collect", "train"), ("in", "collect"), ("insert", "in"),
        ("insert", "out"), ("load", "train"), ("loss", "train"), ("out", "collect"), *ROW_WAITS,
        *GRADIENT_WAITS, ("train", "insert"),
    ],
    ("scratchpipe", MANAGED): [
        ("collect", "insert"), ("collect", "plan"), ("collect", "train"), ("in", "collect"), ("insert", "in"),
        ("insert", "out"), ("load", "train"), ("loss", "train"), ("out", "collect"), *ROW_WAITS,
        *GRADIENT_WAITS, ("train", "insert"),
    ],
    ("scratchpipe", "direct-in"): [
        ("collect", "insert"), ("collect", "plan"), ("collect", "train"), ("in", "collect"), ("insert", "in"),
        ("load", "train"), ("loss", "train"), ("out", "collect"), *ROW_WAITS,
        *GRADIENT_WAITS, ("train", "insert"),
    ],
    ("scratchpipe", "mixed"): [
        ("collect", "insert"), ("collect", "plan"), ("collect", "train"), ("in", "collect"), ("in", "in-copy"),
        ("in-copy", "in"), ("insert", "in"), ("load", "train"), ("loss", "train"), ("out", "collect"), *ROW_WAITS,
        *GRADIENT_WAITS, ("train", "insert"),
    ],
    ("scratchpipe", "direct-out"): [
        ("collect", "insert"), ("collect", "plan"), ("collect", "train"), ("in", "collect"), ("insert", "in"),
        ("insert", "out"), ("load", "train"), ("loss", "train"), ("out", "collect"), *ROW_WAITS,
        *GRADIENT_WAITS, ("train", "insert"),
    ],
}  # fmt: skip


class Without:
    """Leaves out each wait of one stream for another; or one of the several that there are in each step."""

    def __init__(self, waiting, awaited, number=0, each_step=1):
        self.pair, self.number, self.each_step = (waiting, awaited), number, each_step
        self.times = 0

    def __call__(self, *pair):
        if pair != self.pair:
            return False
        self.times += 1
        return (self.times - 1) % self.each_step == self.number


@pytest.mark.parametrize(("system", "expected"), WAITS.items())
def test_the_waits_between_streams_are_these(system, expected):
    assert waits_taken(*system) == sorted(expected)


@cache
def expected_of(name, exchange):
    """What a run of batches_of_one_size(26) must give."""
    return trained(system_config(name, exchange=exchange), emulated_device(), batches_of_one_size(26))


@pytest.mark.parametrize(
    ("name", "exchange", "wait"), [(*system, wait) for system, waits in WAITS.items() for wait in waits]
)
def test_without_any_one_wait_some_order_gives_other_weights(name, exchange, wait, monkeypatch):
    """With all waits no order does: that is the test of every order above."""
    monkeypatch.setattr("cupyrec.systems.registry.ScratchpipeSystem", InTurn)
    system, batches = system_config(name, exchange=exchange), batches_of_one_size(26)
    expected = expected_of(name, exchange)

    def goes_wrong(order):
        try:
            return trained(system, emulated_device(order, ignore_wait=Without(*wait)), batches) != expected
        except (AssertionError, CupyrecError):
            return True

    waiting, awaited, *_ = wait
    # The orders that may show it come first.
    assert any(map(goes_wrong, [f"latest:{awaited}", f"earliest:{waiting}", *orders_of(name, exchange)]))


def test_more_losses_may_go_unread_than_there_are_places_for():
    batches = batches_of_one_size(LOSSES + 5)
    unread = trained("resident", emulated_device("lazy"), batches)
    device, read = emulated_device("lazy"), []
    with device.running():
        results = made_system("resident", small_config(TABLE_ROWS), device=device).train(batches)
        for result in results:
            read.append(float(result.loss))
    assert [step[3] for step in unread if isinstance(step, tuple)] == read
