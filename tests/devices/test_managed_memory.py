"""Managed host memory: what the driver is asked for, and when it is settled and goes back."""

import gc
import threading

import numpy as np
import pytest
from fake_memory_driver import ADVISED, ALLOCATED, FREED, MANAGED, SETTLED, SIZE, FakeMemoryDriver

from cupyrec.devices.capturing import Capturing
from cupyrec.devices.managed_memory import ManagedMemory
from cupyrec.devices.memory_driver import HostMemoryError, MemoryDriver
from cupyrec.errors import DeviceMemoryError


@pytest.fixture
def driver(memory_drivers):
    return FakeMemoryDriver(memory_drivers["new"], MemoryDriver)


@pytest.fixture
def capturing():
    return Capturing()


@pytest.fixture
def memory(driver, capturing):
    return ManagedMemory(lambda: driver.calls, capturing)


@pytest.mark.parametrize("kind", ["new", "old"])
def test_calls_of_the_driver(memory_drivers, capturing, kind):
    """The old one knows no locations."""
    driver = FakeMemoryDriver(memory_drivers[kind], MemoryDriver)
    memory = ManagedMemory(lambda: driver.calls, capturing)
    array = memory.array(SIZE, np.uint8)
    array[:] = 7
    assert driver.noted() == [ALLOCATED, *ADVISED[kind]]
    memory.settle(array)
    memory.settle(array[5:])
    assert driver.noted() == [ALLOCATED, *ADVISED[kind], *SETTLED[kind]]  # once
    assert (array == 7).all()
    del array
    gc.collect()
    assert driver.noted() == [ALLOCATED, *ADVISED[kind], *SETTLED[kind], FREED]
    assert driver.left() == 0


def test_an_array_lives_as_long_as_its_views(driver, memory):
    array = memory.array((100, 3), np.float64)
    assert (array.shape, array.dtype) == ((100, 3), np.float64)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    array[:] = 1.5
    view = array[1:].reshape(-1)[5:]
    assert array in memory
    assert view in memory
    assert np.zeros(3) not in memory
    other = memory.array(4, np.int32)
    assert other in memory
    del array
    gc.collect()
    assert view.sum() == 1.5 * view.size
    assert FREED not in driver.noted()
    del view
    gc.collect()
    assert driver.noted()[-1] == FREED
    other[:] = 7
    assert other in memory
    del other
    gc.collect()
    assert driver.left() == 0
    # Else an array that is given the same place would count as made here.
    assert not memory._blocks


def test_each_array_is_settled_by_itself(driver, memory):
    arrays = [memory.array(SIZE, np.uint8) for _ in range(2)]
    for array in arrays:
        memory.settle(array)
    assert driver.noted()[-4:] == 2 * SETTLED["new"]


def test_an_array_of_nothing_takes_nothing(driver, memory):
    assert memory.array((0, 3), np.float32).shape == (0, 3)
    assert driver.noted() == []


def test_memory_freed_while_a_graph_is_captured_goes_back_after_it(driver, memory, capturing):
    arrays = [memory.array(3, np.float32)]
    with capturing.capture():
        arrays.clear()
        gc.collect()
        assert FREED not in driver.noted()
    assert driver.left() == 0


def test_nothing_is_taken_or_settled_while_another_thread_captures(driver, memory, capturing):
    arrays = [memory.array(3, np.float32)]
    before = driver.noted()
    works = (lambda: memory.array(3, np.int8)), (lambda: memory.settle(arrays[0]))
    threads = [threading.Thread(target=work) for work in works]
    with capturing.capture():
        for thread in threads:
            thread.start()
            thread.join(0.05)
            assert thread.is_alive()
        assert driver.noted() == before
    for thread in threads:
        thread.join()
    assert {"cuMemPrefetchAsync_v2", FREED} <= {call.split()[0] for call in driver.noted()}
    arrays.clear()
    gc.collect()
    assert driver.left() == 0


@pytest.mark.parametrize("refused", ["cuMemAllocManaged", "cuMemAdvise_v2"])
def test_memory_that_cannot_be_had_says_so(driver, memory, refused):
    driver.refuse(refused)
    with pytest.raises(
        DeviceMemoryError, match=rf"196.6 kB of managed memory .* {refused}: ERROR_OF_THE_TEST \(801\)$"
    ):
        memory.array(3 * 2**16, np.uint8)
    assert driver.left() == 0
    assert not memory._blocks


def test_the_error_is_that_of_the_advice_where_the_memory_does_not_go_back_either(driver, memory):
    driver.refuse("cuMemAdvise_v2", "cuMemFree_v2")
    with pytest.raises(DeviceMemoryError, match="cuMemAdvise_v2"):
        memory.array(3, np.uint8)


@pytest.mark.parametrize("answer", [0, None])
def test_host_and_gpu_must_be_able_to_use_it_at_the_same_time(driver, memory, answer):
    driver.library.note_nothing()  # and it knows no attribute
    if answer is not None:
        driver.library.answer(MANAGED, answer)
    with pytest.raises(DeviceMemoryError, match=r"12 B .*(at the same time|cuDeviceGetAttribute)"):
        memory.array(3, np.float32)
    assert driver.noted() == []


@pytest.mark.parametrize("refused", ["cuMemPrefetchAsync_v2", "cuCtxSynchronize"])
def test_a_driver_need_not_settle_it(driver, memory, refused):
    array = memory.array(3, np.float32)
    driver.refuse(refused)
    memory.settle(array)
    before = driver.noted()
    assert before[-1].startswith(refused)
    memory.settle(array)
    assert driver.noted() == before  # it is not asked again


def test_without_a_driver_it_says_so(capturing):
    memory = ManagedMemory(lambda: MemoryDriver("libno_such_driver.so.1"), capturing)
    with pytest.raises(DeviceMemoryError, match=r"12 B .* libno_such_driver"):
        memory.array(3, np.float32)


def test_a_driver_that_lacks_a_call(memory_drivers):
    with pytest.raises(HostMemoryError, match="the driver has no cuMemAdvise_v2"):
        MemoryDriver(memory_drivers["old"]).call("cuMemAdvise_v2")


@pytest.mark.parametrize("fails", ["driver", "context"])
def test_that_it_does_not_go_back_is_nobodys_error(driver, capturing, fails):
    contexts = [True] * 2

    def known_driver():
        if not contexts.pop():
            raise RuntimeError("cudaErrorCudartUnloading")
        return driver.calls

    memory = ManagedMemory(known_driver, capturing)
    array = memory.array(3, np.float32)
    address = array.ctypes.data
    if fails == "driver":
        driver.refuse(FREED)
    else:
        contexts[:] = [False]
    del array
    gc.collect()  # an error in a finalizer would be a warning, which is an error here
    assert contexts == []
    if fails == "driver":
        assert driver.noted()[-1] == FREED
    else:
        driver.calls.call(FREED, address)
    assert driver.left() == 0
