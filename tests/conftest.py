"""Hypothesis and Ctrl-C for the whole suite: the same examples in every run, and no time limit on one of them.

CUPYREC_EXAMPLES=1000 looks further, wherever a test does not say how many examples it takes.
"""

import os
import shutil
import signal

import pytest
from cupyrec_threads import note_threads
from fake_memory_driver import compile_drivers
from gpu_devices import GPU_DEVICES, gpu_device_of
from hypothesis import settings

settings.register_profile(
    "cupyrec",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=int(os.environ.get("CUPYREC_EXAMPLES", "50")),
)
settings.load_profile("cupyrec")


@pytest.fixture(autouse=True, scope="session")
def interrupts_arrive():
    """Ctrl-C raises KeyboardInterrupt, even where the tests were started with SIGINT ignored, and no process inherits
    that SIGHUP is ignored: nohup does either.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    hang_up = signal.getsignal(signal.SIGHUP)
    if hang_up == signal.SIG_IGN:
        # As good as ignored here, and the default in processes that are started.
        signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGHUP, hang_up)


@pytest.fixture(autouse=True)
def threads_before():
    """Tests that look for threads which are left count none of earlier tests."""
    note_threads()


@pytest.fixture(params=GPU_DEVICES)
def gpu_device(request):
    """A GpuDevice: the emulated one, and a real one where there is one."""
    device = gpu_device_of(request.param)
    yield device
    device.synchronize()


@pytest.fixture(scope="session")
def memory_drivers(tmp_path_factory):
    """Paths of a new and of an old driver, as far as host memory goes."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ to compile a driver with")
    return compile_drivers(tmp_path_factory.mktemp("driver"))
