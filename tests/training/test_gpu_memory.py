"""The memory plan of a GPU against what the emulated one gives out, and runs for which that is too little."""

import re
import weakref

import numpy as np
import pytest
from emulated_cuda import POOL_ROUND_BYTES, EmulatedCuda

from cupyrec import Batch, BatchList, DlrmConfig, Trainer, load_model
from cupyrec.config import EXCHANGES, SYSTEMS, SystemConfig
from cupyrec.devices.gpu import GpuDevice
from cupyrec.errors import DeviceMemoryError, MemoryPlanError, StageError
from cupyrec.optim.registry import make_optimizer
from cupyrec.pipeline.lookahead import window_batch_bytes
from cupyrec.training import device_memory_plan
from cupyrec.training.device_memory_plan import plan_device_memory

NAMES = tuple(name for name in SYSTEMS if name != "auto")
SCRATCHPAD = ("serial", "scratchpipe")
DENSE_FEATURES, BATCH_SIZE, LOOKAHEAD, SLOTS = 3, 64, 3, 1500
CONFIG = DlrmConfig((2000, 2000, 2000), DENSE_FEATURES, 16, (8, 16), (9, 1))
# Stands for small arrays, what the device rounds up, and the planner's few tables of fixed size.
SMALL_ARRAYS_BYTES = 150_000


@pytest.fixture(autouse=True)
def no_libraries(monkeypatch):
    """The emulated device loads none."""
    monkeypatch.setattr(device_memory_plan, "LIBRARY_BYTES", SMALL_ARRAYS_BYTES)


class CountingCuda(EmulatedCuda):
    """Knows the most memory that was in use at once, and the most of the host's that was locked."""

    peak_bytes = locked_bytes = peak_locked_bytes = 0

    def page_locked(self, shape, dtype):
        base = super().page_locked(shape, dtype)  # held for good
        array = np.ndarray(base.shape, base.dtype, buffer=memoryview(base).cast("B") if base.size else None)
        self._count_locked(array.nbytes)
        weakref.finalize(array, self._count_locked, -array.nbytes).atexit = False
        return array

    def _count_locked(self, size_bytes):
        self.locked_bytes += size_bytes
        self.peak_locked_bytes = max(self.peak_locked_bytes, self.locked_bytes)

    def empty(self, shape, dtype):
        array = super().empty(shape, dtype)
        free_bytes, total_bytes = self.memory_bytes()
        self.peak_bytes = max(self.peak_bytes, total_bytes - free_bytes)
        return array


def made_batch(seed, lookups=1, config=CONFIG, samples=BATCH_SIZE):
    """lookups: in each bag."""
    numbers = np.random.default_rng(seed)
    bags = [numbers.integers(0, rows, (samples, lookups)).tolist() for rows in config.table_rows]
    dense = numbers.standard_normal((samples, DENSE_FEATURES))
    return Batch.from_bags(dense, bags, dense[:, 0] > 0, config.table_rows)


def source_of(batches):
    return BatchList(batches, CONFIG.table_rows, DENSE_FEATURES)


def made_source(count, first=0):
    return source_of([made_batch(seed) for seed in range(first, first + count)])


def system_config(name, slots=SLOTS, exchange="staged", **settings):
    if name in SCRATCHPAD:
        return SystemConfig(name, str(slots), LOOKAHEAD, exchange=exchange, **settings)
    return SystemConfig(name, str(slots)) if name == "static" else SystemConfig(name)


def made_trainer(system, runtime=None, config=CONFIG, batch_size=BATCH_SIZE):
    system = system_config(system) if isinstance(system, str) else system
    device = GpuDevice(runtime or EmulatedCuda(), threads=1)
    return Trainer(config, optimizer="adagrad", batch_size=batch_size, system=system, device=device)


def plan_of(system, config=CONFIG, batch_size=BATCH_SIZE):
    return plan_device_memory(config, make_optimizer("adagrad", eps=1e-10), batch_size, system)


def weights(trainer):
    parameters = trainer.device.download(trainer.system.model.parameters)
    return np.concatenate([trainer.system.table.records.reshape(-1), parameters])


@pytest.mark.parametrize(
    ("name", "exchange"),
    [(name, exchange) for name in NAMES for exchange in (EXCHANGES if name in SCRATCHPAD else ("staged",))],
)
def test_the_plan_is_what_training_takes_at_most(name, exchange):
    system, runtime = system_config(name, exchange=exchange), CountingCuda()
    trainer = made_trainer(system, runtime)
    trainer.fit(made_source(16), valid=made_source(1, first=50), eval_every=7)
    plan, batch = trainer.device_memory_plan, made_batch(0)
    # The batches known ahead are chosen, and counted, later.
    window_bytes = LOOKAHEAD * window_batch_bytes(batch, batch.lookups) if name in SCRATCHPAD else 0
    assert runtime.peak_bytes <= plan.total_bytes + window_bytes
    assert plan.total_bytes - SMALL_ARRAYS_BYTES <= 1.5 * runtime.peak_bytes
    assert plan == plan_of(system)
    on_host = trainer.memory_plan
    assert on_host.dense_bytes == on_host.activation_bytes == 0
    assert (on_host.scratchpad_bytes > 0) == (name == "static")  # counts for pinning
    assert runtime.peak_locked_bytes <= on_host.staging_bytes + on_host.batch_bytes + window_bytes


@pytest.mark.parametrize("name", SCRATCHPAD)
def test_row_counts_are_in_the_plan(name, tmp_path):
    np.save(tmp_path / "counts.npy", np.arange(6000))
    plain, counted = (plan_of(system_config(name, row_counts=file)) for file in (None, tmp_path / "counts.npy"))
    assert counted.total_bytes - plain.total_bytes == 4 * 6000
    used = []
    for system in (system_config(name), system_config(name, row_counts=tmp_path / "counts.npy")):
        runtime = CountingCuda()
        made_trainer(system, runtime).fit(made_source(10))
        used.append(runtime.peak_bytes)
    assert 0 < used[1] - used[0] <= 4 * 6000 + POOL_ROUND_BYTES


def test_the_lines_name_each_part_and_the_total():
    lines = {name: plan_of(system_config(name)).lines() for name in NAMES}
    heads = {name: [re.split("  +", line)[0] for line in lines[name]] for name in NAMES}
    dense = ["MLPs with gradients and state", "activations", "batches and their coalescing", "kernels and libraries"]
    pad = "scratchpad (1,500 rows), with what is known of them"
    assert heads["resident"] == ["embedding rows", *dense, "total"]
    assert heads["hybrid"] == [*dense, "total"]
    assert [head.split("  ")[0] for head in heads["static"]][1:] == [
        "on the way from the host and back",
        *dense,
        "total",
    ]
    assert lines["scratchpipe"][0].startswith(pad)
    assert heads["scratchpipe"][1:] == ["planning", "on the way from the host and back", *dense, "total"]


@pytest.mark.parametrize("name", ["static", *SCRATCHPAD])
def test_a_scratchpad_that_does_not_fit_is_refused_with_one_that_does(name):
    limit_bytes = plan_of(system_config(name, slots=1000)).total_bytes + POOL_ROUND_BYTES
    runtime = CountingCuda(memory_bytes=limit_bytes)
    with pytest.raises(MemoryPlanError, match=rf"system {name} needs .* of GPU memory .* are free") as raised:
        made_trainer(system_config(name, slots=5000), runtime)
    assert runtime.peak_bytes == 0
    advised = re.search(r"a scratchpad of ([\d,]+) rows would fit \(--scratchpad (\d+)\)", str(raised.value))
    assert advised is not None
    slots = int(advised[2])
    assert 1000 <= slots <= 1000 + POOL_ROUND_BYTES // 128
    trainer = made_trainer(system_config(name, slots=slots), runtime)
    trainer.fit(made_source(16), valid=made_source(1, first=50), eval_every=7)
    with pytest.raises(MemoryPlanError):
        plan_of(system_config(name, slots=slots + 1)).check(limit_bytes)


def test_what_else_does_not_fit_is_refused_with_what_would_help():
    resident, hybrid = plan_of(system_config("resident")), plan_of(system_config("hybrid"))
    with pytest.raises(MemoryPlanError, match=r"system resident needs .*; train them .*: --system scratchpipe$"):
        resident.check(resident.total_bytes - 1)
    with pytest.raises(MemoryPlanError, match=r"smaller batches \(--batch-size\) or narrower MLPs$"):
        resident.check(100)
    with pytest.raises(MemoryPlanError, match=r"system hybrid needs .*; take smaller batches"):
        hybrid.check(hybrid.total_bytes - 1)
    hybrid.check(hybrid.total_bytes)


def test_auto_is_resident_where_that_fits_and_scratchpipe_where_not():
    resident_bytes = plan_of(SystemConfig("resident")).total_bytes
    for memory_bytes, name in ((2 * resident_bytes, "resident"), (resident_bytes, "scratchpipe")):
        trainer = made_trainer(
            SystemConfig("auto", "500", LOOKAHEAD, exchange="staged"), EmulatedCuda(memory_bytes=memory_bytes)
        )
        assert trainer.system.name == name


# Bags that no plan knew of.
LONG = 40


@pytest.mark.parametrize("name", ["resident", "static", *SCRATCHPAD])
def test_memory_that_runs_short_in_mid_run_loses_no_step(name, tmp_path, monkeypatch):
    """The plan fits and the bags are longer than it says."""
    batches = [made_batch(seed) for seed in range(12)] + [made_batch(99, lookups=LONG, samples=8)] * 3
    measured = CountingCuda()
    made_trainer(name, measured).fit(source_of(batches[:12]))
    # Some bytes are left: less than the long batch takes.
    runtime = CountingCuda(memory_bytes=measured.peak_bytes + 4096)
    monkeypatch.setattr(device_memory_plan.DeviceMemoryPlan, "check", lambda *_: None)
    trainer, told = made_trainer(name, runtime), []
    with pytest.raises((DeviceMemoryError, StageError)) as raised:
        trainer.fit(source_of(batches), on_step=lambda step, share: told.append(step.step))
    message = str(raised.value)
    assert re.search(
        r"the memory plan of the GPU is .*, with one lookup a bag.*; take a smaller .*--batch-size", message
    )
    assert isinstance(raised.value, StageError) == (name in SCRATCHPAD)
    steps = trainer.system.steps_done
    assert told == list(range(1, steps + 1))
    assert steps > 0
    plain = made_trainer("resident")
    plain.fit(source_of(batches[:steps]))
    np.testing.assert_allclose(weights(trainer), weights(plain), rtol=1e-5, atol=1e-7)
    trainer.save(tmp_path)
    assert load_model(tmp_path, threads=1).description["steps"] == steps


def test_memory_that_runs_short_before_the_first_step_is_told_too(monkeypatch):
    monkeypatch.setattr(device_memory_plan.DeviceMemoryPlan, "check", lambda *_: None)
    with pytest.raises(DeviceMemoryError, match=r"the memory plan of the GPU is .*or --system scratchpipe$"):
        made_trainer("resident", EmulatedCuda(memory_bytes=100_000))
