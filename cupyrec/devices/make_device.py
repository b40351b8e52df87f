"""Devices by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from cupyrec.config import DEVICES
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.cupy_check import why_no_gpu
from cupyrec.devices.cupy_runtime import CupyRuntime
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice
from cupyrec.errors import ConfigError, DeviceError


def make_device(
    name: str,
    *,
    threads: int | None = None,
    precision: str = "fp32",
    graphs: bool = True,
    say: Callable[[str], None] | None = None,
) -> Device:
    """name: cpu, gpu, or auto, which is the GPU where there is one. The others: see CpuDevice and GpuDevice.

    say: is told, too, why `auto` uses no GPU. Raises ConfigError, and DeviceError where a GPU is asked for and there is
    none.
    """
    if name not in DEVICES:
        raise ConfigError(f"unknown device {name!r}; choose {', '.join(DEVICES)}")
    reason = "" if name == "cpu" else why_no_gpu()
    if name == "gpu" and reason:
        raise DeviceError(f"there is no GPU to use: {reason}; --device cpu trains without one")
    if name == "cpu" or reason:
        if precision != "fp32":
            raise ConfigError(f"the precision {precision} is for a GPU (--device gpu); the CPU multiplies in fp32")
        # Who has no CuPy does not expect one to be used.
        if reason and say is not None and importlib.util.find_spec("cupy") is not None:
            say(f"no GPU is used: {reason}")
        return CpuDevice(threads)
    return GpuDevice(CupyRuntime(), threads=threads, precision=precision, graphs=graphs, say=say)
