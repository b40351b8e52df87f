"""The host table's memory: which kind is taken, what `auto` tries, and what happens where the driver gives none."""

import weakref

import numpy as np
import pytest
from emulated_cuda import EmulatedCuda
from gpu_devices import emulated_device

from cupyrec.config import SystemConfig
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.gpu import GpuDevice
from cupyrec.errors import DeviceMemoryError
from cupyrec.systems import table_memory
from cupyrec.systems.table_memory import ReadTimes, TableMemory, random_reads_ms

SHAPE = (600, 8)


def config(host_memory="auto", name="scratchpipe", **settings):
    return SystemConfig(name, "50", host_memory=host_memory, **settings)


@pytest.fixture
def tried(monkeypatch):
    """Every table is tried; gives the times that the two kinds shall take, and the shapes that were read."""
    monkeypatch.setattr(table_memory, "LEAST_TRIED_BYTES", 0)
    times, shapes = [], []

    def reads_ms(device, records):
        shapes.append(records.shape)
        device.runtime.mapped(records)  # kernels must reach it
        return ReadTimes(*times.pop(0))

    monkeypatch.setattr(table_memory, "random_reads_ms", reads_ms)
    return times, shapes


@pytest.mark.parametrize(
    ("managed_ms", "host_ms", "name"),
    [
        (8.0, 5.0, "managed"),
        (8.01, 5.0, "ordinary"),
        (20.0, 1.0, "ordinary"),
        (8.0, 5.01, "ordinary"),
    ],
)
def test_auto_takes_managed_memory_where_it_is_clearly_faster(tried, managed_ms, host_ms, name):
    tried[0].extend([(10.0, 2.0), (managed_ms, host_ms)])
    device = emulated_device()
    memory = TableMemory(config(), device)
    table = memory.zeros(SHAPE, np.float32)
    assert (table.shape, table.dtype, table.any()) == (SHAPE, np.float32, False)
    assert memory.name == name
    assert memory.why == (
        f"to read random rows takes the GPU 10.00 ms in ordinary and {managed_ms:.2f} ms in managed memory, the host "
        f"2.00 and {host_ms:.2f} ms"
    )
    assert device.runtime._is_locked(table) == (name == "managed")


def test_a_trial_reads_all_of_a_small_table_and_a_part_of_a_large_one(tried, monkeypatch):
    times, shapes = tried
    for most_bytes in (2**31, 100 * 32 + 5):
        monkeypatch.setattr(table_memory, "MOST_TRIED_BYTES", most_bytes)
        times.extend([(1.0, 1.0)] * 2)
        TableMemory(config(), emulated_device()).zeros(SHAPE, np.float32)
    assert shapes == [SHAPE, SHAPE, (100, 8), (100, 8)]


def test_the_first_kind_is_given_back_before_the_other_is_tried(monkeypatch):
    """Each takes up to 2 GiB."""
    device, first = emulated_device(), []
    monkeypatch.setattr(table_memory, "LEAST_TRIED_BYTES", 0)
    monkeypatch.setattr(device.runtime, "lock_pages", lambda array: None)
    monkeypatch.setattr(device.runtime, "managed", lambda shape, dtype: np.zeros(shape, dtype))

    def reads_ms(device, records):
        if first:
            assert first[0]() is None
        first.append(weakref.ref(records))
        return ReadTimes(1.0, 1.0)

    monkeypatch.setattr(table_memory, "random_reads_ms", reads_ms)
    TableMemory(config(), device).zeros(SHAPE, np.float32)
    assert len(first) == 2


@pytest.mark.parametrize(
    "wanted",
    [
        config("ordinary"),
        config(exchange="staged"),
        config(name="resident"),
        config("managed", name="hybrid"),
        config("managed", name="static"),
    ],
)
def test_nothing_is_tried_or_managed_where_it_would_not_help(tried, wanted):
    memory = TableMemory(wanted, GpuDevice(EmulatedCuda(manages=False), threads=1, say=pytest.fail))
    assert not memory.zeros(SHAPE, np.float32).any()
    assert (memory.name, memory.why, tried[1]) == ("ordinary", "", [])


def test_small_tables_are_ordinary_without_a_trial(monkeypatch):
    monkeypatch.setattr(table_memory, "random_reads_ms", pytest.fail)
    memory = TableMemory(config(), emulated_device())
    memory.zeros(SHAPE, np.float32)
    assert (memory.name, memory.why) == ("ordinary", "")


TABLE_BYTES = SHAPE[0] * SHAPE[1] * 4


@pytest.mark.parametrize("room", [0, -300])
def test_auto_tries_no_table_that_the_gpu_could_not_hold(tried, room):
    """Where just so much is free it is tried."""
    tried[0].extend([(10.0, 2.0), (1.0, 2.0)])
    memory = TableMemory(config(), emulated_device(memory_bytes=TABLE_BYTES + room))
    assert not memory.zeros(SHAPE, np.float32).any()
    if room == 0:
        assert (memory.name, len(tried[1])) == ("managed", 2)
    else:
        assert (memory.name, len(tried[1])) == ("ordinary", 0)
        assert memory.why == (
            "19.2 kB of rows are more than the 18.9 kB that are free on the GPU, beyond which managed memory has not "
            "been tried; `--host-memory managed` tries it"
        )


def test_managed_memory_that_is_asked_for_may_be_larger_than_the_gpu():
    memory = TableMemory(config("managed"), emulated_device(memory_bytes=512))
    assert not memory.zeros(SHAPE, np.float32).any()
    assert (memory.name, memory.why) == ("managed", "")


def test_rows_are_read_in_no_order(monkeypatch):
    read = []
    monkeypatch.setattr(table_memory, "gather_records", lambda stream, records, places, *_, **__: read.append(places))
    device = emulated_device()
    random_reads_ms(device, device.managed_zeros((256 * 50, 2)))
    on_host = [each for each in read if isinstance(each, np.ndarray)]
    assert [each.size for each in on_host] == [50] * 6
    assert all((np.diff(each) < 0).any() for each in on_host)
    assert len({each.tobytes() for each in on_host}) == 6


def test_the_cpu_has_ordinary_memory(tried):
    memory = TableMemory(config("managed"), CpuDevice(1))
    assert not memory.zeros(SHAPE, np.float32).any()
    assert (memory.name, memory.why) == ("ordinary", "")


@pytest.mark.parametrize("missing", [{"manages": False}, {"lockable": False}])
def test_auto_is_ordinary_where_one_kind_cannot_be_had(tried, missing):
    tried[0].append((10.0, 1.0))
    memory = TableMemory(config(), GpuDevice(EmulatedCuda(**missing), threads=1, say=pytest.fail))
    assert not memory.zeros(SHAPE, np.float32).any()
    assert memory.name == "ordinary"
    assert memory.why.startswith("not both kinds can be tried: ")


def test_where_there_is_no_room_for_all_of_the_table_it_is_ordinary_and_said(tried, monkeypatch):
    tried[0].extend([(10.0, 1.0), (1.0, 1.0)])
    said = []
    device = GpuDevice(EmulatedCuda(), threads=1, say=said.append)
    monkeypatch.setattr(table_memory, "MOST_TRIED_BYTES", 100 * 32)
    give = device.runtime.managed

    def managed(shape, dtype):
        if shape[0] > 100:
            raise DeviceMemoryError("no room")
        return give(shape, dtype)

    monkeypatch.setattr(device.runtime, "managed", managed)
    memory = TableMemory(config(), device)
    assert not memory.zeros(SHAPE, np.float32).any()
    assert (memory.name, memory.why, said) == ("ordinary", "", ["no room; the tables are in ordinary memory"])


@pytest.mark.parametrize("rows", [1, 100, 3000])
def test_random_reads_are_timed_in_both_kinds(gpu_device, rows):
    locked = gpu_device.host.zeros((rows, 8), np.float32)
    gpu_device.runtime.lock_pages(locked)
    assert min(random_reads_ms(gpu_device, locked)) > 0
    try:
        managed = gpu_device.managed_zeros((rows, 8))
    except DeviceMemoryError as error:
        pytest.skip(str(error))
    assert min(random_reads_ms(gpu_device, managed)) > 0
