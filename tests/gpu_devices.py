"""The devices on which tests of the GPU run: the emulated one anywhere, a real one where there is one."""

import pytest
from emulated_cuda import EmulatedCuda

from cupyrec.devices.gpu import GpuDevice

GPU_DEVICES = ("emulated", pytest.param("cupy", marks=pytest.mark.gpu))


def emulated_device(order="as-queued", *, threads=1, precision="fp32", graphs=True, **runtime):
    """A GpuDevice over the emulation. runtime: see EmulatedCuda."""
    return GpuDevice(EmulatedCuda(order, **runtime), threads=threads, precision=precision, graphs=graphs)


def real_device(*, threads=1, precision="fp32", graphs=True):
    """A GpuDevice over CuPy; skips the test where there is none."""
    from cupyrec.devices.cupy_check import why_no_gpu
    from cupyrec.devices.cupy_runtime import CupyRuntime

    if reason := why_no_gpu():
        pytest.skip(reason)
    return GpuDevice(CupyRuntime(), threads=threads, precision=precision, graphs=graphs)


def gpu_device_of(kind, **options):
    """The device that a name of GPU_DEVICES stands for."""
    return emulated_device(**options) if kind == "emulated" else real_device(**options)
