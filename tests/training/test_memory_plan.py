"""The plan against what is really allocated."""

import dataclasses

import numpy as np
import pytest
from made_batches import made_batch

from cupyrec import Adagrad, BatchList, DlrmConfig, RowwiseAdagrad, Sgd, Trainer, load_model
from cupyrec.batch import Batch
from cupyrec.config import SystemConfig
from cupyrec.devices.cpu import CpuDevice
from cupyrec.errors import MemoryPlanError
from cupyrec.training.memory_plan import COALESCING_BYTES_PER_LOOKUP, plan_memory

CONFIG = DlrmConfig((7, 40, 11), dense_features=3, dimension=5, bottom=(6, 5), top=(9, 4, 1), self_interaction=True)
# The one number in float64 that the loss is summed in.
LOSS_SUM_BYTES = 8


@pytest.fixture
def allocated(monkeypatch):
    """The bytes of every array that the device gave out, in order."""
    sizes, empty = [], CpuDevice.zeros

    def counting(device, *arguments):
        array = empty(device, *arguments)
        sizes.append(array.nbytes)
        return array

    monkeypatch.setattr(CpuDevice, "zeros", counting)
    return sizes


@pytest.mark.parametrize("optimizer", [Sgd(), Adagrad(), RowwiseAdagrad()], ids=lambda each: each.name)
@pytest.mark.parametrize("batch_size", [1, 17])
@pytest.mark.parametrize(
    "config",
    [CONFIG, dataclasses.replace(CONFIG, self_interaction=False), DlrmConfig((3,), 1, 1, (1,), (1,))],
    ids=["self-interaction", "without", "smallest"],
)
def test_the_plan_is_what_a_trainer_allocates(allocated, config, optimizer, batch_size):
    trainer = Trainer(config, optimizer=optimizer, batch_size=batch_size, threads=1)
    plan = plan_memory(config, optimizer, batch_size)
    assert sum(allocated) == plan.total_bytes - plan.batch_bytes + LOSS_SUM_BYTES
    assert trainer.memory_plan == plan
    assert trainer.system.table.records.nbytes == plan.tables_bytes + plan.row_state_bytes


def test_training_takes_the_coalescing_of_the_largest_batch_beside_the_plan(allocated):
    """The one thing that grows with the lookups, which no plan knows before the data are read."""
    config = dataclasses.replace(CONFIG, table_rows=(7, 40, 11))
    trainer = Trainer(config, batch_size=16, threads=1)
    allocated.clear()
    batches = [made_batch(seed) for seed in range(6)]
    trainer.fit(BatchList(batches, config.table_rows, 3), epochs=2)
    most = max(batch.lookups for batch in batches)
    largest_first = max(batches, key=lambda batch: batch.lookups)
    assert most * COALESCING_BYTES_PER_LOOKUP <= sum(allocated)
    trainer = Trainer(config, batch_size=16, threads=1)
    allocated.clear()
    trainer.fit(BatchList([largest_first, *batches], config.table_rows, 3), epochs=2)
    assert sum(allocated) == most * COALESCING_BYTES_PER_LOOKUP + 8


def test_a_loaded_model_takes_what_prediction_is_planned_to_take(allocated, tmp_path):
    Trainer(CONFIG, batch_size=4, threads=1).save(tmp_path)
    allocated.clear()
    model = load_model(tmp_path, batch_size=9, threads=1)
    assert sum(allocated) == plan_memory(CONFIG, None, 9).total_bytes + LOSS_SUM_BYTES
    allocated.clear()
    model.predict(Batch.from_bags(np.zeros((1, 3)), [[[0]], [[1, 2]], [[]]], np.zeros(1), CONFIG.table_rows))
    assert allocated == []


def test_the_plan_by_hand():
    """2 tables, D = 2, bottom 3-2, top 4-1: few enough to count."""
    config = DlrmConfig((10, 20), dense_features=3, dimension=2, bottom=(3, 2), top=(4, 1))
    parameters = (3 * 3 + 3) + (3 * 2 + 2) + (5 * 4 + 4) + (4 * 1 + 1)
    plan = plan_memory(config, Adagrad(), 100)
    assert plan.rows == 30
    assert plan.tables_bytes == 30 * 2 * 4
    assert plan.row_state_bytes == 30 * 2 * 4
    assert plan.dense_bytes == 3 * parameters * 4
    # Outputs 3, 2, 4, 1; gradients of inputs 3 and 4; R and dR of 2 + 3 each; dX of 2; Y and dY of 4 each; dlogits.
    # And room to sum biases' gradients in two blocks of 64 samples.
    partial_sums = 2 * (3 + 2 + 4 + 1)
    assert plan.activation_bytes == 4 * (100 * (3 + 2 + 4 + 1 + 3 + 4 + 5 + 5 + 2 + 4 + 4 + 1) + partial_sums)
    # Eight batches of 3 dense features, a label, and 2 rows and offsets; 48 bytes for the coalescing of each lookup.
    assert plan.batch_bytes == 100 * (8 * (4 * 4 + 2 * 16) + 2 * 48)
    assert plan.total_bytes == sum((480, 3 * parameters * 4, plan.activation_bytes, plan.batch_bytes))
    # 2 weights, 1 of state, 1 of padding; and no state at all.
    assert plan_memory(config, RowwiseAdagrad(), 100).row_state_bytes == 30 * 2 * 4
    without = plan_memory(config, Sgd(), 100)
    assert without.row_state_bytes == 30 * 2 * 4  # padding alone: a record begins on a 16-byte border
    assert without.dense_bytes == 2 * parameters * 4


def test_the_lines_name_each_part_and_the_total():
    plan = plan_memory(DlrmConfig((10**6, 5), dimension=16), RowwiseAdagrad(), 2048)
    lines = [line.rsplit("  ", 1) for line in plan.lines()]
    assert [name.strip() for name, _ in lines] == [
        "embedding tables (1,000,005 rows)",
        "optimizer state of the rows",
        "MLPs with gradients and state",
        "activations",
        "batches and their coalescing",
        "total",
    ]
    assert lines[0][1].strip() == "64 MB"


def test_what_fits_passes_and_what_does_not_is_told_with_sizes():
    plan = plan_memory(CONFIG, RowwiseAdagrad(), 8)
    plan.check(plan.total_bytes)
    plan.check(None)
    with pytest.raises(MemoryPlanError, match=r"needs .* available.*--hash-rows"):
        plan.check(plan.total_bytes - 1)
    huge = plan_memory(dataclasses.replace(CONFIG, table_rows=(10**12,)), RowwiseAdagrad(), 8)
    with pytest.raises(MemoryPlanError, match=r"needs 32 TB .*tables 20 TB.*state 12 TB.*8 GB are available"):
        huge.check(8 * 10**9)


def test_advice_for_prediction_names_what_can_be_chosen_there():
    plan = plan_memory(CONFIG, None, 8)
    with pytest.raises(MemoryPlanError, match=r"^the model needs .* available; use it on a machine with more memory$"):
        plan_memory(dataclasses.replace(CONFIG, table_rows=(10**12,)), None, 8).check(8 * 10**9)
    with pytest.raises(MemoryPlanError, match=r"^the model needs .* available; take a smaller --batch-size$"):
        plan_memory(CONFIG, None, 10**8).check(plan.total_bytes)


def test_shuffle_windows_are_in_the_plan():
    plan, shuffled = plan_memory(CONFIG, Sgd(), 8), plan_memory(CONFIG, Sgd(), 8, shuffled_samples=1000)
    # Three windows of three dense features, a label and three rows.
    assert shuffled.total_bytes - plan.total_bytes == 3 * 1000 * (4 * (3 + 1) + 8 * 3)
    assert any(line.startswith("shuffle windows ") for line in shuffled.lines())
    with pytest.raises(MemoryPlanError, match=r"shuffle windows 120 kB: --shuffle-window\), but"):
        shuffled.check(plan.total_bytes)


@pytest.mark.parametrize("name", ["hybrid", "static", "serial", "scratchpipe"])
def test_the_plan_holds_what_a_system_allocates_beside_the_tables(allocated, name, monkeypatch):
    on_host, page_locked = [], CpuDevice.page_locked
    monkeypatch.setattr(
        CpuDevice, "page_locked", lambda *arguments: on_host.append(made := page_locked(*arguments)) or made
    )
    system = SystemConfig(name, scratchpad="20")
    Trainer(CONFIG, optimizer=Adagrad(), batch_size=16, threads=1, system=system)
    resident = plan_memory(CONFIG, Adagrad(), 16)
    plan = plan_memory(CONFIG, Adagrad(), 16, system)
    assert plan.total_bytes == resident.total_bytes + plan.scratchpad_bytes + plan.staging_bytes
    record_bytes = 12 * 4  # 5 weights, 5 of state, 2 of padding
    pad_bytes = 0 if name == "hybrid" else 20 * record_bytes
    pooled_bytes = 16 * 3 * 5 * 4
    assert plan.scratchpad_bytes >= pad_bytes
    beside = sum(allocated) + sum(each.nbytes for each in on_host) - resident.total_bytes + resident.batch_bytes
    if name in ("hybrid", "static"):
        copied_bytes = 0 if name == "hybrid" else pad_bytes
        assert plan.staging_bytes == pooled_bytes * (2 if name == "hybrid" else 3) + copied_bytes
        assert beside - LOSS_SUM_BYTES == pad_bytes + plan.staging_bytes
    else:
        assert beside - LOSS_SUM_BYTES == pad_bytes + pooled_bytes
        sets = 3 if name == "scratchpipe" else 1
        assert plan.staging_bytes == min(20, 16 * 3) * record_bytes * 4 * sets + pooled_bytes
        apart = plan_memory(CONFIG, Adagrad(), 16, system, device_apart=True)
        assert apart.scratchpad_bytes == apart.dense_bytes == apart.activation_bytes == 0
    lines = "\n".join(plan.lines())
    assert ("scratchpad, with " in lines) == (name != "hybrid")
    assert "on the way to the device and back" in lines
    with pytest.raises(MemoryPlanError, match=r"needs .* scratchpad .*: --scratchpad.* available"):
        plan.check(plan.total_bytes - 1)
