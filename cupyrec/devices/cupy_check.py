"""Whether there is a GPU that CupyRuntime can use, and if not, why."""

from __future__ import annotations

import importlib.util
import os

from cupyrec.devices.cublas import load_cublas
from cupyrec.errors import first_line

# Streams have priorities from this version on.
LEAST_CUPY = 14
LEAST_CAPABILITY = (7, 0)
# CUDA 13 compiles for none that is older.
LEAST_CAPABILITY_OF_CUDA_13 = (7, 5)
# Streams beyond CUDA's 8 queues to the GPU share one, and wait for each other without need; there are more than 8.
QUEUES_SETTING, MOST_QUEUES = "CUDA_DEVICE_MAX_CONNECTIONS", "32"


def why_no_gpu() -> str:
    """In one line why no GPU can be used, and what to do; empty where one can be."""
    if importlib.util.find_spec("cupy") is None:
        how = "pip install -e '.[cuda12]', or '.[cuda13]', as the driver allows"
        return f"CuPy is not installed; in a clone of cupyrec: {how}"
    # Read when CUDA begins.
    os.environ.setdefault(QUEUES_SETTING, MOST_QUEUES)
    try:
        import cupy

        if int(cupy.__version__.split(".")[0]) < LEAST_CUPY:
            return f"CuPy {cupy.__version__} is installed, but {LEAST_CUPY} is the oldest that will do"
        if not cupy.cuda.runtime.driverGetVersion():
            return "no NVIDIA driver is installed"
        if not cupy.cuda.runtime.getDeviceCount():
            return "there is no NVIDIA GPU"
        properties = cupy.cuda.runtime.getDeviceProperties(0)
    except ImportError as error:
        return f"CuPy cannot be loaded: {first_line(error)}"
    except RuntimeError as error:
        return f"the NVIDIA driver cannot be used: {first_line(error)}"
    capability = properties["major"], properties["minor"]
    is_cuda_13 = cupy.cuda.runtime.runtimeGetVersion() >= 13_000
    least = LEAST_CAPABILITY_OF_CUDA_13 if is_cuda_13 else LEAST_CAPABILITY
    if capability < least:
        shown, needed = (f"{major}.{minor}" for major, minor in (capability, least))
        with_cuda = " with CUDA 13" if is_cuda_13 else ""
        advice = "; cupyrec[cuda12] may do" if capability >= LEAST_CAPABILITY else ""
        return f"the GPU has compute capability {shown}, but {needed} is the least that will do{with_cuda}{advice}"
    try:
        load_cublas(cupy.cuda.cublas.__file__)
    except (ImportError, OSError) as error:
        return f"cuBLAS, a part of the CUDA toolkit, cannot be loaded: {first_line(error)}"
    return ""
