"""Whether a driver creates host memory is found out by a process of its own, which may come to any end."""

import subprocess
from types import SimpleNamespace

import pytest
from fake_memory_driver import FakeMemoryDriver

from cupyrec.devices import created_probe
from cupyrec.devices.created_probe import create_a_little, tried
from cupyrec.devices.memory_driver import HostMemoryError, MemoryDriver


def fake(memory_drivers, kind):
    return FakeMemoryDriver(memory_drivers[kind], MemoryDriver)


def test_a_driver_that_creates_memory_is_taken(memory_drivers):
    driver = fake(memory_drivers, "new")
    assert tried(driver.calls) is driver.calls
    assert driver.noted() == []  # by the other process alone


def test_a_little_is_created_on_the_device_that_is_meant_and_given_back(memory_drivers):
    driver = fake(memory_drivers, "new")
    create_a_little(driver.calls.name, 5)
    assert driver.noted()[0] == "cuInit flags 0"
    assert "cuMemCreate 2097152 type 1 at 3:1 rest 0 flags 0" in driver.noted()
    assert driver.left() == 0
    with pytest.raises(HostMemoryError, match="cuCtxSetCurrent"):
        create_a_little(driver.calls.name, 4)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("crashing", "^a process that tried it was ended by SIGABRT$"), ("refusing", "cuMemCreate: ERROR_OF_THE_TEST")],
)
def test_a_driver_that_does_not_says_why(memory_drivers, kind, reason):
    with pytest.raises(HostMemoryError, match=reason):
        tried(fake(memory_drivers, kind).calls)


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("python", 60), OSError("no processes")])
def test_a_process_that_does_not_begin_or_end(memory_drivers, monkeypatch, error):
    def run(*_, **__):
        raise error

    monkeypatch.setattr(created_probe.subprocess, "run", run)
    with pytest.raises(HostMemoryError, match=r"the driver could not be tried: .*(60 seconds|no processes)"):
        tried(fake(memory_drivers, "new").calls)


def test_a_process_that_ends_badly_without_a_word(memory_drivers, monkeypatch):
    ended = SimpleNamespace(returncode=3, stderr=" \n")
    monkeypatch.setattr(created_probe.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(HostMemoryError, match="a process that tried it ended with 3"):
        tried(fake(memory_drivers, "new").calls)
