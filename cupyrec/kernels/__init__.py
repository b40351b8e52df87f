"""CUDA sources, one operation a file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from cupyrec.devices.cuda_kernel import CudaKernel


def source_path(name: str) -> Path:
    """Where the source of a kernel file is: `dense_update` names dense_update.cu. Raises FileNotFoundError."""
    folder = Path(__file__).parent
    path = folder / f"{name}.cu"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in folder.glob("*.cu")))
        raise FileNotFoundError(f"no kernel file {name}.cu; there are: {known}")
    return path


@cache
def kernel(file: str, name: str, **defines: int) -> CudaKernel:
    """A kernel of a file, to be launched on a GpuStream; it is compiled when it is first launched.

    file: `embedding_bag` names embedding_bag.cu; defines: the constants that it is compiled for.
    Raises FileNotFoundError.
    """
    return CudaKernel(source_path(file), name, tuple(sorted(defines.items())))
