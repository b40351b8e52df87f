"""Host memory that the driver creates: what it is asked for, and when it goes back."""

import ctypes
import gc
import threading

import numpy as np
import pytest
from fake_memory_driver import GRANULARITY, NODE, SIZE, UNDONE, FakeMemoryDriver, created_calls

from cupyrec.devices.capturing import Capturing
from cupyrec.devices.created_memory import CreatedMemory, create_block
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
    return CreatedMemory(lambda: driver.calls, capturing)


def write(block):
    """Let the host touch it."""
    ctypes.memset(block.address, 7, SIZE)
    assert ctypes.string_at(block.address, SIZE) == b"\7" * SIZE


@pytest.mark.parametrize(("node", "location"), [(1, "3:1"), (-1, "3:0"), (None, "3:0")])
def test_created(driver, node, location):
    driver.library.note_nothing()
    if node is not None:
        driver.library.answer(NODE, node)
    block = create_block(driver.calls, SIZE)
    write(block)
    assert block.facts["granularity_bytes"] == GRANULARITY
    assert (block.facts["location_type"], block.facts["location_id"]) == (3, max(node or 0, 0))
    block.give_back()
    assert driver.noted() == [*created_calls(location), *UNDONE]
    assert driver.left() == 0


def test_created_where_no_node_may_be_named(driver):
    driver.refuse(location=3)
    block = create_block(driver.calls, SIZE)
    write(block)
    assert block.facts["location_type"] == 2
    assert "location 3: cuMemCreate: ERROR_OF_THE_TEST (1)" in block.facts["refused"]
    block.give_back()
    first = [*created_calls("3:1")[:3], UNDONE[-1]]
    assert driver.noted() == [*first, *created_calls("2:0"), *UNDONE]
    assert driver.left() == 0


@pytest.mark.parametrize(
    ("refused", "undone"),
    [
        ("cuMemGetAllocationGranularity", 0),
        ("cuMemAddressReserve", 0),
        ("cuMemCreate", 1),
        ("cuMemMap", 2),
        ("cuMemSetAccess", 3),
    ],
)
def test_created_undoes_what_was_done_before_a_refusal(driver, refused, undone):
    driver.refuse(refused)
    with pytest.raises(HostMemoryError, match=f"{refused}: ERROR_OF_THE_TEST .801.*location 2"):
        create_block(driver.calls, SIZE)
    calls = []
    for location in ("3:1", "2:0"):
        all_calls = created_calls(location)
        done = next(at for at, call in enumerate(all_calls) if call.startswith(refused)) + 1
        calls += [*all_calls[:done], *UNDONE[len(UNDONE) - undone :]]
    assert driver.noted() == calls
    assert driver.left() == 0


def test_created_gives_the_rest_back_where_one_call_fails(driver):
    block = create_block(driver.calls, SIZE)
    driver.refuse("cuMemUnmap")
    with pytest.raises(HostMemoryError, match="cuMemUnmap"):
        block.give_back()
    assert driver.noted()[-3:] == UNDONE
    assert driver.left() == 0


def test_a_driver_that_is_not_there():
    with pytest.raises(HostMemoryError, match="libno_such_driver"):
        MemoryDriver("libno_such_driver.so.1")


def test_an_array_lives_as_long_as_its_views(driver, memory):
    array = memory.array((100, 3), np.float64)
    assert (array.shape, array.dtype, array.flags.c_contiguous, array.flags.writeable) == (
        (100, 3),
        np.float64,
        True,
        True,
    )
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
    assert "cuMemUnmap" not in str(driver.noted())
    del view
    gc.collect()
    assert [call.split()[0] for call in driver.noted()[-3:]] == ["cuMemUnmap", "cuMemRelease", "cuMemAddressFree"]
    other[:] = 7
    assert other in memory
    del other
    gc.collect()
    assert driver.left() == 0
    # Else an array that is given the same place would count as made here.
    assert not memory._owners


def test_an_array_of_nothing_takes_nothing(driver, memory):
    assert memory.array((0, 3), np.float32).shape == (0, 3)
    assert driver.noted() == []


def test_memory_freed_while_a_graph_is_captured_goes_back_after_it(driver, memory, capturing):
    arrays = [memory.array(3, np.float32)]
    with capturing.capture():
        arrays.clear()
        gc.collect()
        assert "cuMemUnmap" not in str(driver.noted())
    assert driver.left() == 0


def test_nothing_is_created_while_another_thread_captures(driver, memory, capturing):
    made = threading.Thread(target=lambda: memory.array(3, np.float32))
    with capturing.capture():
        made.start()
        made.join(0.05)
        assert made.is_alive()
        assert driver.noted() == []
    made.join()
    gc.collect()
    assert driver.left() == 0


def test_memory_that_cannot_be_had_says_so(driver, memory):
    driver.refuse("cuMemCreate")
    with pytest.raises(DeviceMemoryError, match=r"196.6 kB of host .* cuMemCreate: ERROR_OF_THE_TEST .*CUDA 12\.2"):
        memory.array(3 * 2**16, np.uint8)
    assert driver.left() == 0


def test_without_a_driver_it_says_so(capturing):
    memory = CreatedMemory(lambda: MemoryDriver("libno_such_driver.so.1"), capturing)
    with pytest.raises(DeviceMemoryError, match=r"12 B .* libno_such_driver"):
        memory.array(3, np.float32)


def test_that_it_does_not_go_back_is_nobodys_error(driver, memory):
    array = memory.array(3, np.float32)
    driver.refuse("cuMemUnmap", "cuMemRelease")
    del array
    gc.collect()  # an error in a finalizer would be a warning, which is an error here
    assert driver.noted()[-1].startswith("cuMemAddressFree")
