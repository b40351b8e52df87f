"""Tries whether CUDA's driver creates host memory, in a process of its own: there are drivers that crash at it.

Source: NVIDIA/nccl issue 2106, cuMemCreate at a node of the host before driver r595.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from ctypes import byref, c_int, c_void_p

from cupyrec.devices.created_memory import create_block
from cupyrec.devices.host_memory import HUGE_PAGE_BYTES
from cupyrec.devices.memory_driver import HostMemoryError, MemoryDriver

# To begin with CUDA takes a second or a few.
MOST_SECONDS = 60


def tried(driver: MemoryDriver) -> MemoryDriver:
    """The driver itself, once another process has created a little memory by it. The calling thread has a context.

    Raises HostMemoryError where that process came to no good end.
    """
    # It looks for modules where this one does, and not first in the current folder.
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
    command = [sys.executable, "-c", code, driver.name, str(driver.device())]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostMemoryError(f"the driver could not be tried: {error}") from error
    if ended.returncode < 0:
        raise HostMemoryError(f"a process that tried it was ended by {_name_of(-ended.returncode)}")
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"a process that tried it ended with {ended.returncode}"]
        raise HostMemoryError(lines[-1])
    return driver


def _name_of(number: int) -> str:
    known = {each.value: each.name for each in signal.Signals}
    return known.get(number, f"signal {number}")


def create_a_little(name: str, ordinal: int) -> None:
    """Create memory, write to it and give it back. ordinal: of the device. Raises HostMemoryError."""
    driver, device, context = MemoryDriver(name), c_int(), c_void_p()
    driver.call("cuInit", 0)
    driver.call("cuDeviceGet", byref(device), ordinal)
    driver.call("cuDevicePrimaryCtxRetain", byref(context), device)
    driver.call("cuCtxSetCurrent", context)
    block = create_block(driver, HUGE_PAGE_BYTES)
    ctypes.memset(block.address, 0, HUGE_PAGE_BYTES)
    block.give_back()


def main() -> None:
    """In the other process, whose arguments are the names of the driver and of the device."""
    try:
        create_a_little(sys.argv[1], int(sys.argv[2]))
    except HostMemoryError as error:
        sys.exit(str(error))
