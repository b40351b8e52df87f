"""Matrix products by cuBLAS, called through ctypes.

CuPy's own calls refuse to be captured in a CUDA graph, and give cuBLAS the stream anew each time, by which it loses the
workspace that it was given. The library is the one that CuPy has loaded.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from ctypes import c_int, c_size_t, c_void_p
from functools import partial
from typing import Any

from cupyrec.errors import DeviceError

# What cuBLAS recommends for the newest GPUs (Hopper); older ones need an eighth of it.
WORKSPACE_BYTES = 32 * 2**20
# cublasComputeType_t: sums are float32; how the factors are rounded. Source: cublas_api.h.
COMPUTE_TYPES = {"fp32": 68, "tf32": 77, "bf16": 75}
# cublasOperation_t, cudaDataType_t and cublasGemmAlgo_t, by their names there.
OP_N, OP_T, R_32F, GEMM_DEFAULT = 0, 1, 0, -1
STATUS_NAMES = {
    1: "NOT_INITIALIZED",
    3: "ALLOC_FAILED",
    7: "INVALID_VALUE",
    8: "ARCH_MISMATCH",
    11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED",
    14: "INTERNAL_ERROR",
    15: "NOT_SUPPORTED",
    16: "LICENSE_ERROR",
}
PROTOTYPES: dict[str, list[Any]] = {
    "cublasCreate_v2": [c_void_p],
    "cublasDestroy_v2": [c_void_p],
    "cublasSetStream_v2": [c_void_p, c_void_p],
    "cublasSetWorkspace_v2": [c_void_p, c_void_p, c_size_t],
    "cublasGemmEx": [
        c_void_p,  # handle
        *[c_int] * 5,  # transa, transb, m, n, k
        *[c_void_p, c_void_p, c_int, c_int],  # alpha; A, its type and leading dimension
        *[c_void_p, c_int, c_int],  # B
        *[c_void_p, c_void_p, c_int, c_int],  # beta; C
        *[c_int, c_int],  # compute type, algorithm
    ],
}


def load_cublas(extension_path: str) -> Any:
    """cuBLAS as a ctypes library. extension_path: CuPy's own extension that is linked against it."""
    library = ctypes.CDLL(extension_path)
    for name, argument_types in PROTOTYPES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = argument_types, c_int
    return library


class Cublas:
    """A handle of cuBLAS for one stream, with a workspace of its own: results do not depend on other streams.

    One thread at a time may use it.
    """

    def __init__(
        self, library: Any, stream: Any, workspace: Any, as_soon_as_can_be: Callable[[Callable[[], None]], None]
    ) -> None:
        """stream: CuPy's; workspace: a device array; both are kept for as long as the handle.

        as_soon_as_can_be: is given the end of the handle, which waits for the device.
        """
        self._library = library
        self._handle = c_void_p()
        # Read on the host by each call.
        self._alpha, self._beta = ctypes.c_float(1), ctypes.c_float(0)
        self._ones = ctypes.addressof(self._alpha), ctypes.addressof(self._beta)
        _check(library.cublasCreate_v2(ctypes.byref(self._handle)))
        end = partial(_destroy, library, self._handle, stream, workspace)
        weakref.finalize(self, as_soon_as_can_be, end).atexit = False
        # In this order: the choice of a stream takes the workspace away.
        _check(library.cublasSetStream_v2(self._handle, stream.ptr))
        _check(library.cublasSetWorkspace_v2(self._handle, workspace.data.ptr, workspace.nbytes))

    def matmul(self, A: Any, B: Any, out: Any, precision: str) -> None:
        """Queue out[:] = A @ B, as CudaRuntime.matmul. Raises DeviceError."""
        sizes, factors = gemm_arguments(A, B, out)
        (first, first_columns), (second, second_columns) = factors
        alpha, beta = self._ones
        _check(
            self._library.cublasGemmEx(
                self._handle,
                *sizes,
                *(alpha, first, R_32F, first_columns),
                *(second, R_32F, second_columns),
                *(beta, out.data.ptr, R_32F, out.shape[1]),
                *(COMPUTE_TYPES[precision], GEMM_DEFAULT),
            )
        )


def gemm_arguments(A: Any, B: Any, out: Any) -> tuple[tuple[int, int, int, int, int], list[tuple[int, int]]]:
    """What gemm takes for out = A @ B: (transa, transb, m, n, k), and (pointer, leading dimension) of both factors.

    cuBLAS counts by columns: an array in C order is to it the transpose, so it is asked for out.T = B.T @ A.T, and what
    it has to transpose is what is not in C order here. Raises ValueError.
    """
    if out.shape != (A.shape[0], B.shape[1]) or A.shape[1] != B.shape[0] or not out.flags.c_contiguous:
        raise ValueError(f"a product of {A.shape} and {B.shape} into {out.shape}")
    if any(array.dtype != "float32" for array in (A, B, out)):
        raise ValueError(f"a product of {A.dtype} and {B.dtype} into {out.dtype}; all must be float32")
    factors, operations = [], []
    for array in (B, A):
        in_order = array.flags.c_contiguous
        if not in_order and not array.T.flags.c_contiguous:
            raise ValueError(f"a factor {array.shape} that is neither C-contiguous nor the transpose of such")
        operations.append(OP_N if in_order else OP_T)
        factors.append((array.data.ptr, max(1, array.shape[1] if in_order else array.shape[0])))
    return (operations[0], operations[1], out.shape[1], out.shape[0], A.shape[1]), factors


def _destroy(library: Any, handle: c_void_p, *_kept: Any) -> None:
    # Nobody is left whom an error would help.
    library.cublasDestroy_v2(handle)


def _check(status: int) -> None:
    if status:
        raise DeviceError(f"cuBLAS failed: CUBLAS_STATUS_{STATUS_NAMES.get(status, status)}")
