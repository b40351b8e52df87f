"""Kernels compiled by CuPy, each once for each set of constants."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

from cupyrec.devices.capturing import Capturing
from cupyrec.devices.cuda_kernel import CudaKernel
from cupyrec.devices.cupy_errors import in_our_errors
from cupyrec.errors import DeviceError


class CompiledKernels:
    """The kernels of one GPU. Any thread may ask."""

    def __init__(self, cupy: Any, capturing: Capturing) -> None:
        self._cupy, self._lock, self._capturing = cupy, threading.RLock(), capturing
        self._modules: dict[tuple[Any, ...], Any] = {}
        self._kernels: dict[CudaKernel, Any] = {}

    @in_our_errors
    def function(self, kernel: CudaKernel) -> int:
        """The driver's handle of a kernel. Raises DeviceError."""
        compiled = self._kernels.get(kernel)
        if compiled is None:
            # In this order: a thread that captures asks for what is compiled, and needs no lock for it.
            with self._capturing.between(), self._lock:
                compiled = self._kernels.get(kernel) or self._compiled(kernel)
        return compiled.kernel.ptr

    def _compiled(self, kernel: CudaKernel) -> Any:
        """A kernel of CuPy, loaded too."""
        key = kernel.path, kernel.defines
        if key not in self._modules:
            options = ("--std=c++17", "-lineinfo", *kernel.options)
            self._modules[key] = self._cupy.RawModule(code=source_of(kernel), options=options)
        try:
            self._kernels[kernel] = self._modules[key].get_function(kernel.name)
        except self._cupy.cuda.compiler.CompileException as error:
            raise DeviceError(f"{kernel} cannot be compiled: {first_compile_error(str(error))}") from error
        return self._kernels[kernel]


def source_of(kernel: CudaKernel) -> str:
    """The source of a kernel for CuPy, which keeps compiled code on disk and asks by the source, not by its headers."""
    headers = sorted(kernel.path.parent.glob("*.cuh"))
    digest = hashlib.sha256(b"".join(header.read_bytes() for header in headers)).hexdigest()
    return f'// headers {digest}\n#line 1 "{kernel.path.name}"\n{kernel.path.read_text(encoding="utf-8")}'


def first_compile_error(log: str) -> str:
    """The first error of a compiler's log, which names file and line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "the compiler does not say why")
