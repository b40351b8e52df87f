"""The trainer on a GPU, which is emulated: what it tells, when, and what is left when something fails."""

import re
from dataclasses import replace

import numpy as np
import pytest
from cupyrec_threads import cupyrec_threads
from emulated_cuda import EmulatedCuda
from gpu_devices import emulated_device
from made_batches import BATCH_SIZE, CONFIG, TABLE_ROWS, WatchedSource, made_batch, made_source, no_samples

from cupyrec import BatchList, Sgd, Trainer, load_model
from cupyrec.config import SYSTEMS, SystemConfig
from cupyrec.devices.gpu import GpuDevice
from cupyrec.errors import CupyrecError, DataError, DeviceError, DivergenceError, StageError
from cupyrec.systems.registry import unused_options
from cupyrec.systems.step_reports import MOST_UNTOLD

NAMES = tuple(name for name in SYSTEMS if name != "auto")
SCRATCHPAD = ("serial", "scratchpipe")
STEPS = 2 * MOST_UNTOLD + 3


@pytest.fixture(autouse=True, scope="module")
def row_counts(tmp_path_factory):
    """With which `static` pins the same rows, whatever it trains on."""
    global COUNTS
    COUNTS = tmp_path_factory.mktemp("counts") / "counts.npy"
    np.save(COUNTS, np.arange(sum(TABLE_ROWS)) % 7)


def system_config(name, exchange="staged", host_memory="ordinary"):
    """Of 58 rows: enough for a batch, not for the batches in flight."""
    if name in SCRATCHPAD:
        return SystemConfig(name, "50", 3, exchange=exchange, host_memory=host_memory)
    return SystemConfig(name, "20", row_counts=COUNTS) if name == "static" else SystemConfig(name)


def make_trainer(name="resident", *, device=None, exchange="staged", host_memory="ordinary", **settings):
    settings = {"optimizer": "rowwise-adagrad", "schedule": 0.02} | settings
    return Trainer(
        CONFIG, batch_size=BATCH_SIZE, seed=5, system=system_config(name, exchange, host_memory),
        device=device or emulated_device(), **settings,
    )  # fmt: skip


def on_cpu(steps, **settings):
    """A trainer on the CPU after so many steps."""
    settings = {"optimizer": "rowwise-adagrad", "schedule": 0.02} | settings
    trainer = Trainer(CONFIG, batch_size=BATCH_SIZE, threads=1, seed=5, device="cpu", **settings)
    if steps:
        trainer.fit(made_source(steps))
    return trainer


def weights(trainer):
    parameters = trainer.device.download(trainer.system.model.parameters)
    return trainer.system.table.records.tobytes() + parameters.tobytes()


def assert_same_but_for_rounding(trainer, other):
    ours, theirs = (np.frombuffer(weights(each), np.float32) for each in (trainer, other))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def assert_no_thread_is_left():
    assert [each.name for each in cupyrec_threads()] == []


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_evaluates_as_the_cpu_but_for_rounding(name):
    valid, cpu, gpu = made_source(3, first=50), on_cpu(0), make_trainer(name)
    expected = cpu.fit(made_source(6), valid=valid, epochs=2, eval_every=5)
    result = gpu.fit(made_source(6), valid=valid, epochs=2, eval_every=5)
    assert_same_but_for_rounding(gpu, cpu)
    assert (result.steps, result.samples, result.final.step) == (12, 12 * BATCH_SIZE, 12)
    for ours, theirs in ((result.final, expected.final), (result.best, expected.best)):
        assert ours.metrics.auc == pytest.approx(theirs.metrics.auc, abs=1e-3)
        assert ours.metrics.log_loss == pytest.approx(theirs.metrics.log_loss, rel=1e-5)
    assert gpu.evaluate(valid) == result.final.metrics
    assert result.system["name"] == name
    assert result.device == gpu.device.description


@pytest.mark.parametrize("name", NAMES)
def test_evaluating_in_the_middle_changes_no_bit(name):
    plain, watched = make_trainer(name), make_trainer(name)
    plain.fit(made_source(10))
    watched.fit(made_source(10), valid=made_source(2, first=50), eval_every=3)
    assert weights(plain) == weights(watched)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ["lazy", "as-queued"])
def test_every_step_is_told_in_order_with_its_loss(name, order):
    """Also where the device does nothing until somebody waits for it; before each evaluation, and at the end."""
    losses = []
    on_cpu(0).fit(made_source(STEPS), on_step=lambda step, share: losses.append(float(step.loss)))
    told, device = [], emulated_device(order)
    make_trainer(name, device=device).fit(
        made_source(STEPS),
        valid=made_source(1, first=50),
        eval_every=STEPS - 2,
        on_step=lambda step, share: told.append((step.step, share, float(step.loss))),
        on_evaluation=lambda evaluation: told.append(evaluation.step),
    )
    steps = [each for each in told if isinstance(each, tuple)]
    assert [each[0] for each in steps] == list(range(1, STEPS + 1))
    assert [each[1] for each in steps] == pytest.approx([step / STEPS for step in range(1, STEPS + 1)])
    assert [each[2] for each in steps] == pytest.approx(losses, rel=1e-4)
    assert [told.index(step) for step in (STEPS - 2, STEPS)] == [STEPS - 2, STEPS + 1]


def test_a_loss_is_not_waited_for_until_some_more_steps_are_queued():
    device, told = emulated_device("latest:train"), []
    trainer = make_trainer("resident", device=device)
    behind = []
    trainer.fit(
        made_source(STEPS),
        on_step=lambda step, share: (told.append(step.step), behind.append(trainer.system.steps_done - step.step)),
    )
    assert told == list(range(1, STEPS + 1))
    assert 0 < max(behind) <= MOST_UNTOLD


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ["lazy", "as-queued"])
def test_a_loss_that_is_not_finite_names_its_step_though_it_is_seen_late(name, order, tmp_path):
    trainer, told = make_trainer(name, device=emulated_device(order), optimizer=Sgd(), schedule=1e30), []
    source = WatchedSource([made_batch(seed) for seed in range(STEPS)])
    with pytest.raises(DivergenceError) as raised:
        trainer.fit(source, on_step=lambda step, share: told.append(step.step))
    assert re.search(r"at step 2 \(learning rate 1e\+30\).*too high.*warm-up", str(raised.value))
    assert told == [1]
    assert source.closed == 1
    assert_no_thread_is_left()
    with pytest.raises(DivergenceError, match="weights are not finite"):
        trainer.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_last_loss_is_looked_at_too(name):
    trainer = make_trainer(name, device=emulated_device("lazy"), optimizer=Sgd(), schedule=1e30)
    with pytest.raises(DivergenceError, match="at step 2"):
        trainer.fit(made_source(2))


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_and_the_most_steps_leave_whole_steps_all_told(name):
    stopped, limited, told = make_trainer(name), make_trainer(name), []
    result = stopped.fit(
        made_source(STEPS), stop_requested=lambda: stopped.system.steps_done >= 5,
        on_step=lambda step, share: told.append(step.step), valid=made_source(1, first=50),
    )  # fmt: skip
    assert (result.steps, result.interrupted, result.final) == (5, True, None)
    assert limited.fit(made_source(STEPS), max_steps=5).steps == 5
    assert told == [1, 2, 3, 4, 5]
    assert weights(stopped) == weights(limited)
    assert_same_but_for_rounding(stopped, on_cpu(5))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", [DataError("spoilt", path="day_0"), ZeroDivisionError()], ids=["ours", "another"])
def test_what_a_source_raises_comes_after_the_steps_before_are_told(name, error):
    trainer, told = make_trainer(name, device=emulated_device("lazy")), []
    source = WatchedSource([made_batch(seed) for seed in range(9)], fails_after=4, error=error)
    with pytest.raises(type(error)) as raised:
        trainer.fit(source, on_step=lambda step, share: told.append(step.step))
    assert raised.value is error
    assert told == [1, 2, 3, 4]
    assert trainer.system.steps_done == 4
    assert_same_but_for_rounding(trainer, on_cpu(4))
    assert_no_thread_is_left()


@pytest.mark.parametrize("name", NAMES)
def test_who_is_told_and_fails_is_told_no_more(name):
    trainer, told = make_trainer(name, device=emulated_device("lazy")), []

    def fail(step, share):
        told.append(step.step)
        if step.step == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer.fit(made_source(STEPS), on_step=fail)
    assert told == [1, 2, 3]
    assert trainer.system.steps_done >= 3
    assert_same_but_for_rounding(trainer, on_cpu(trainer.system.steps_done))


@pytest.mark.parametrize("name", NAMES)
def test_a_second_call_goes_on_where_the_first_ended(name):
    once, twice, steps = make_trainer(name), make_trainer(name), []
    once.fit(made_source(8))
    for first in (0, 4):
        twice.fit(
            made_source(4, first=first), valid=made_source(1, first=70), on_step=lambda step, _: steps.append(step.step)
        )
    assert weights(once) == weights(twice)
    assert steps == list(range(1, 9))


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_after_a_source_that_failed(name):
    once, twice = make_trainer(name), make_trainer(name)
    once.fit(made_source(6))
    with pytest.raises(DataError):
        twice.fit(WatchedSource([made_batch(seed) for seed in range(6)], fails_after=3, error=DataError("spoilt")))
    twice.fit(made_source(3, first=3))
    assert weights(once) == weights(twice)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_trained_on_a_gpu_is_loaded_on_the_cpu(name, tmp_path):
    trainer, batch = make_trainer(name), made_batch(80)
    trainer.fit(made_source(5))
    trainer.save(tmp_path)
    loaded = load_model(tmp_path, batch_size=BATCH_SIZE, threads=1)
    with trainer.device.running():
        logits = np.array(trainer.system.predict(batch))
    np.testing.assert_allclose(loaded.predict(batch), logits, rtol=1e-4, atol=1e-6)
    assert loaded.description["steps"] == 5
    assert loaded.evaluate(made_source(2, first=60)).auc == trainer.evaluate(made_source(2, first=60)).auc


@pytest.mark.parametrize("name", NAMES)
def test_batches_without_samples_train_nothing_and_short_ones_do(name):
    trainer, cpu = make_trainer(name), on_cpu(0)
    batches = [no_samples(), made_batch(0), no_samples(), made_batch(1, samples=3), no_samples()]
    source = BatchList(batches, TABLE_ROWS, CONFIG.dense_features)
    result = trainer.fit(source, valid=source)
    cpu.fit(source)
    assert (result.steps, result.samples, result.final.metrics.samples) == (2, BATCH_SIZE + 3, BATCH_SIZE + 3)
    assert_same_but_for_rounding(trainer, cpu)


class FailingCuda(EmulatedCuda):
    """Fails at the launches of one kernel after so many; for_good: and in whatever is asked of it after."""

    def __init__(self, kernel, after, *, for_good):
        super().__init__()
        self.kernel, self.left, self.for_good, self.failed = kernel, after, for_good, False

    def _check(self):
        if self.failed and self.for_good:
            raise DeviceError("CUDA failed: an illegal memory access was encountered")

    def launch(self, stream, kernel, *arguments):
        self._check()
        if kernel.name == self.kernel:
            self.left -= 1
            if self.left < 0:
                self.failed = True
                raise DeviceError("CUDA failed: an illegal memory access was encountered")
        super().launch(stream, kernel, *arguments)

    def copy(self, *arguments):
        self._check()
        super().copy(*arguments)

    def synchronize(self, event):
        self._check()
        super().synchronize(event)

    def synchronize_all(self):
        self._check()
        super().synchronize_all()

    def is_done(self, event):
        self._check()
        return super().is_done(event)

    def replay(self, *arguments):
        self._check()
        super().replay(*arguments)


# A kernel that each system launches once a batch before it trains.
LAUNCHED = {"resident": "write_segments", "static": "write_segments", "serial": "assign", "scratchpipe": "assign"}
# The pipeline plans some batches ahead.
LAUNCHES = 14


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_launch_that_fails_loses_no_step(name, tmp_path):
    runtime, told = FailingCuda(LAUNCHED[name], LAUNCHES, for_good=False), []
    trainer = make_trainer(name, device=GpuDevice(runtime, threads=1))
    with pytest.raises(StageError if name in SCRATCHPAD else DeviceError, match="illegal memory access"):
        trainer.fit(made_source(STEPS), on_step=lambda step, share: told.append(step.step))
    steps = trainer.system.steps_done
    assert 0 < steps <= LAUNCHES
    assert told == list(range(1, steps + 1))
    assert_same_but_for_rounding(trainer, on_cpu(steps))
    assert_no_thread_is_left()
    trainer.save(tmp_path)
    assert load_model(tmp_path, threads=1).description["steps"] == steps


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_device_that_failed_for_good_ends_the_run_and_saves_no_half_model(name, tmp_path):
    runtime, told = FailingCuda(LAUNCHED[name], LAUNCHES, for_good=True), []
    trainer = make_trainer(name, device=GpuDevice(runtime, threads=1))
    with pytest.raises(CupyrecError, match="illegal memory access"):
        trainer.fit(made_source(STEPS), on_step=lambda step, share: told.append(step.step))
    assert trainer.system.steps_done > 0
    assert told == list(range(1, len(told) + 1))
    assert_no_thread_is_left()
    with pytest.raises(DeviceError, match="illegal memory access"):
        trainer.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", SCRATCHPAD)
def test_rows_that_could_not_be_brought_home_are_never_missing_from_a_saved_model(name, tmp_path):
    """The launch that brings rows to the host table fails as well as the one before; later it goes well."""
    runtime = FailingCuda("gather_slots", LAUNCHES, for_good=False)
    trainer = make_trainer(name, device=GpuDevice(runtime, threads=1))
    with pytest.raises(CupyrecError, match="illegal memory access"):
        trainer.fit(made_source(2 * STEPS))
    steps = trainer.system.steps_done
    assert steps > 0
    with pytest.raises(DeviceError, match="illegal memory access"):
        trainer.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    runtime.left = 100
    trainer.save(tmp_path / "model")
    assert_same_but_for_rounding(trainer, on_cpu(steps))


@pytest.mark.parametrize("name", NAMES)
def test_pages_that_cannot_be_locked_are_done_without(name):
    said = []
    unlocked = GpuDevice(EmulatedCuda("lazy", lockable=False), threads=1, say=said.append)
    trainer, plain = make_trainer(name, device=unlocked), make_trainer(name)
    trainer.fit(made_source(8), valid=made_source(1, first=50), eval_every=3)
    plain.fit(made_source(8))
    assert weights(trainer) == weights(plain)
    assert said == ["no pages can be locked; going on with ordinary memory and without CUDA graphs, which is slower"]


def test_without_anybody_to_tell_it_python_warns():
    with pytest.warns(RuntimeWarning, match="no pages can be locked; going on with ordinary memory"):
        make_trainer("resident", device=emulated_device(lockable=False))


@pytest.mark.parametrize("exchange", ["direct", "auto"])
def test_direct_exchange_without_locked_pages_is_staged(exchange):
    said = []
    device = GpuDevice(EmulatedCuda(lockable=False), threads=1, say=lambda line: None)
    trainer, plain = make_trainer("scratchpipe", device=device, exchange=exchange), make_trainer("scratchpipe")
    result = trainer.fit(made_source(6), say=said.append)
    plain.fit(made_source(6))
    assert weights(trainer) == weights(plain)
    assert result.system["exchange"] == "staged"
    assert any("exchange staged, because the host table cannot be reached" in line for line in said)


@pytest.mark.parametrize("exchange", ["staged", "direct", "mixed"])
@pytest.mark.parametrize("name", SCRATCHPAD)
def test_managed_host_memory_gives_the_same_bits(name, exchange):
    """It holds anything at first; the tables' padding and optimizer state begin at 0 even so."""
    runtime = EmulatedCuda()
    device = GpuDevice(runtime, threads=2)
    trainer, plain = make_trainer(name, device=device, exchange=exchange, host_memory="managed"), make_trainer(name)
    assert runtime.mapped(trainer.system.table.records).shape == trainer.system.table.records.shape
    assert weights(trainer) == weights(plain)
    trainer.fit(made_source(6))
    plain.fit(made_source(6))
    assert weights(trainer) == weights(plain)


def test_where_there_is_no_managed_memory_it_is_ordinary():
    said = []
    device = GpuDevice(EmulatedCuda(manages=False), threads=1, say=said.append)
    trainer = make_trainer("scratchpipe", device=device, host_memory="managed")
    plain = make_trainer("scratchpipe")
    trainer.fit(made_source(6))
    plain.fit(made_source(6))
    assert weights(trainer) == weights(plain)
    assert said == ["there is no managed memory; the tables are in ordinary memory"]


@pytest.mark.parametrize("name", ["resident", "hybrid", "static"])
def test_no_memory_is_managed_for_systems_whose_rows_do_not_cross_the_link(name):
    system = replace(system_config(name), host_memory="managed")
    trainer = Trainer(CONFIG, batch_size=BATCH_SIZE, system=system, device=emulated_device(manages=False))
    trainer.fit(made_source(2))
    assert unused_options(system, trainer.device)[-1] == "--host-memory"


@pytest.mark.parametrize("name", SCRATCHPAD)
def test_managed_host_memory_is_used_by_systems_with_a_pipeline(name):
    system = replace(system_config(name), host_memory="managed")
    assert unused_options(system, emulated_device()) == []
