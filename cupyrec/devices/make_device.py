"""Devices by name."""

from __future__ import annotations

from collections.abc import Callable

from cupyrec.config import DEVICES
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.cupy_runtime import CupyRuntime, gpu_is_available, why_no_gpu
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

    Raises ConfigError, and DeviceError where a GPU is asked for and there is none.
    """
    if name not in DEVICES:
        raise ConfigError(f"unknown device {name!r}; choose {', '.join(DEVICES)}")
    if name == "cpu" or (name == "auto" and not gpu_is_available()):
        if precision != "fp32":
            raise ConfigError(f"the precision {precision} is for a GPU (--device gpu); the CPU multiplies in fp32")
        return CpuDevice(threads)
    if not gpu_is_available():
        raise DeviceError(f"there is no GPU to use: {why_no_gpu()}; --device cpu trains without one")
    return GpuDevice(CupyRuntime(), threads=threads, precision=precision, graphs=graphs, say=say)
